package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

var (
	latest = progress.StartPosition{Type: progress.Latest}
)

const insertEvent = "INSERT INTO outbox (aggregate, number, type, payload) VALUES (gen_random_uuid(), 1, 'Happened', '{}')"

func serialTable(t testing.TB) *subject { return withoutTransactions["serial"](t) }

// begin starts a transaction that has done what the statements say.
func begin(t testing.TB, on *subject, statements ...string) (*pgx.Conn, pgx.Tx) {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), on.db.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range statements {
		exec(t, conn, statement)
	}
	return conn, tx
}

// What the proof rests on is so in this server: who takes a number holds the sequence's lock to the end, whatever happens in between.
func TestWhoTakesANumberHoldsTheSequencesLock(t *testing.T) {
	for table, make := range map[string]string{"serial": "serial", "identity": "identity"} {
		for name, c := range map[string]struct {
			statements []string
			holders    int
		}{
			"an insert":                           {[]string{insertEvent}, 1},
			"nextval alone":                       {[]string{"SELECT nextval(pg_get_serial_sequence('outbox', 'id'))"}, 1},
			"an insert that was undone":           {[]string{"SAVEPOINT a", insertEvent, "ROLLBACK TO a"}, 1},
			"an insert after a savepoint":         {[]string{"SAVEPOINT a", insertEvent, "RELEASE a"}, 1},
			"an insert in a block that failed":    {[]string{"DO $$ BEGIN " + insertEvent + "; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END $$"}, 1},
			"no insert":                           {[]string{"SELECT count(*) FROM outbox"}, 0},
			"a look at the sequence":              {[]string{"SELECT last_value FROM outbox_id_seq"}, 0},
			"a lock of the table":                 {[]string{"LOCK TABLE outbox IN ROW EXCLUSIVE MODE"}, 0},
			"an insert with the session's number": {[]string{"SELECT nextval(pg_get_serial_sequence('outbox', 'id'))", "DECLARE c CURSOR FOR SELECT 1"}, 1},
		} {
			t.Run(table+"/"+name, func(t *testing.T) {
				on := withoutTransactions[make](t)
				holders := func(want int, when string) {
					t.Helper()
					_, ids, err := on.source.Round(t.Context())
					if err != nil || len(ids) != want {
						t.Fatalf("%s: %v hold the lock (%v), want %d", when, ids, err, want)
					}
				}
				conn, _ := begin(t, on, c.statements...)
				holders(c.holders, "while it runs")
				exec(t, conn, "PREPARE TRANSACTION 'one'")
				holders(c.holders, "when it is prepared")
				exec(t, conn, "COMMIT PREPARED 'one'")
				holders(0, "at the end")
			})
		}
	}
}

// A gap stays open as long as its writer is, and is closed by what the writer does; others are closed meanwhile, where it is known that the writer does nothing.
func TestGapsAreClosedBehindAnOpenWriter(t *testing.T) {
	on := serialTable(t)
	exec(t, on.db, insertEvent)
	r := newReader(t, on.source, earliest, segment.Root)
	r.next(10)
	conn, open := begin(t, on, insertEvent)
	rollBack := func() {
		_, tx := begin(t, on, insertEvent)
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	gaps := func() int { return postgres.Steps(r.coverage) - 1 }
	for range 5 {
		rollBack()
		exec(t, on.db, insertEvent)
		on.source.ProveAgain()
		r.next(10)
	}
	for range 3 {
		on.source.ProveAgain()
		r.next(10)
	}
	if gaps() == 0 || gaps() > 3 {
		t.Errorf("%d gaps are open while one writer is, which has done nothing for five others", gaps())
	}
	exec(t, conn, insertEvent) // it is not still now
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	page := r.next(10)
	if len(page.Events) != 2 || page.Events[0].Position != 2 {
		t.Fatalf("what it has written is %+v", page.Events)
	}
	for range 3 {
		on.source.ProveAgain()
		r.next(10)
	}
	if gaps() != 0 {
		t.Errorf("%d gaps are open when no writer is: %+v", gaps(), r.coverage.Progress())
	}
}

// Wherever a reader starts, it is given what becomes visible later, and nothing that it starts behind.
func TestAReaderOfGapsStartsAtAPlace(t *testing.T) {
	for name, make := range withoutTransactions {
		t.Run(name, func(t *testing.T) {
			on := make(t)
			insert := func(n int) {
				for range n {
					exec(t, on.db, insertEvent)
				}
			}
			insert(3)
			_, early := begin(t, on, insertEvent)
			insert(3)
			_, late := begin(t, on, insertEvent)
			insert(3)
			var positions []int64
			rows, err := on.db.Query(t.Context(), "SELECT id::bigint FROM outbox ORDER BY id")
			if err != nil {
				t.Fatal(err)
			}
			if positions, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
				t.Fatal(err)
			}
			readers := map[string]*reader{
				"latest":   newReader(t, on.source, latest, segment.Root),
				"earliest": newReader(t, on.source, earliest, segment.Root),
				"position": newReader(t, on.source, progress.StartPosition{Type: progress.AtPosition, Position: fmt.Sprint(positions[4])}, segment.Root),
			}
			want := map[string]int{"latest": 2 + 2, "earliest": 9 + 2 + 2, "position": 5 + 2 + 2}
			if err := errors.Join(early.Commit(t.Context()), late.Commit(t.Context())); err != nil {
				t.Fatal(err)
			}
			insert(2)
			for name, r := range readers {
				got := 0
				for more := true; more; {
					page := r.next(3)
					got, more = got+len(page.Events), len(page.Events) > 0
				}
				if got != want[name] {
					t.Errorf("from %s it is given %d events, want %d", name, got, want[name])
				}
			}
		})
	}
}

// Whoever goes on for a reader with gaps needs no transactions for it, and is exact also in the middle of one.
func TestWhoGoesOnForAReaderWithGapsKeepsItsGaps(t *testing.T) {
	on := serialTable(t)
	goOnForReadersWithGaps(t, on, 40, func() { on.source = outboxSubject(on.db, unaltered(definition.PositionsInserted, "")).source })
}

// Reading stops at the limit of gaps, says why, and goes on when the writer has ended.
func TestTooManyGapsAreWaitedFor(t *testing.T) {
	on := serialTable(t)
	_, open := begin(t, on, insertEvent)
	// Every second position is a hole, of somebody who cannot be told from the writer that is open.
	exec(t, on.db, `INSERT INTO outbox (aggregate, number, type) SELECT n, 1, 'Happened' FROM generate_series(1, 10000) AS n WHERE nextval('outbox_id_seq') > 0`)
	r := newReader(t, on.source, earliest, segment.Root)
	given := 0
	read := func() error {
		for {
			page, err := on.source.Read(t.Context(), []eventsource.Coverage{r.coverage}, nil, 1000)
			if err != nil {
				return err
			}
			given += len(page.Events)
			r.coverage = page.After(r.coverage, nil)
			if len(page.Events) == 0 {
				return nil
			}
		}
	}
	if err := read(); !errors.Is(err, postgres.ErrTooManyGaps) {
		t.Fatalf("after %d events the error is %v", given, err)
	}
	began := time.Now()
	for range 10 {
		read()
	}
	t.Logf("a read that looks at %d gaps takes %v, and the token has %d bytes", postgres.Steps(r.coverage), time.Since(began)/10, len(r.coverage.Progress().State))
	if size := len(r.coverage.Progress().State); given < 8000 || given > 8192 || size > 20_000 {
		t.Errorf("it stopped after %d events, with a token of %d bytes", given, size)
	}
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		on.source.ProveAgain()
		if err := read(); err != nil && !errors.Is(err, postgres.ErrTooManyGaps) {
			t.Fatal(err)
		}
	}
	if given != 10_001 || postgres.Steps(r.coverage) != 1 {
		t.Errorf("it was given %d events, and has %d ranges", given, postgres.Steps(r.coverage))
	}
}

// Both arms of a page walk the index of positions, whatever PostgreSQL plans for, and however many gaps there are.
func TestReadingGapsUsesTheIndexOfPositions(t *testing.T) {
	url := migrated(t, schema)
	db := pool(t, url)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	exec(t, db, "INSERT INTO outbox (aggregate, number, type, payload) SELECT n, 1, 'Happened', '{}' FROM generate_series(1, 200000) AS n")
	exec(t, db, "VACUUM ANALYZE outbox")
	source := outboxSubject(db, unaltered(definition.PositionsInserted, "")).source
	var many []int64
	for n := range int64(5000) {
		many = append(many, 7*n+1)
	}
	sql := strings.NewReplacer("$3", "$4", "$4", "$5").Replace(source.ReadSQL()) // as explain's parameters are
	for name, args := range map[string][]any{
		"at the head":    {[]int64{}, []int64{}, int64(199_990), 500},
		"from the start": {[]int64{}, []int64{}, int64(0), 500},
		"few gaps":       {[]int64{100, 90_000}, []int64{100, 90_050}, int64(199_990), 500},
		"many gaps":      {many, many, int64(199_990), 500},
	} {
		for _, mode := range planned {
			t.Run(name+" "+mode, func(t *testing.T) {
				plan := explain(t, url, mode, sql, pageKinds, []any{args[0], args[1], []string{}, args[2], args[3], 0, 0, []byte{}})
				if strings.Contains(plan, "Seq Scan on outbox e") || strings.Count(plan, "Index Scan using outbox_pkey on outbox e") != 2 {
					t.Error(plan)
				}
			})
		}
	}
}

// earlyInOrder is a mapping of a table whose positions are taken early, in the order of the numbers.
func earlyInOrder(t *definition.Table) {
	t.Positions, t.Order = definition.PositionsTransaction, definition.OrderStream
}

// A table is refused where gaps cannot be proved, with what to change.
func TestATableWhoseGapsCannotBeProved(t *testing.T) {
	for name, c := range map[string]struct {
		alter  string
		change func(*definition.Table)
		want   string
	}{
		"blocks of numbers":     {"ALTER SEQUENCE outbox_id_seq CACHE 20", nil, "table.positions: without columns.transaction, Inserted needs a sequence that gives each number out for itself, and public.outbox_id_seq has CACHE 20"},
		"steps of fifty":        {"ALTER SEQUENCE outbox_id_seq INCREMENT 50", nil, "INCREMENT 50"},
		"a cycle":               {"ALTER SEQUENCE outbox_id_seq CYCLE", nil, "CYCLE true"},
		"no sequence":           {"ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT", nil, "table.sequence: without columns.transaction the sequence has to be known"},
		"another sequence":      {"", func(t *definition.Table) { t.Sequence = "public.none" }, "table.sequence: the store's database has no sequence public.none"},
		"reserved, no sequence": {"ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT", func(t *definition.Table) { t.Positions = definition.PositionsReserved }, ""},
		"in the transaction":    {"ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT", func(t *definition.Table) { t.Positions = definition.PositionsTransaction }, "table.sequence: without"},
		"in it, by a sequence": {"ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT", func(t *definition.Table) {
			t.Positions, t.Sequence = definition.PositionsTransaction, "public.outbox_id_seq"
		}, ""},
		"in order, without the index":              {"ALTER TABLE outbox DROP CONSTRAINT outbox_aggregate_number_key", earlyInOrder, "table.order: to give a stream's events in the order of their numbers, public.outbox needs a unique index on (aggregate, number)"},
		"in order, by an index that is not unique": {"ALTER TABLE outbox DROP CONSTRAINT outbox_aggregate_number_key; CREATE INDEX ON outbox (aggregate, number)", earlyInOrder, "needs a unique index on (aggregate, number)"},
		"in order, by one the other way round":     {"ALTER TABLE outbox DROP CONSTRAINT outbox_aggregate_number_key; CREATE UNIQUE INDEX ON outbox (number, aggregate)", earlyInOrder, "needs a unique index on (aggregate, number)"},
		"in order, by numbers that may be null":    {"ALTER TABLE outbox ALTER COLUMN number DROP NOT NULL", earlyInOrder, "table.columns.version: the column number may be null"},
		"in order, by an index downwards":          {"ALTER TABLE outbox DROP CONSTRAINT outbox_aggregate_number_key; CREATE UNIQUE INDEX ON outbox (aggregate, number DESC) INCLUDE (type)", earlyInOrder, ""},
		"in no order, without the index": {"ALTER TABLE outbox DROP CONSTRAINT outbox_aggregate_number_key", func(t *definition.Table) {
			earlyInOrder(t)
			t.Order = definition.OrderNone
		}, ""},
		"in it, by another's one": {"ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT; ALTER SEQUENCE blocks CACHE 5", func(t *definition.Table) { t.Positions, t.Sequence = definition.PositionsTransaction, "public.blocks" }, "public.blocks has CACHE 5"},
	} {
		t.Run(name, func(t *testing.T) {
			db := database(t)
			exec(t, db, createOutbox+";"+c.alter, pgx.QueryExecModeSimpleProtocol)
			mapping := outbox
			mapping.Columns.Transaction = ""
			if c.change != nil {
				c.change(&mapping)
			}
			err := postgres.CheckTable(t.Context(), db, mapping)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// What is granted to workers lets them read a table, and the sequence that its gaps are proved by.
func TestWorkersMayReadTheSequence(t *testing.T) {
	for name, sequence := range map[string]string{"named": "public.outbox_id_seq", "the column's own": ""} {
		t.Run(name, func(t *testing.T) {
			db := database(t)
			exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
			mapping := unaltered(definition.PositionsInserted, sequence)
			role := strings.ReplaceAll(strings.ToLower("Worker_"+t.Name()), "/", "'") // needs quotes
			exec(t, db, "CREATE ROLE "+pgx.Identifier{role}.Sanitize())
			conn, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			check := func() error {
				exec(t, conn.Conn(), "SET ROLE "+pgx.Identifier{role}.Sanitize())
				defer exec(t, conn.Conn(), "RESET ROLE")
				return postgres.CheckTable(t.Context(), conn.Conn(), mapping)
			}
			grants := postgres.Preparation(mapping).Grants(mapping, role)
			for _, grant := range grants[:2] {
				exec(t, db, grant)
			}
			if err := check(); err == nil || !strings.Contains(err.Error(), "GRANT SELECT ON SEQUENCE public.outbox_id_seq") {
				t.Errorf("before it is granted: %v", err)
			}
			exec(t, db, grants[2])
			if err := check(); err != nil {
				t.Error(err)
			}
		})
	}
}
