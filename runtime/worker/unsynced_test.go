package worker_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
)

// backlog appends n events to each of some new streams, by one statement.
func (w *world) backlog(streams, n int) {
	w.t.Helper()
	w.exec(`INSERT INTO sluice.event (stream_id, version, type, data)
		SELECT 'stream-' || i % $1::integer, 1 + i / $1, 'Counted', jsonb_build_object('n', i::text) FROM generate_series(0, $1 * $2::integer - 1) AS i`, streams, n)
}

// counting are handlers that count events by stream, a batch at once, with what is special about them before.
const (
	countingSQL = `
    handler:
      type: SQL
      sql:
        statements:
        - eventTypes: [Counted]
          batch: |
            INSERT INTO stream_view AS v (stream_id, events) SELECT stream_id, count(*) FROM events GROUP BY 1
            ON CONFLICT (stream_id) DO UPDATE SET events = v.events + excluded.events`
	sayingSQL = `
        - eventTypes: [Counted]
          batch: SELECT set_config('synchronous_commit', 'local', true)`
	appendingSQL = `
        - eventTypes: [Counted]
          batch: SELECT sluice.append('told', NULL, '[{"type":"Told"}]')`
)

func counting(before func(context.Context, pgx.Tx) error) handler.Handler {
	return handler.Set(func(ctx context.Context, tx pgx.Tx, events []handler.Event) error {
		if err := before(ctx, tx); err != nil {
			return err
		}
		var streams []string
		for _, e := range events {
			streams = append(streams, e.StreamID)
		}
		_, err := tx.Exec(ctx, `INSERT INTO stream_view AS v (stream_id, events) SELECT stream_id, count(*) FROM unnest($1::text[]) AS stream_id GROUP BY 1
			ON CONFLICT (stream_id) DO UPDATE SET events = v.events + excluded.events`, streams)
		return err
	}, "Counted")
}

// TestOnlyBatchesOfABacklogCommitWithoutWaitingForTheDisk looks, as they commit, at how batches do it: the first ones of a backlog do not
// wait; those without one do, and those that have appended events; and who says so himself is heeded.
func TestOnlyBatchesOfABacklogCommitWithoutWaitingForTheDisk(t *testing.T) {
	t.Parallel()
	const (
		first = 2_000
		all   = 15_000 // more than are read ahead into little memory
	)
	for name, test := range map[string]struct {
		spec         string
		handler      handler.Handler
		behind, live string
	}{
		"SQL":              {spec: countingSQL, behind: "off", live: "on"},
		"SQL that says so": {spec: countingSQL + sayingSQL, behind: "local", live: "local"},
		"SQL that appends": {spec: countingSQL + appendingSQL, behind: "on", live: "on"},
		"Go":               {handler: counting(func(context.Context, pgx.Tx) error { return nil }), behind: "off", live: "on"},
		"Go that begins with a savepoint": {behind: "off", live: "on", handler: counting(func(ctx context.Context, tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(pgx.Tx) error { return nil })
		})},
		"Go that says so": {behind: "local", live: "local", handler: counting(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = local`)
			return err
		})},
		"Go that appends": {behind: "on", live: "on", handler: counting(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `SELECT sluice.append('told', NULL, $1)`, `[{"type": "Told"}]`)
			return err
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.handler != nil {
				test.spec = "\n    handler: {type: Go}"
			}
			w := newWorld(t, "\n  - name: view\n    segments: 1\n    maxBatchSize: 500"+test.spec)
			w.handlers = map[string]handler.Handler{"view": test.handler}
			w.exec(`CREATE TABLE stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL)`)
			w.exec(`CREATE TABLE committed (n bigserial, events bigint, how text)`)
			w.exec(`CREATE FUNCTION committing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				INSERT INTO committed (events, how) SELECT sum(events), current_setting('synchronous_commit') FROM stream_view; RETURN NULL; END $$`)
			w.exec(`CREATE CONSTRAINT TRIGGER committing AFTER INSERT OR UPDATE ON stream_view DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION committing()`)
			w.memory = 1 << 20
			w.backlog(10, all/10)
			w.start("a")
			w.until("the backlog to be handled", `SELECT sum(events) = $1 FROM stream_view`, all)
			w.until("its first batches to have committed as they should", `SELECT count(*) > 0 AND bool_and(how = $1) FROM committed WHERE events <= $2`, test.behind, first)
			w.until("its last batch to have committed as without a backlog", `SELECT how = $1 FROM committed ORDER BY n DESC LIMIT 1`, test.live)
			w.appendTo(1, 1)
			w.until("another event to have committed as without a backlog", `SELECT how = $1 AND events = $2 FROM committed ORDER BY n DESC LIMIT 1`, test.live, all+1)
		})
	}
}
