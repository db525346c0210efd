package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
)

func declared(t definition.Table) definition.Source {
	return definition.Source{Type: definition.SourceTable, Table: &t}
}

// Everything that would make a reader lose events, or read them twice or wrong, is found before the first read, and named.
func TestWhatIsWrongWithATableIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		sql  string
		edit func(*definition.Table)
		want string
	}{
		"no such table":           {edit: func(o *definition.Table) { o.Name = "public.Outbox" }, want: "has no table public.Outbox"},
		"a view":                  {sql: "CREATE VIEW seen AS SELECT * FROM outbox", edit: func(o *definition.Table) { o.Name = "public.seen" }, want: "not a plain table"},
		"a table with children":   {sql: "CREATE TABLE child () INHERITS (outbox)", want: "not a plain table"},
		"unlogged":                {sql: "ALTER TABLE outbox SET UNLOGGED", want: `ALTER TABLE "public"."outbox" SET LOGGED`},
		"no such column":          {edit: func(o *definition.Table) { o.Columns.Stream = "stream" }, want: "table.columns.stream: public.outbox has no column stream"},
		"a column that was":       {sql: "ALTER TABLE outbox DROP COLUMN aggregate CASCADE", want: "has no column aggregate"},
		"null":                    {sql: "ALTER TABLE outbox ALTER COLUMN type DROP NOT NULL", want: `ALTER TABLE "public"."outbox" ALTER COLUMN "type" SET NOT NULL`},
		"another type":            {edit: func(o *definition.Table) { o.Data.Type = definition.PayloadLargeObject }, want: "table.data: the column payload has the type jsonb, and can have oid"},
		"a position of text":      {edit: func(o *definition.Table) { o.Columns.Position = "type" }, want: "table.columns.position: the column type has the type varchar"},
		"positions not unique":    {sql: "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey", want: "no unique index on id alone"},
		"positions unique in use": {sql: "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey; CREATE UNIQUE INDEX ON outbox (id) WHERE number > 0", want: "no unique index on id alone"},
		"not prepared":            {sql: "ALTER TABLE outbox DROP COLUMN txid", want: "has no column txid: run `sluice source prepare`"},
		"another txid":            {sql: "ALTER TABLE outbox DROP COLUMN txid, ADD COLUMN txid bigint", want: "type int8, and has to be xid8"},
		"a txid without default":  {sql: "ALTER TABLE outbox ALTER COLUMN txid DROP DEFAULT", want: "has not the default pg_current_xact_id()"},
		"a txid that may be null": {sql: "ALTER TABLE outbox ALTER COLUMN txid DROP NOT NULL", want: "txid may be null"},
		"no index":                {sql: "DROP INDEX sluice_outbox_txid", want: "no valid index on (txid, (id + 0))"},
		"another index":           {sql: "DROP INDEX sluice_outbox_txid; CREATE INDEX ON outbox (txid, id)", want: "no valid index on (txid, (id + 0))"},
		"an index of some":        {sql: "DROP INDEX sluice_outbox_txid; CREATE INDEX ON outbox (txid, (id + 0)) WHERE id > 7", want: "no valid index on (txid, (id + 0))"},
		"no sequence":             {sql: "ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT", want: "table.positions: Inserted needs a column id that takes its default from a sequence"},
		"a sequence with a cache": {sql: "ALTER SEQUENCE outbox_id_seq CACHE 20", want: "outbox_id_seq has CACHE 20, INCREMENT 1, CYCLE false: ALTER SEQUENCE public.outbox_id_seq CACHE 1"},
		"a sequence downwards":    {sql: "ALTER SEQUENCE outbox_id_seq INCREMENT -1 MINVALUE -1000", want: "INCREMENT -1"},
		"a position of 0":         {sql: "INSERT INTO outbox (id, aggregate, number, type) VALUES (0, 'a', 1, 'T')", want: "positions below 1"},
		"rows from elsewhere":     {sql: "INSERT INTO outbox (aggregate, number, type, txid) VALUES ('a', 1, 'T', '900000000')", want: "restored or copied"},
	} {
		t.Run(name, func(t *testing.T) {
			db := database(t)
			exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
			prepare(t, db, outbox)
			mapping := outbox
			if err := postgres.CheckTable(t.Context(), db, mapping); err != nil {
				t.Fatalf("before: %v", err)
			}
			if test.sql != "" {
				exec(t, db, test.sql, pgx.QueryExecModeSimpleProtocol)
			}
			if test.edit != nil {
				test.edit(&mapping)
			}
			var invalid *eventsource.InvalidError
			if err := postgres.Open(db, schema, declared(mapping)).Check(t.Context()); !errors.As(err, &invalid) || !strings.Contains(invalid.Problem, test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

// Nothing is proved of gaps between partitions.
func TestPartitionsAreReadByTheirTransactions(t *testing.T) {
	on := partitionedOutbox(t, "HASH", "WITH (MODULUS 1, REMAINDER 0)")
	without := outbox
	without.Columns.Transaction = ""
	if err := postgres.CheckTable(t.Context(), on.db, without); err == nil || !strings.Contains(err.Error(), "table.columns.transaction: public.outbox is in partitions") {
		t.Errorf("got %v", err)
	}
}

// A partition need not be what its table is.
func TestPartitionsThatCannotBeReadAreRefused(t *testing.T) {
	for want, partition := range map[string]string{
		"not logged": "CREATE UNLOGGED TABLE outbox_9 PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
		"nor one of plain partitions": `CREATE FOREIGN DATA WRAPPER none; CREATE SERVER other FOREIGN DATA WRAPPER none; ALTER TABLE outbox DROP CONSTRAINT outbox_pkey;
			CREATE FOREIGN TABLE outbox_9 PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1) SERVER other`,
	} {
		on := partitionedOutbox(t, "HASH", "WITH (MODULUS 2, REMAINDER 0)")
		exec(t, on.db, "DROP INDEX sluice_outbox_txid")
		exec(t, on.db, partition)
		if err := on.source.Check(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// What a role must not see is not read past.
func TestATableThatTheRoleDoesNotSeeWholeIsRefused(t *testing.T) {
	db := database(t)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	prepare(t, db, outbox)
	exec(t, db, `DROP ROLE IF EXISTS table_reader`)
	exec(t, db, `CREATE ROLE table_reader`)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	check := func(want string) {
		t.Helper()
		exec(t, conn, "SET ROLE table_reader")
		err := postgres.CheckTable(t.Context(), conn, outbox)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
		exec(t, conn, "RESET ROLE")
	}
	check("may not read public.outbox")
	for _, grant := range postgres.Preparation(outbox).Grants(outbox, "table_reader") {
		exec(t, conn, grant)
	}
	check("")
	exec(t, conn, "ALTER TABLE outbox ENABLE ROW LEVEL SECURITY")
	check("row level security")
	exec(t, conn, "DROP OWNED BY table_reader")
}

// The column is added without a rewrite, and although another transaction holds the table for a while; an index that was left unfinished is made anew.
func TestPreparingDoesNotRewriteAndMayBeRepeated(t *testing.T) {
	db := database(t)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	exec(t, db, "SELECT outbox_append('a' || n, 2) FROM generate_series(1, 500) AS n")
	file := func() (node int) {
		t.Helper()
		if err := db.QueryRow(t.Context(), "SELECT relfilenode::bigint FROM pg_class WHERE oid = 'outbox'::regclass").Scan(&node); err != nil {
			t.Fatal(err)
		}
		return node
	}
	before := file()
	holder, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), "SELECT outbox_append('held', 3)"); err != nil {
		t.Fatal(err)
	}
	ended := time.AfterFunc(700*time.Millisecond, func() { holder.Commit(context.Background()) })
	defer ended.Stop()
	prepare(t, db, outbox)
	if file() != before {
		t.Error("the table was rewritten")
	}
	exec(t, db, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sluice_outbox_txid'::regclass")
	prepare(t, db, outbox)
	if err := postgres.CheckTable(t.Context(), db, outbox); err != nil {
		t.Error(err)
	}
	told := 0
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := postgres.Prepare(t.Context(), conn.Conn(), outbox, func(string) { told++ }); err != nil || told > 0 {
		t.Errorf("the third time %d commands, error %v", told, err)
	}
	r := newTableReader(t, db, outbox)
	if n := len(r.next(2000).Events); n != 1003 {
		t.Errorf("%d events of 1,003", n)
	}
}

func newTableReader(t testing.TB, db postgres.DB, mapping definition.Table) *reader {
	t.Helper()
	return newReader(t, postgres.Open(db, schema, declared(mapping)), progress.StartPosition{Type: progress.Earliest})
}

// A token of one table is none of another, nor of another column.
func TestTokensAreOfTheirTable(t *testing.T) {
	db := database(t)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	prepare(t, db, outbox)
	exec(t, db, "SELECT outbox_append('a', 3)")
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, type, data) VALUES ('a', 1, 'T', '{}')`)
	other := outbox
	other.Columns.Position, other.Positions, other.Order = "number", definition.PositionsReserved, definition.OrderNone
	exec(t, db, "CREATE UNIQUE INDEX ON outbox (number)")
	exec(t, db, "CREATE INDEX ON outbox (txid, (number + 0))")
	sources := map[string]*postgres.Source{"own": postgres.NewSource(db, schema), "outbox": postgres.Open(db, schema, declared(outbox)), "number": postgres.Open(db, schema, declared(other))}
	for name, source := range sources {
		start, err := source.Start(t.Context(), progress.StartPosition{Type: progress.Latest})
		if err != nil {
			t.Fatal(err)
		}
		coverage, err := source.Parse(start)
		if err != nil || coverage.Progress() != start {
			t.Fatalf("%s does not read what it has written: %v, error %v", name, coverage, err)
		}
		for reading, by := range sources {
			if reading == name {
				continue
			}
			var invalid *eventsource.InvalidError
			if _, err := by.Parse(start); !errors.As(err, &invalid) {
				t.Errorf("%s takes progress %v of %s: %v", reading, start, name, err)
			}
			if _, err := by.Union(start, start); !errors.As(err, &invalid) {
				t.Errorf("%s computes with progress of %s: %v", reading, name, err)
			}
			if _, err := by.Read(t.Context(), []eventsource.Coverage{coverage}, nil, 1); !errors.As(err, &invalid) {
				t.Errorf("%s reads from a coverage of %s: %v", reading, name, err)
			}
		}
		empty, err := source.Parse(progress.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		if page, err := source.Read(t.Context(), []eventsource.Coverage{empty}, nil, 10); err != nil || len(page.Events) == 0 {
			t.Errorf("%s from nothing: %d events, error %v", name, len(page.Events), err)
		}
	}
}
