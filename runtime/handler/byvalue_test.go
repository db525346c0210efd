package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// eventTable is a table that events are read from, and how they are written to it.
type eventTable struct {
	create string
	insert string            // of stream, number, type, data, metadata and time
	table  *definition.Table // nil for Sluice's own
	// anyJSON says that data and metadata may be JSON that jsonb cannot hold.
	anyJSON bool
	// nullable says that data and metadata may be NULL.
	nullable bool
}

// outbox is a table of a user's with payloads of a type.
func outbox(payload, content, column, value string) eventTable {
	return eventTable{
		create: fmt.Sprintf(`CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate varchar(100) NOT NULL, number bigint NOT NULL,
			kind text NOT NULL, body %s, headers %[1]s, at timestamptz NOT NULL)`, column),
		insert: fmt.Sprintf(`INSERT INTO outbox (aggregate, number, kind, body, headers, at) VALUES ($1, $2, $3, %s, %s, $6)`,
			fmt.Sprintf(value, "$4::text"), fmt.Sprintf(value, "$5::text")),
		table: &definition.Table{Name: "public.outbox", Positions: definition.PositionsInserted, Order: definition.OrderNone,
			Columns:  definition.TableColumns{Position: "id", Stream: "aggregate", Type: "kind", RecordedAt: "at"},
			Data:     definition.Payload{Column: "body", Type: payload, Content: content},
			Metadata: &definition.Payload{Column: "headers", Type: payload, Content: content}},
		anyJSON:  payload != definition.PayloadJSONB,
		nullable: true,
	}
}

var eventTables = map[string]eventTable{
	"Sluice's table": {insert: `INSERT INTO sluice.event (stream_id, version, type, data, metadata, recorded_at)
		VALUES ($1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6)`},
	"jsonb":  outbox(definition.PayloadJSONB, definition.ContentJSON, "jsonb", "%s::jsonb"),
	"json":   outbox(definition.PayloadJSON, definition.ContentJSON, "json", "%s::json"),
	"text":   outbox(definition.PayloadText, definition.ContentJSON, "text", "%s"),
	"bytea":  outbox(definition.PayloadBytea, definition.ContentJSON, "bytea", "convert_to(%s, 'UTF8')"),
	"a text": outbox(definition.PayloadText, definition.ContentText, "text", "%s"),
	"bytes":  outbox(definition.PayloadBytea, definition.ContentBase64, "bytea", "convert_to(%s, 'UTF8')"),
}

// pieces are what strings are made of, and unstorable those that JSON may have and jsonb may not.
var (
	pieces = []string{"a", " ", `\"`, `\\`, `\/`, "é", `\u00e9`, "😀", `\ud83d\ude00`, `\n`, "\u2028", "\x7f", "{", "}", ",", "'", "NULL", "$1", "%s", "--"}

	unstorable = []string{`\u0000`, `\ud800`, `\udc00`}

	numbers = []string{"0", "-0", "1.50", "-1e300", "1E-10", "123456789012345678901234567890.5", "0.10e+1"}
)

// jsonText draws a JSON text.
func jsonText(t *rapid.T, anyJSON bool, depth int) string {
	kinds := []string{"null", "true", "number", "string", "long string", "array", "object"}
	if depth == 0 {
		kinds = kinds[:4]
	}
	several := func() []int { return make([]int, rapid.IntRange(0, 3).Draw(t, "several")) }
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case "number":
		return rapid.SampledFrom(numbers).Draw(t, "number")
	case "string":
		return jsonString(t, anyJSON)
	case "long string":
		return `"` + strings.Repeat(rapid.SampledFrom(pieces).Draw(t, "piece"), rapid.IntRange(1, 30_000).Draw(t, "length")) + `"`
	case "array":
		var all []string
		for range several() {
			all = append(all, jsonText(t, anyJSON, depth-1))
		}
		return "[" + strings.Join(all, " , ") + "]"
	case "object":
		var all []string
		for range several() {
			all = append(all, jsonString(t, anyJSON)+": "+jsonText(t, anyJSON, depth-1))
		}
		return "\t{" + strings.Join(append(all, all...), ",\n") + "} " // with each key twice
	default:
		return kind
	}
}

func jsonString(t *rapid.T, anyJSON bool) string {
	of := pieces
	if anyJSON && rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
		of = slices.Concat(pieces, unstorable)
	}
	return `"` + strings.Join(rapid.SliceOfN(rapid.SampledFrom(of), 0, 5).Draw(t, "pieces"), "") + `"`
}

// times are at the ends of what a timestamptz can be, and between.
var times = []pgtype.Timestamptz{
	{InfinityModifier: pgtype.Infinity, Valid: true},
	{InfinityModifier: pgtype.NegativeInfinity, Valid: true},
	{Time: time.Date(-4712, 1, 1, 0, 0, 0, 0, time.UTC), Valid: true},
	{Time: time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC), Valid: true},
	{Time: time.Date(2024, 2, 29, 12, 30, 0, 123_456_000, time.FixedZone("", 3600)), Valid: true},
	{Time: time.Date(9999, 12, 31, 23, 59, 59, 999_998_000, time.UTC), Valid: true},
	{Time: time.Date(294_276, 12, 31, 23, 59, 59, 999_999_000, time.UTC), Valid: true},
}

// twoDatabases are one with events and one without, with a table for what statements see in each.
type twoDatabases struct {
	pool          *pgxpool.Pool // to the one with events
	with, without *pgx.Conn

	table  eventTable
	source *eventspostgres.Source
	way    Events // in the database with events
	read   eventsource.Coverage
	number int64 // of the last event that was written
}

func newTwoDatabases(t testing.TB, table eventTable) *twoDatabases {
	t.Helper()
	ctx := context.Background()
	connect := func(url string) *pgx.Conn {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(ctx) })
		return conn
	}
	url := postgrestest.New(t)
	d := &twoDatabases{table: table, with: connect(url), without: connect(postgrestest.New(t))}
	var err error
	if d.pool, err = pgxpool.New(ctx, url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.pool.Close)
	if _, err := postgres.Migrate(ctx, d.with, "sluice"); err != nil {
		t.Fatal(err)
	}
	for conn, create := range map[*pgx.Conn]string{d.with: table.create, d.without: ""} {
		if _, err := conn.Exec(ctx, create+`; CREATE TABLE seen (n bigserial, what text, types text)`, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	declared := definition.Source{Type: definition.SourceStore}
	if table.table != nil {
		declared = definition.Source{Type: definition.SourceTable, Table: table.table}
	}
	d.source = eventspostgres.Open(d.pool, "sluice", declared)
	if err := d.source.Check(ctx); err != nil {
		t.Fatal(err)
	}
	d.way = Events{Join: eventspostgres.JoinEvents("sluice", declared), At: eventspostgres.EventsAt("sluice", declared), Table: table.table}
	start, err := d.source.Start(ctx, progress.StartPosition{Type: progress.Earliest})
	if err != nil {
		t.Fatal(err)
	}
	if d.read, err = d.source.Parse(start); err != nil {
		t.Fatal(err)
	}
	return d
}

// byValue is the way to the same events in the other database.
func (d *twoDatabases) byValue() Events { return Events{ByValue: true, Table: d.table.table} }

// fatal is what tests and properties have in common.
type fatal interface{ Fatal(args ...any) }

// write writes an event. Data and metadata that are nil are NULL.
func (d *twoDatabases) write(t fatal, stream, kind string, data, metadata *string, at pgtype.Timestamptz) {
	d.number++
	if _, err := d.with.Exec(context.Background(), d.table.insert, stream, d.number, kind, data, metadata, at); err != nil {
		t.Fatal(err)
	}
}

// next reads what was written since it was called last, as far as it can be read.
func (d *twoDatabases) next(t fatal, n int) (all []*Event) {
	for got := 0; got < n; {
		page, err := d.source.Read(context.Background(), []eventsource.Coverage{d.read}, nil, 1000)
		if err != nil {
			t.Fatal(err)
		}
		got += len(page.Events)
		all, d.read = append(all, page.Events...), page.After(d.read, nil)
	}
	return slices.DeleteFunc(all, func(e *Event) bool { return e.Unreadable != nil })
}

// seen runs statements over events, and returns what they have written.
func seen(t fatal, conn *pgx.Conn, way Events, statements []definition.Statement, events []*Event) (rows [][2]string, state string) {
	ctx := context.Background()
	err := NewSQL(definition.SQLHandler{Statements: statements}, way).Apply(ctx, alone{conn: conn}, events)
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return nil, server.Code
	}
	if err != nil {
		t.Fatal(err)
	}
	found, err := conn.Query(ctx, "WITH gone AS (DELETE FROM seen RETURNING *) SELECT what, types FROM gone ORDER BY n")
	if err == nil {
		rows, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (columns [2]string, err error) {
			return columns, row.Scan(&columns[0], &columns[1])
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return rows, ""
}

// typesOfColumns are those that a statement finds, with the collations of texts.
const typesOfColumns = `concat_ws(' ', pg_typeof(position), pg_typeof(stream_id), pg_collation_for(stream_id), pg_typeof(type), pg_collation_for(type),
	pg_typeof(data), pg_typeof(metadata), pg_typeof(recorded_at), pg_typeof(replay), pg_typeof(replay_context), pg_typeof(ordinal))`

// observers write down what they find: all columns with their names; the same where events are read
// twice; and no data.
var observers = []string{
	`INSERT INTO seen (what, types) SELECT row_to_json(e), ` + typesOfColumns + ` FROM %[1]s e`,
	`INSERT INTO seen (what, types) SELECT row_to_json(e), ` + typesOfColumns + ` FROM %[1]s e WHERE ordinal <= (SELECT count(*) FROM %[1]s)`,
	`INSERT INTO seen (what, types) SELECT concat_ws(' ', ordinal, position, stream_id, type, recorded_at, replay, replay_context), '' FROM %[1]s`,
	`INSERT INTO seen (what, types) SELECT metadata, concat(data ->> 'a', data #>> '{}') FROM %[1]s`,
}

// TestAStatementSeesTheSameEventsEitherWay has a statement look events up where they are, and get
// them by value where they are not.
func TestAStatementSeesTheSameEventsEitherWay(t *testing.T) {
	for name, table := range eventTables {
		t.Run(name, func(t *testing.T) {
			d := newTwoDatabases(t, table)
			rapid.Check(t, func(t *rapid.T) {
				text := func(name string) *string {
					if table.nullable && rapid.IntRange(0, 4).Draw(t, name+" is NULL") == 0 {
						return nil
					}
					drawn := jsonText(t, table.anyJSON, 3)
					return &drawn
				}
				n := rapid.IntRange(1, 8).Draw(t, "events")
				for range n {
					d.write(t, rapid.SampledFrom([]string{"x", "Ärger 😀", "NULL", `{"a",b}\`}).Draw(t, "stream"), rapid.SampledFrom([]string{"A", "B"}).Draw(t, "type"),
						text("data"), text("metadata"), rapid.SampledFrom(times).Draw(t, "time"))
				}
				all := d.next(t, n)
				if len(all) == 0 {
					t.Skip("none of them can be read")
				}
				context := rapid.SampledFrom([]map[string]string{nil, {"why": "so \u0001 😀"}}).Draw(t, "context")
				again := rapid.SampledFrom([]string{"none", "all", "some"}).Draw(t, "again")
				for _, e := range all {
					if again == "all" || again == "some" && rapid.Bool().Draw(t, "this one") {
						e.Replay = &Replay{ID: "r", Context: context}
					}
				}
				if rapid.Bool().Draw(t, "in another order") {
					all = rapid.Permutation(all).Draw(t, "order")
				}
				var statements []definition.Statement
				for range rapid.IntRange(1, 2).Draw(t, "statements") {
					text, types := rapid.SampledFrom(observers).Draw(t, "statement"), rapid.SampledFrom([][]string{nil, {"A"}}).Draw(t, "types")
					if rapid.Bool().Draw(t, "each") {
						statements = append(statements, definition.Statement{Each: fmt.Sprintf(text, eventName), EventTypes: types})
					} else {
						statements = append(statements, definition.Statement{Batch: fmt.Sprintf(text, eventsName), EventTypes: types})
					}
				}
				want, failed := seen(t, d.with, d.way, statements, all)
				got, state := seen(t, d.without, d.byValue(), statements, all)
				if state != failed {
					t.Fatalf("by value it fails with SQLSTATE %q, and by join with %q", state, failed)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("by join, and by value: %s", diff)
				}
			})
		})
	}
}

// TestWhatJSONBCannotHoldIsTheEventsFault has data that are JSON, and that PostgreSQL refuses.
func TestWhatJSONBCannotHoldIsTheEventsFault(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	mapping := outbox(definition.PayloadText, definition.ContentJSON, "text", "%s").table
	for name, test := range map[string]struct {
		data    string
		advised bool // about the mapping
	}{
		"NUL":                     {`{"a": "\u0000"}`, true},
		"half of a pair":          {`{"a": "\ud800"}`, true},
		"bytes that are no UTF-8": {"{\"a\": \"\xff\"}", true},
		"a number too large":      {`{"a": 1e1000000}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if !json.Valid([]byte(test.data)) {
				t.Fatal("vacuous: it is no JSON, so no handler gets it")
			}
			all := events("x:A y:A z:A")
			all[1].Data = json.RawMessage(test.data)
			for text, batch := range map[string][]*Event{"batch": all, "each": all, "one": all[1:2]} {
				statement := definition.Statement{Batch: "SELECT count(data) FROM events"}
				if text == "each" {
					statement = definition.Statement{Each: "SELECT count(data) FROM event"}
				}
				err := sqlHandler(Events{ByValue: true, Table: mapping}, statement).Apply(ctx, alone{conn: conn}, batch)
				kind, reason := Classify(err, postgres.Errors{})
				if err == nil || kind != tokenstore.EventFault || reason != ReasonFailed {
					t.Errorf("%s: %s %s: %v", text, kind, reason, err)
				}
				if index, known := Culprit(err, batch); text != "batch" && (!known || batch[index] != all[1]) {
					t.Errorf("%s: the event is not known: %v", text, err)
				}
				if mapped := errors.As(err, new(*MappingError)); mapped != test.advised {
					t.Errorf("%s: advice about the mapping: %t, want %t: %v", text, mapped, test.advised, err)
				}
			}
		})
	}
}

// By value the source has read an event's time, so that a text which is no time is none of the
// mapping's.
func TestATimeIsNotTheMappingsFaultByValue(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	mapping := outbox(definition.PayloadText, definition.ContentJSON, "text", "%s").table
	h := sqlHandler(Events{ByValue: true, Table: mapping}, definition.Statement{Each: "SELECT (data ->> 'at')::timestamptz FROM event"})
	all := events("x:A")
	all[0].Data = json.RawMessage(`{"at": "yesterday morning"}`)
	err = h.Apply(ctx, alone{conn: conn}, all)
	if err == nil || errors.As(err, new(*MappingError)) {
		t.Errorf("%v", err)
	}
}

// A statement that reads no data passes over data that it cannot read.
func TestDataThatAreNotReadAreNotParsed(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	all := events("x:A y:A")
	all[1].Data = json.RawMessage(`"\u0000"`)
	h := sqlHandler(Events{ByValue: true}, definition.Statement{Batch: "SELECT metadata FROM events"}, definition.Statement{Each: "SELECT stream_id FROM event"})
	for range 6 { // the server makes plans for any parameters then
		if err := h.Apply(ctx, alone{conn: conn}, all); err != nil {
			t.Fatal(err)
		}
		if err := h.Apply(ctx, alone{conn: conn}, all[1:]); err != nil {
			t.Fatal(err)
		}
	}
}

// Events by value are in the server's memory already. A batch that is larger than work_mem must not
// be written to a temporary file: a limit on those would fail it however often it is tried.
func TestALargeBatchByValueNeedsNoTemporaryFile(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SET work_mem = '64kB'; SET temp_file_limit = 0"); err != nil {
		t.Fatal(err)
	}
	all := events(strings.Repeat("x:A ", 100))
	for _, e := range all {
		e.Data = json.RawMessage(`{"text": "` + strings.Repeat("x", 10_000) + `"}`)
	}
	h := sqlHandler(Events{ByValue: true}, definition.Statement{Batch: "SELECT sum(length(data ->> 'text')) FROM events"})
	if err := h.Apply(ctx, alone{conn: conn}, all); err != nil {
		t.Error(err)
	}
}

// By value an event without data is one of a page that was read without them. Statements would take
// NULL for the truth.
func TestEventsThatWereReadWithoutTheirDataAreRefusedByValue(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE seen (position bigint)"); err != nil {
		t.Fatal(err)
	}
	all := events("x:A y:A z:A")
	all[1].Data = nil
	h := sqlHandler(Events{ByValue: true}, definition.Statement{Batch: "INSERT INTO seen SELECT position FROM events"})
	err = h.Apply(ctx, alone{conn: conn}, all)
	if err == nil || !strings.Contains(err.Error(), "the event at position 2 was read without its data") {
		t.Errorf("it is handled: %v", err)
	}
	if kind, _ := Classify(err, postgres.Errors{}); kind != tokenstore.InfrastructureFault {
		t.Errorf("it is evidence against the event: %s", kind)
	}
	var seen int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM seen").Scan(&seen); err != nil || seen > 0 {
		t.Errorf("%d events had an effect (%v)", seen, err)
	}
}

// BenchmarkEvents has a statement fold events of a usual size, by join and by value.
func BenchmarkEvents(b *testing.B) {
	const stored = 10_000
	d := newTwoDatabases(b, eventTables["Sluice's table"])
	ctx := context.Background()
	if _, err := d.with.Exec(ctx, `INSERT INTO sluice.event (stream_id, version, type, data)
		SELECT 'account-' || n % 100, n, 'Booked', jsonb_build_object('amount', n, 'text', repeat('x', 200)) FROM generate_series(1, $1::bigint) n`, stored); err != nil {
		b.Fatal(err)
	}
	if _, err := d.with.Exec(ctx, "CREATE TABLE account (id text PRIMARY KEY, amount numeric NOT NULL) WITH (fillfactor = 50); ANALYZE sluice.event",
		pgx.QueryExecModeSimpleProtocol); err != nil {
		b.Fatal(err)
	}
	all := d.next(b, stored)
	statement := definition.Statement{Batch: `INSERT INTO account SELECT stream_id, sum((data ->> 'amount')::numeric) FROM events GROUP BY stream_id ORDER BY stream_id
		ON CONFLICT (id) DO UPDATE SET amount = account.amount + EXCLUDED.amount`}
	for _, n := range []int{1, 10, 250} {
		for _, way := range []Events{d.way, d.byValue()} {
			b.Run(fmt.Sprintf("byValue=%t/events=%d", way.ByValue, n), func(b *testing.B) {
				h, from := NewSQL(definition.SQLHandler{Statements: []definition.Statement{statement}}, way), 0
				for b.Loop() {
					if err := h.Apply(ctx, alone{conn: d.with}, all[from:from+n]); err != nil {
						b.Fatal(err)
					}
					from = (from + n) % (stored - 250)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
			})
		}
	}
}
