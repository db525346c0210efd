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
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// ways are those in which statements get their events.
var ways = map[string]Events{
	"by join": {
		Join: `JOIN "sluice".event e ON e.position = r.position`,
		At:   `(SELECT * FROM "sluice".event t WHERE t.position = ANY ($1::bigint[])) AS e`,
	},
	"by value": {ByValue: true},
}

// eachWay runs a test once for each way.
func eachWay(t *testing.T, test func(t *testing.T, way Events)) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { test(t, way) })
	}
}

func sqlHandler(way Events, statements ...definition.Statement) *SQL {
	return NewSQL(definition.SQLHandler{Statements: statements}, way)
}

func on(eventType string) definition.Statement {
	return definition.Statement{EventTypes: []string{eventType}, Batch: "SELECT"}
}

func events(list string) []*Event {
	var all []*Event
	for i, word := range strings.Fields(list) {
		stream, eventType, _ := strings.Cut(word, ":")
		all = append(all, &Event{Position: int64(i + 1), StreamID: stream, Type: eventType, Hash: segment.PG1(stream), Data: json.RawMessage("{}")})
	}
	return all
}

// run is a call as tests name it.
type run struct {
	Statement int
	Positions []int64
}

func at(statement int, positions ...int64) run { return run{statement, positions} }

func runs(calls []call) (all []run) {
	for _, c := range calls {
		all = append(all, run{c.statement, positionsOf(c.events)})
	}
	return all
}

func TestABatchIsCutIntoRounds(t *testing.T) {
	for name, test := range map[string]struct {
		statements []definition.Statement
		events     string
		want       []run
	}{
		"one statement takes all": {[]definition.Statement{on("A")}, "x:A y:A x:A", []run{at(0, 1, 2, 3)}},
		"opened, closed, opened of one stream": {[]definition.Statement{on("O"), on("C")}, "x:O x:C x:O",
			[]run{at(0, 1), at(1, 2), at(0, 3)}},
		"of two streams": {[]definition.Statement{on("O"), on("C")}, "x:O x:C y:O y:C", []run{at(0, 1, 3), at(1, 2, 4)}},
		"a type that two statements want": {[]definition.Statement{on("A"), {EventTypes: []string{"A", "B"}, Batch: "SELECT"}}, "x:A x:B x:A",
			[]run{at(0, 1), at(1, 1, 2), at(0, 3), at(1, 3)}},
		"each": {[]definition.Statement{{EventTypes: []string{"A"}, Each: "SELECT"}}, "x:A y:A", []run{at(0, 1), at(0, 2)}},
	} {
		t.Run(name, func(t *testing.T) {
			got := runs(sqlHandler(Events{}, test.statements...).plan(events(test.events)))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// sequenceKeys are all sequencings, with the key of an event in words of the test's own; empty
// where nothing is in order.
var sequenceKeys = map[segment.Sequencing]func(e *Event, customer, tenant int) string{
	{Type: segment.Stream, Hash: segment.HashPG1}:                            func(e *Event, _, _ int) string { return e.StreamID },
	{Type: segment.Stream, Hash: segment.HashJava}:                           func(e *Event, _, _ int) string { return e.StreamID },
	{Type: segment.Property, Property: "customer.id", Hash: segment.HashPG1}: func(_ *Event, customer, _ int) string { return fmt.Sprint(customer) },
	{Type: segment.Property, Property: "missing", Hash: segment.HashPG1}:     func(e *Event, _, _ int) string { return e.StreamID },
	{Type: segment.Metadata, Metadata: "tenant", Hash: segment.HashJava}:     func(_ *Event, _, tenant int) string { return fmt.Sprint(tenant) },
	{Type: segment.Sequential, Hash: segment.HashPG1}:                        func(*Event, int, int) string { return "all" },
	{Type: segment.Broadcast, Hash: segment.HashPG1}:                         func(*Event, int, int) string { return "all" },
	{Type: segment.Concurrent, Hash: segment.HashPG1}:                        func(e *Event, _, _ int) string { return e.ID },
}

// effects are the runs of statements over single events, in their order.
func effects(calls []call) (all []string) {
	for _, c := range calls {
		for _, e := range c.events {
			all = append(all, fmt.Sprint(c.statement, "@", e.Position))
		}
	}
	return all
}

func TestWithinASequenceStatementsRunInTheOrderOfTheEvents(t *testing.T) {
	types := rapid.SampledFrom([]string{"A", "B", "C"})
	for by, keyOf := range sequenceKeys {
		t.Run(by.String(), rapid.MakeCheck(func(t *rapid.T) {
			var statements []definition.Statement
			for range rapid.IntRange(1, 4).Draw(t, "statements") {
				s := definition.Statement{Batch: "SELECT", EventTypes: rapid.SliceOfNDistinct(types, 1, 3, rapid.ID[string]).Draw(t, "types")}
				if rapid.Bool().Draw(t, "each") {
					s.Batch, s.Each = "", s.Batch
				}
				statements = append(statements, s)
			}
			h := sqlHandler(Events{}, statements...)
			var batch []*Event
			of := map[string][]*Event{} // by key
			for i := range rapid.IntRange(1, 12).Draw(t, "events") {
				customer, tenant := rapid.IntRange(1, 2).Draw(t, "customer"), rapid.IntRange(1, 2).Draw(t, "tenant")
				e := &Event{Position: int64(i + 1), ID: fmt.Sprint("event-", i), Type: types.Draw(t, "type"), StreamID: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "stream"),
					Data: fmt.Appendf(nil, `{"customer": {"id": %d}}`, customer), Metadata: fmt.Appendf(nil, `{"tenant": %d}`, tenant)}
				e.Hash = by.Of(e.Fields())
				if h.Wants(e.Type) {
					batch = append(batch, e)
					key := keyOf(e, customer, tenant)
					of[key] = append(of[key], e)
				}
			}
			// What a sequence sees has to be what it would see were its events handled one by one.
			got := effects(h.plan(batch))
			for key, own := range of {
				var want []string
				for _, e := range own {
					want = append(want, effects(h.plan([]*Event{e}))...)
				}
				its := slices.DeleteFunc(slices.Clone(got), func(effect string) bool { return !slices.Contains(want, effect) })
				if diff := cmp.Diff(want, its); diff != "" {
					t.Fatalf("sequence %s: %s", key, diff)
				}
			}
		}))
	}
}

func TestEventsComeBeforeAnyStatement(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE events (mine int); CREATE TABLE seen (position bigint);
			CREATE TABLE sluice.event (position bigint, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz);
			INSERT INTO sluice.event (position) VALUES (1), (2), (3)`); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{
			"INSERT INTO seen SELECT position FROM events",
			"insert into seen select position from events; \n",
			"-- a comment; with a semicolon\n/* and /* another */ one */ INSERT INTO seen SELECT position FROM events",
			"WITH /* the tree */ RECURSIVE up AS (SELECT position FROM events WHERE position = 1 UNION ALL SELECT position + 2 FROM up WHERE position < 3) INSERT INTO seen SELECT position FROM up",
			"WITH -- the tree\nRECURSIVE -- of /* it\rup AS (SELECT position FROM events WHERE position = 1 UNION ALL SELECT position + 2 FROM up WHERE position < 3) INSERT INTO seen SELECT position FROM up",
			"WITH/* a /* b */ c */recursive/**/\"up\" AS (SELECT position FROM events WHERE position = 1 UNION ALL SELECT position + 2 FROM up WHERE position < 3) INSERT INTO seen SELECT position FROM up",
			"WITH recursive AS (SELECT position FROM events) INSERT INTO seen SELECT position FROM recursive",
			"WITH recursive (n) AS (SELECT position FROM events) INSERT INTO seen SELECT n FROM recursive",
			"WITH \"RECURSIVE\" AS (SELECT position FROM events) INSERT INTO seen SELECT position FROM \"RECURSIVE\"",
			"WITH recursive_1 AS (SELECT position FROM events) INSERT INTO seen SELECT position FROM recursive_1",
			"WITH recursiveé AS (SELECT position FROM events) INSERT INTO seen SELECT position FROM recursiveé",
			"WITH U&\"d!0061t!+000061\" UESCAPE '!' AS (SELECT position FROM events) INSERT INTO seen SELECT position FROM data",
			"WITH\"twice\"AS (SELECT position FROM events) INSERT INTO seen SELECT position FROM twice -- the end; of it",
			"-- ends with a carriage return\rINSERT INTO seen SELECT position FROM events /* $1 */ -- $2",
			"INSERT INTO seen SELECT position FROM events WHERE '$1' <> E'\\'$2' AND $q$ $3 ' $q$ <> '' AND $$ $4 $$ <> U&'$1'",
			"INSERT INTO seen SELECT position AS \"$1\" FROM events WHERE position IS NOT NULL /* $1 /* $2 */ $3 */",
			"WITH twice AS (SELECT position FROM events) INSERT INTO seen SELECT position FROM twice",
			"with recursive up AS (SELECT position FROM events WHERE position = 1 UNION ALL SELECT position + 2 FROM up WHERE position < 3) INSERT INTO seen SELECT position FROM up",
			"MERGE INTO seen s USING events e ON s.position = e.position WHEN NOT MATCHED THEN INSERT VALUES (e.position)",
		} {
			h := sqlHandler(way, definition.Statement{EventTypes: []string{"A"}, Batch: text})
			if err := check(ctx, conn, h); err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			if _, err := conn.Prepare(ctx, "", h.statements[0].alone); err != nil {
				t.Errorf("%s: of one event: %v", text, err)
			}
			for again := range 2 { // of the two
				both := events("x:A x:A")
				both[1].Position = 3
				if again > 0 {
					both[0].Replay = &Replay{ID: "r"}
				}
				if err := h.Apply(ctx, alone{conn: conn}, both); err != nil {
					t.Errorf("%s: %v", text, err)
				}
				var sum int
				if err := conn.QueryRow(ctx, "WITH gone AS (DELETE FROM seen RETURNING position) SELECT coalesce(sum(position), 0) FROM gone").Scan(&sum); err != nil || sum != 4 {
					t.Errorf("%s: it saw positions that add up to %d, want 1 + 3 (%v)", text, sum, err)
				}
			}
		}
	})
}

// Where writers take positions early, events do not come by position; a statement can tell.
func TestABatchTellsTheOrderOfItsEvents(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE sluice.event (position bigint PRIMARY KEY, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz);
			INSERT INTO sluice.event (position) SELECT n FROM generate_series(1, 9) n;
			CREATE TABLE seen (asked text, stood text); CREATE TABLE alone (n bigint)`); err != nil {
			t.Fatal(err)
		}
		h := sqlHandler(way, definition.Statement{EventTypes: []string{"A"},
			Batch: "INSERT INTO seen SELECT string_agg(position::text, ' ' ORDER BY ordinal), string_agg(position::text, ' ') FROM events"},
			definition.Statement{EventTypes: []string{"A"}, Each: "INSERT INTO alone SELECT ordinal FROM event"})
		all := events("w:A x:A y:A z:A")
		for i, position := range []int64{7, 2, 9, 4} {
			all[i].Position = position
		}
		if err := h.Apply(ctx, alone{conn: conn}, all); err != nil {
			t.Fatal(err)
		}
		var asked, asTheyStand, ones string
		err = conn.QueryRow(ctx, `SELECT asked, stood, (SELECT string_agg(n::text, ' ') FROM alone) FROM seen`).Scan(&asked, &asTheyStand, &ones)
		if err != nil || asked != "7 2 9 4" || asTheyStand != asked {
			t.Errorf("events were ordered %q, and stood as %q (%v), want 7 2 9 4", asked, asTheyStand, err)
		}
		if ones != "1 1 1 1" {
			t.Errorf("events alone are numbers %s, want 1 each", ones)
		}
	})
}

// The server plans a statement's first five runs, and then again only where the plan for any parameters looks worse to it.
func TestAStatementForEachEventIsNotPlannedForEach(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE seen (position bigint, replay boolean, why text);
			CREATE TABLE sluice.event (position bigint PRIMARY KEY, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz);
			INSERT INTO sluice.event (position, data) SELECT n, jsonb_build_object('text', repeat('x', 200)) FROM generate_series(1, 50000) n`); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "ANALYZE sluice.event"); err != nil {
			t.Fatal(err)
		}
		h := sqlHandler(way, definition.Statement{EventTypes: []string{"A"}, Each: "INSERT INTO seen SELECT position, replay, replay_context ->> 'why' FROM event"})
		all := events(strings.Repeat("x:A ", 20))
		for i := range all[:10] {
			all[i].Replay = &Replay{ID: "r", Context: map[string]string{"why": "so"}}
		}
		if err := h.Apply(ctx, alone{conn: conn}, all); err != nil {
			t.Fatal(err)
		}
		var seen, again, why, custom int
		err = conn.QueryRow(ctx, `SELECT count(DISTINCT position), count(*) FILTER (WHERE replay AND position <= 10), count(why),
			(SELECT custom_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH event AS%') FROM seen`).Scan(&seen, &again, &why, &custom)
		if err != nil {
			t.Fatal(err)
		}
		if seen != 20 || again != 10 || why != 10 {
			t.Errorf("it saw %d events, %d of them again, %d with the replay's context; want 20, 10 and 10", seen, again, why)
		}
		if custom > 5 {
			t.Errorf("%d of 20 runs were planned by themselves, want 5", custom)
		}
	})
}

func TestABatchOfOneEventIsNotPlannedEachTime(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE seen (position bigint, replay boolean, why text, ordinal bigint);
			CREATE TABLE sluice.event (position bigint PRIMARY KEY, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz);
			INSERT INTO sluice.event (position, data) SELECT n, jsonb_build_object('text', repeat('x', 200)) FROM generate_series(1, 50000) n;
			CREATE TABLE known AS SELECT n::bigint AS position FROM generate_series(1, 50000) n; ALTER TABLE known ADD PRIMARY KEY (position)`); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "ANALYZE sluice.event, known"); err != nil {
			t.Fatal(err)
		}
		h := sqlHandler(way, definition.Statement{EventTypes: []string{"A"}, Batch: "INSERT INTO seen SELECT position, replay, replay_context ->> 'why', ordinal FROM events JOIN known USING (position)"})
		all := events(strings.Repeat("x:A ", 20))
		for i := range all {
			if i < 10 {
				all[i].Replay = &Replay{ID: "r", Context: map[string]string{"why": "so"}}
			}
			if err := h.Apply(ctx, alone{conn: conn}, all[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		var seen, again, why, first, custom int
		err = conn.QueryRow(ctx, `SELECT count(DISTINCT position), count(*) FILTER (WHERE replay AND position <= 10), count(why), count(*) FILTER (WHERE ordinal = 1),
			(SELECT sum(custom_plans) FROM pg_prepared_statements WHERE statement LIKE 'WITH events AS%') FROM seen`).Scan(&seen, &again, &why, &first, &custom)
		if err != nil {
			t.Fatal(err)
		}
		if seen != 20 || again != 10 || why != 10 || first != 20 {
			t.Errorf("it saw %d events, %d of them again, %d with the replay's context, %d with the ordinal 1; want 20, 10, 10 and 20", seen, again, why, first)
		}
		if custom > 5 {
			t.Errorf("%d of 20 runs were planned by themselves, want 5", custom)
		}
	})
}

// TestABatchSeesItsEventsAndNoOthers gives a statement every third event, first none of them again, then all, then some.
func TestABatchSeesItsEventsAndNoOthers(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE seen (n bigserial, position bigint, replay boolean, why text, ordinal bigint);
			CREATE TABLE sluice.event (position bigint PRIMARY KEY, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz);
			INSERT INTO sluice.event (position) SELECT n FROM generate_series(1, 1000) n`); err != nil {
			t.Fatal(err)
		}
		h := sqlHandler(way, definition.Statement{EventTypes: []string{"A"}, Batch: "INSERT INTO seen (position, replay, why, ordinal) SELECT position, replay, replay_context ->> 'why', ordinal FROM events"})
		for _, again := range []int{0, 100, 40} {
			all := events(strings.Repeat("x:A ", 100))
			for i, e := range all {
				if e.Position = int64(3 * (i + 1)); i < again {
					e.Replay = &Replay{ID: "r", Context: map[string]string{"why": "so"}}
				}
			}
			if err := h.Apply(ctx, alone{conn: conn}, all); err != nil {
				t.Fatal(err)
			}
			var wrong, seen int
			if err := conn.QueryRow(ctx, `WITH gone AS (DELETE FROM seen RETURNING *), s AS (SELECT *, row_number() OVER (ORDER BY n) AS i FROM gone)
				SELECT count(*) FILTER (WHERE (position, replay, why, ordinal) IS DISTINCT FROM (3 * i, i <= $1, CASE WHEN i <= $1 THEN 'so' END, i)), count(*) FROM s`, again).Scan(&wrong, &seen); err != nil {
				t.Fatal(err)
			}
			if wrong > 0 || seen != 100 {
				t.Errorf("with %d of 100 events again it saw %d, of which %d were not as given", again, seen, wrong)
			}
		}
	})
}

// check has a handler checked in a transaction of its own.
func check(ctx context.Context, conn *pgx.Conn, h *SQL) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	return errors.Join(h.Check(ctx, tx), tx.Rollback(ctx))
}

// alone is a transaction without a fence, but for the statements that come last.
type alone struct {
	conn *pgx.Conn
	last []string
}

func (a alone) Pipeline(ctx context.Context, queue func(tokenstore.Statements) error) error {
	batch := &pgx.Batch{}
	batch.Queue("SET LOCAL lock_timeout = '1s'")
	if err := queue(batch); err != nil {
		return err
	}
	for _, text := range a.last {
		batch.Queue(text)
	}
	return a.conn.SendBatch(ctx, batch).Close()
}

func (a alone) Queue(ctx context.Context, queue func(tokenstore.Statements) error) error {
	return a.Pipeline(ctx, queue)
}

func (a alone) InTx(ctx context.Context, work func(tokenstore.Tx) error) error {
	return pgx.BeginFunc(ctx, a.conn, func(tx pgx.Tx) error { return work(tx) })
}

func TestAFailingCallIsNamedByItsEvents(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE even (n bigint CHECK (n % 2 = 0)); CREATE TABLE later (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED);
			CREATE TABLE sluice.event (position bigint PRIMARY KEY, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz);
			INSERT INTO sluice.event (position) SELECT n FROM generate_series(1, 9) n`); err != nil {
			t.Fatal(err)
		}
		const check = `ERROR: new row for relation "even" violates check constraint "even_n_check" (SQLSTATE 23514)`
		statement := func(kind, text string, types ...string) definition.Statement {
			if kind == "each" {
				return definition.Statement{Each: text, EventTypes: types}
			}
			return definition.Statement{Batch: text, EventTypes: types}
		}
		for name, test := range map[string]struct {
			statements []definition.Statement
			last       []string
			events     string
			positions  []int64 // nil where it is no statement of the handler that fails
			err        string
		}{
			"each event": {[]definition.Statement{statement("batch", "SELECT FROM events", "A"), statement("each", "INSERT INTO even SELECT position + 1 FROM event", "A", "B")}, nil,
				"x:A y:B x:B", []int64{2}, "statements[1] at position 2 (B of stream y): " + check},
			"each event, in a later round": {[]definition.Statement{statement("each", "INSERT INTO even SELECT position - 4 FROM event", "A"), statement("batch", "SELECT FROM events", "B")}, nil,
				"x:B x:B x:B x:A x:A", []int64{5}, "statements[0] at position 5 (A of stream x): " + check},
			"a batch": {[]definition.Statement{statement("batch", "INSERT INTO even SELECT 2 * position FROM events", "A"), statement("batch", "INSERT INTO even SELECT position FROM events", "B")}, nil,
				"x:A y:B z:A x:B y:B", []int64{2, 4, 5}, "statements[1] over 3 events, positions 2 to 5: " + check},
			"a batch of one": {[]definition.Statement{statement("batch", "INSERT INTO even SELECT position FROM events", "A")}, nil,
				"x:A", []int64{1}, "statements[0] at position 1 (A of stream x): " + check},
			"a batch's second round": {[]definition.Statement{statement("batch", "INSERT INTO even SELECT position - 1 FROM events", "A"), statement("batch", "SELECT FROM events", "B")}, nil,
				"x:A y:A x:B x:A", []int64{1, 2}, "statements[0] over 2 events, positions 1 to 2: " + check},
			"a table that has gone": {[]definition.Statement{statement("batch", "SELECT FROM events", "A"), statement("each", "INSERT INTO gone SELECT position FROM event", "B")}, nil,
				"x:A y:B z:B", []int64{2, 3}, `statements[1] over 2 events, positions 2 to 3: error preprocessing batch (prepare): ERROR: relation "gone" does not exist (SQLSTATE 42P01) at line 1, column 13`},
			"the fence": {[]definition.Statement{statement("batch", "SELECT FROM events", "A")}, []string{"SELECT 1 / 0"},
				"x:A", nil, "ERROR: division by zero (SQLSTATE 22012)"},
			"the commit": {[]definition.Statement{statement("each", "INSERT INTO later SELECT 1 FROM event", "A")}, []string{"SELECT 1"},
				"x:A x:A", nil, `ERROR: duplicate key value violates unique constraint "later_n_key" (SQLSTATE 23505)`},
			"statements before": {[]definition.Statement{statement("each", "SELECT FROM event", "A")}, []string{"SELECT FROM nowhere"},
				"x:A", nil, `error preprocessing batch (prepare): ERROR: relation "nowhere" does not exist (SQLSTATE 42P01)`},
		} {
			t.Run(name, func(t *testing.T) {
				err := sqlHandler(way, test.statements...).Apply(ctx, alone{conn, test.last}, events(test.events))
				if err == nil || err.Error() != test.err {
					t.Errorf("%v\nwant %s", err, test.err)
				}
				var failed *CallError
				if got := errors.As(err, &failed); got != (test.positions != nil) || got && !slices.Equal(failed.Positions, test.positions) {
					t.Errorf("%+v, want positions %v", failed, test.positions)
				}
			})
		}
		// Results come late, so that nobody knows during which call a connection was lost.
		err = sqlHandler(way, statement("each", "SELECT FROM event", "A"), statement("each", "SELECT pg_sleep(60) FROM event", "B")).Apply(short(t), alone{conn: conn}, events("x:A x:B"))
		var failed *CallError
		if err == nil || errors.As(err, &failed) {
			t.Errorf("a lost connection: %v", err)
		}
	})
}

func TestAnErrorIsFoundInTheStatement(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE there (n int);
			CREATE TABLE sluice.event (position bigint, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz)`); err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]PlaceError{
			"INSERT INTO there SELECT nothing FROM events":                               {Line: 1, Column: 26, Text: "INSERT INTO there SELECT nothing FROM events"},
			"-- äöü\nWITH a AS (\r\n\tSELECT 'ß', nothing FROM events) SELECT FROM a;\n": {Line: 3, Column: 14, Text: "\tSELECT 'ß', nothing FROM events) SELECT FROM a"},
			"WITH RECURSIVE a AS (SELECT FROM events),\n  b AS (SELECT nothing) SELECT":  {Line: 2, Column: 16, Text: "  b AS (SELECT nothing) SELECT"},
			"SELECT (":                             {Line: 1, Column: 9, Text: "SELECT ("},
			"SELECT FROM events\nWHERE type =  ;":  {Line: 2, Column: 13, Text: "WHERE type ="},
			"SELECT FROM events; SELECT FROM gone": {}, // the server gives no place
		} {
			err := check(ctx, conn, sqlHandler(way, definition.Statement{Batch: text}))
			var place *PlaceError
			if !errors.As(err, &place) {
				place = &PlaceError{}
			}
			if err == nil || place.Line != want.Line || place.Column != want.Column || place.Text != want.Text {
				t.Errorf("%s: %v: %+v", text, err, place)
			}
		}
	})
}

func TestARowThatIsNotAsItsMappingSaysIsNamed(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE FUNCTION sluice.hidden_events(text) RETURNS void STABLE LANGUAGE sql AS '';
		CREATE TABLE outbox (id bigint PRIMARY KEY, aggregate text, type text, body text, headers bytea, at text);
		INSERT INTO outbox VALUES (1, 'x', 'A', '<order/>', '{}', '2024-05-05'), (2, 'x', 'A', '{}', '\xff', '2024-05-05'), (3, 'x', 'A', '{"a": "\u0000"}', '{}', 'yesterday morning'), (4, 'x', 'A', '{}', '{}', '2024-05-05')`); err != nil {
		t.Fatal(err)
	}
	table := definition.Table{Name: "public.outbox", Columns: definition.TableColumns{Position: "id", Stream: "aggregate", Type: "type", RecordedAt: "at"},
		Data:     definition.Payload{Column: "body", Type: definition.PayloadText, Content: definition.ContentJSON},
		Metadata: &definition.Payload{Column: "headers", Type: definition.PayloadBytea, Content: definition.ContentJSON}}
	const data, metadata = "spec.source.table.data.content says that column body holds JSON", "spec.source.table.metadata.content says that column headers holds JSON"
	const instead = ": if the row holds something else, correct it, or set content to Text or Base64"
	for _, test := range []struct {
		position            int64
		column, said, wants string
	}{
		{1, "data", "invalid input syntax for type json", data + ", and " + metadata + instead},
		{2, "metadata", "invalid byte sequence", data + ", and " + metadata + instead},
		{3, "data", "unsupported Unicode escape sequence", data + ", and " + metadata + instead},
		{3, "recorded_at", "invalid input syntax for type timestamp", "spec.source.table.columns.recordedAt says that column at holds a time: if the row holds something else, correct it"},
		{4, "stream_id::bigint", "invalid input syntax for type bigint", ""},
	} {
		for _, from := range []*definition.Table{&table, nil} {
			source := definition.Source{Type: definition.SourceTable, Table: &table}
			h := NewSQL(definition.SQLHandler{Statements: []definition.Statement{{Each: "SELECT count(" + test.column + ") FROM event"}}},
				Events{Join: eventspostgres.JoinEvents("sluice", source), At: eventspostgres.EventsAt("sluice", source), Table: from})
			err := h.Apply(ctx, alone{conn: conn}, []*Event{{Position: test.position, StreamID: "x", Type: "A"}})
			var mapping *MappingError
			advised := errors.As(err, &mapping)
			if err == nil || !strings.Contains(err.Error(), test.said) || advised != (from != nil && test.wants != "") || advised && !strings.HasSuffix(err.Error(), "; "+test.wants) {
				t.Errorf("%s at %d: %v\nwant %s", test.column, test.position, err, test.wants)
			}
		}
	}
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestAStatementThatIsNoneIsTheDefinitionsFault(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE there (n int);
			CREATE TABLE sluice.event (position bigint, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz)`); err != nil {
			t.Fatal(err)
		}
		for text, reason := range map[string]string{
			"INSERT INTO missing SELECT position FROM events": "TableMissing",
			"INSERT INTO there SELECT nothing FROM events":    "ColumnMissing",
			"INSERT INTO there SELECT 1 FRM events":           "SyntaxError",
			"DELETE FROM there; DELETE FROM there":            "SyntaxError",
		} {
			err := check(ctx, conn, sqlHandler(way, definition.Statement{EventTypes: []string{"A"}, Batch: text}))
			if err == nil {
				t.Errorf("%s is accepted", text)
			} else if kind, got := Classify(err, postgres.Errors{}); kind != tokenstore.DefinitionFault || got != reason {
				t.Errorf("%s: %s %s, want %s", text, kind, got, reason)
			}
		}
	})
}

func TestAStatementMustNotHaveParameters(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `CREATE SCHEMA sluice; CREATE TABLE there (id text, ok boolean, payload jsonb);
			CREATE TABLE sluice.event (position bigint, stream_id text, type text, data jsonb, metadata jsonb, recorded_at timestamptz)`); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{
			"INSERT INTO there VALUES ($1, $2, $3)",
			"INSERT INTO there (ok) VALUES ($2)",
			"INSERT INTO there (payload) SELECT $3",
			"INSERT INTO there SELECT stream_id, $2 FROM event",
			"SELECT FROM event WHERE stream_id = $1",
			"SELECT FROM event WHERE position = $1",
			"SELECT FROM event WHERE position = ANY ($1)",
			"SELECT $1 FROM event",
			"SELECT $1::int + $1 || 'it''s' FROM event",
			"SELECT $3::jsonb FROM event",
			"SELECT $4::int FROM event",
			"SELECT $4 FROM event",
			"SELECT $0 FROM event",
			"SELECT '$1', $$ $2 $$, E'\\'' || $1 FROM event",
			"SELECT /* $1 /* */ */ $2 FROM event",
			"WITH given AS (SELECT $1::bigint AS n) SELECT n FROM event, given",
		} {
			for _, s := range []definition.Statement{{EventTypes: []string{"A"}, Each: text}, {EventTypes: []string{"A"}, Batch: strings.Replace(text, "FROM event", "FROM events", 1)}} {
				err := check(ctx, conn, sqlHandler(way, s))
				if err == nil || err.Error() != "handler.sql.statements[0] has a parameter: read what it needs from the events instead" {
					t.Errorf("%s: %v", s.Each+s.Batch, err)
				}
			}
		}
		err = check(ctx, conn, sqlHandler(way, definition.Statement{EventTypes: []string{"A"}, Batch: "SELECT ARRAY[] FROM events"}))
		if err == nil || !strings.Contains(err.Error(), "empty array") {
			t.Errorf("an array of no type: %v", err)
		}
	})
}

func TestACommandThatCannotReadEventsIsNamed(t *testing.T) {
	eachWay(t, func(t *testing.T, way Events) {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, postgrestest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		const must = ": a statement has to be one SELECT, INSERT, UPDATE, DELETE, MERGE or WITH, since Sluice puts the events before it"
		for text, want := range map[string]string{
			"CALL refresh_totals()":          "begins with CALL" + must + "; make a function of the procedure and SELECT it",
			"refresh materialized view x":    "begins with REFRESH" + must + "; put it into a function, made in setup, and SELECT that",
			"/* all */ TRUNCATE x":           "begins with TRUNCATE" + must + "; put TRUNCATE into reset, or write DELETE FROM the table",
			"DO $$ BEGIN END $$":             "begins with DO" + must + "; put it into a function, made in setup, and SELECT that",
			"COPY x FROM STDIN":              "begins with COPY" + must + "; write INSERT INTO ... SELECT",
			"BEGIN":                          "begins with BEGIN" + must + "; leave it out: each batch is one transaction, which Sluice commits together with the token",
			"COMMIT;":                        "begins with COMMIT" + must + "; leave it out: each batch is one transaction, which Sluice commits together with the token",
			"SET work_mem = '1GB'":           "begins with SET" + must + "; write SELECT set_config('name', 'value', true), which lasts until the end of the batch",
			"CREATE TABLE x (n int)":         "begins with CREATE" + must + "; put it into setup",
			"-- nothing but\rNOTIFY changed": "begins with NOTIFY" + must + "; write SELECT pg_notify('channel', 'payload') FROM events",
			"INSRT INTO x SELECT 1":          "begins with INSRT" + must,
			"{{ .Statement }}":               "begins with {" + must,
			"\u201cSELECT\u201d":             "begins with \u201cSELECT\u201d" + must,
			" -- nothing":                    "is empty: write one SELECT, INSERT, UPDATE, DELETE, MERGE or WITH",
			";":                              "is empty: write one SELECT, INSERT, UPDATE, DELETE, MERGE or WITH",
		} {
			err := check(ctx, conn, sqlHandler(way, definition.Statement{EventTypes: []string{"A"}, Batch: text}))
			var statement *StatementError
			if !errors.As(err, &statement) || err.Error() != "handler.sql.statements[0] "+want {
				t.Errorf("%s: %v\nwant %s", text, err, want)
			}
		}
	})
}

func TestAPanicIsTheEventsFault(t *testing.T) {
	err := guard(nil, func() error { panic("no") })
	if kind, reason := Classify(err, postgres.Errors{}); kind != tokenstore.EventFault || reason != "HandlerPanicked" {
		t.Errorf("%s %s", kind, reason)
	}
}
