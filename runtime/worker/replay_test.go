package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// witnessed is a view that can be reset, next to a table of all that was ever handled, in the order in which it was. A
// reset leaves its mark there.
const witnessed = `
    handler:
      type: SQL
      sql:
        setup: |
          CREATE TABLE IF NOT EXISTS stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL);
          CREATE TABLE IF NOT EXISTS seen (n bigserial PRIMARY KEY, position bigint, replay boolean, context jsonb);
        reset: |
          TRUNCATE stream_view;
          INSERT INTO seen (context) VALUES (jsonb_build_object(current_setting('sluice.replay_id'), current_setting('sluice.replay_context')::jsonb))
        statements:
        - eventTypes: [Counted]
          batch: INSERT INTO seen (position, replay, context) SELECT position, replay, replay_context FROM events
        - eventTypes: [Counted]
          each: |
            INSERT INTO stream_view AS v (stream_id, events, chain) SELECT stream_id, 1, md5(data ->> 'n') FROM event
            ON CONFLICT (stream_id) DO UPDATE SET events = v.events + 1, chain = md5(v.chain || excluded.chain)
`

func (w *world) store() *postgres.Store { return postgres.NewStore(w.pool, postgres.DefaultSchema) }

// ask makes the list of replays that are asked for what it is given; they are bound to the definition wanted now.
func (w *world) ask(requests ...tokenstore.ReplayRequest) {
	w.t.Helper()
	w.complete(requests)
	w.requested = requests
	if err := w.store().RequestReplays(context.Background(), processor, requests); err != nil {
		w.t.Fatal(err)
	}
}

// complete fills in what is the same for most.
func (w *world) complete(requests []tokenstore.ReplayRequest) {
	for i := range requests {
		r := &requests[i]
		if r.Definition == "" {
			r.Definition = w.spec.Definition().ID()
		}
		if r.From.Type == "" {
			r.From.Type = progress.Earliest
		}
		if r.State == "" {
			r.State = tokenstore.ReplayWanted
		}
		if r.Groups == nil {
			r.Groups = []string{"view"}
		}
		if r.Sequencing == nil {
			r.Sequencing = w.spec.Sequencings(r.Groups)
		}
	}
}

// replay returns a row of the ledger once a condition holds for it.
func (w *world) replay(id, what string, holds func(tokenstore.Replay) bool) tokenstore.Replay {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		all, err := w.store().Replays(context.Background(), processor)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range all {
			if r.ID == id && holds(r) {
				return r
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited 30 s until replay %s is %s:\n%+v\n%s", id, what, all, w.dump())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func in(phase tokenstore.ReplayPhase) func(tokenstore.Replay) bool {
	return func(r tokenstore.Replay) bool { return r.Phase == phase }
}

func waitsFor(reason string) func(tokenstore.Replay) bool {
	return func(r tokenstore.Replay) bool { return r.Reason == reason }
}

// flagged fails unless each event was handled once for the first time, and again exactly where it had been handled before the
// one reset there was. It returns how many were handled again.
func (w *world) flagged() (again int) {
	w.t.Helper()
	var wrong []string
	err := w.pool.QueryRow(context.Background(), `
		WITH reset AS (SELECT n FROM seen WHERE position IS NULL), handled AS (
		  SELECT e.position, count(*) FILTER (WHERE NOT s.replay) AS first, count(*) FILTER (WHERE s.replay) AS again,
		    min(s.n) FILTER (WHERE NOT s.replay) < (SELECT n FROM reset) AS before
		  FROM sluice.event e LEFT JOIN seen s USING (position) WHERE e.type = 'Counted' GROUP BY 1)
		SELECT coalesce(sum(again), 0), array_agg(format('%s: %s times first, %s again, before the reset: %s', position, first, again, before))
		  FILTER (WHERE first <> 1 OR again <> before::int) FROM handled`).Scan(&again, &wrong)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(wrong) > 0 {
		w.t.Fatalf("%d events are not flagged right, such as %s", len(wrong), strings.Join(wrong[:min(len(wrong), 5)], "; "))
	}
	return again
}

func TestAReplayRebuildsTheViewAndFlagsWhatItHandlesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 8"+witnessed)
	w.appendTo(20, 10)
	w.start("a")
	w.start("b")
	w.handled(200)
	// One writer is open across the reset: its event was not handled before, though its position is below the boundary.
	late, err := w.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.log.AppendTx(context.Background(), late, "late", eventspostgres.Any, eventspostgres.NewEvent{Type: "Counted", Data: map[string]int{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	w.appendTo(20, 1)
	w.handled(220)
	stop, stopped := make(chan struct{}), make(chan int, 1)
	go func() { // events go on coming
		appended := 0
		for {
			select {
			case <-stop:
				stopped <- appended
				return
			default:
				w.appendTo(10, 1)
				appended += 10
			}
		}
	}()
	w.ask(tokenstore.ReplayRequest{ID: "fix", Context: map[string]string{"why": "rounding"}})
	w.replay("fix", "running", func(r tokenstore.Replay) bool { return r.ResetAt != nil })
	if err := late.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	r := w.replay("fix", "complete", in(tokenstore.ReplayComplete))
	close(stop)
	appended := <-stopped
	w.handled(221 + appended)
	if n := w.folded(); n != 221+appended {
		t.Fatalf("%d events in the view, want %d", n, 221+appended)
	}
	again := w.flagged()
	if again < 220 || again >= 221+appended {
		t.Fatalf("%d events were handled again; 220 had been handled before the reset", again)
	}
	if r.Total < 200 || r.Done != r.Total {
		t.Fatalf("%d of %d positions done", r.Done, r.Total)
	}
	w.until("the context with every event handled again, and with no other",
		`SELECT bool_and(coalesce(context ->> 'why' = 'rounding', false) = replay) FROM seen WHERE position IS NOT NULL`)
	w.until("one reset that was told of its replay", `SELECT count(*) = 1 AND min(context ->> 'fix') = '{"why": "rounding"}' FROM seen WHERE position IS NULL`)
	w.ask(tokenstore.ReplayRequest{ID: "fix"}, tokenstore.ReplayRequest{ID: "again"})
	w.replay("again", "complete", in(tokenstore.ReplayComplete))
	w.until("two resets: an id that has run does not run again", `SELECT count(*) = 2 FROM seen WHERE position IS NULL`)
}

func TestAResetWaitsForAReaderAndNamesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 4"+witnessed)
	w.appendTo(10, 10)
	w.start("a")
	w.handled(100)
	reader, err := pgx.Connect(context.Background(), w.url+"&application_name=nightly-report")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.Background())
	if _, err := reader.Exec(context.Background(), `BEGIN; SELECT * FROM stream_view`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	w.ask(tokenstore.ReplayRequest{ID: "fix"})
	r := w.replay("fix", "waiting for locks", func(r tokenstore.Replay) bool {
		return r.Reason == tokenstore.ReplayWaitsForLocks && strings.Contains(r.Message, "nightly-report")
	})
	if want := fmt.Sprintf("pid %d", reader.PgConn().PID()); !strings.Contains(r.Message, want) {
		t.Fatalf("%q does not name %s", r.Message, want)
	}
	w.until("the view untouched meanwhile", `SELECT sum(events) = 100 FROM stream_view`)
	if _, err := reader.Exec(context.Background(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	w.replay("fix", "complete", in(tokenstore.ReplayComplete))
	if n := w.folded(); n != 100 {
		t.Fatalf("%d events in the view", n)
	}
	w.flagged()
}

func TestAResetThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	groups := "\n  - name: view\n    segments: 4" + witnessed
	w := newWorld(t, strings.Replace(groups, "TRUNCATE stream_view;", "DELETE FROM stream_view; COMMIT;", 1))
	w.appendTo(10, 10)
	w.start("a")
	w.handled(100)
	w.ask(tokenstore.ReplayRequest{ID: "fix"})
	r := w.replay("fix", "failed", in(tokenstore.ReplayFailed))
	if !strings.Contains(r.Message, "handler.sql.reset") {
		t.Fatalf("the message does not name the field: %s", r.Message)
	}
	w.appendTo(10, 10)
	w.handled(200)
	if n := w.folded(); n != 200 {
		t.Fatalf("%d events in the view", n)
	}
}

func TestReplaysThatCannotRunSayWhy(t *testing.T) {
	t.Parallel()
	groups := "\n  - name: view\n    segments: 2" + witnessed + "\n  - name: plain\n    segments: 1" + strings.ReplaceAll(view, "stream_view", "plain_view")
	w := newWorld(t, groups)
	w.appendTo(10, 1)
	w.start("a")
	w.handled(10)
	w.ask(
		tokenstore.ReplayRequest{ID: "no-reset", Groups: []string{"plain"}},
		tokenstore.ReplayRequest{ID: "no-group", Groups: []string{"views"}},
		tokenstore.ReplayRequest{ID: "other-definition", Definition: "0123456789"},
		tokenstore.ReplayRequest{ID: "no-place", From: progress.StartPosition{Type: progress.AtPosition, Position: "x"}},
		tokenstore.ReplayRequest{ID: "cancelled", State: tokenstore.ReplayToBeCancelled},
	)
	for id, want := range map[string][2]string{
		"no-reset": {tokenstore.ReplayNoReset, "group plain"}, "no-group": {tokenstore.ReplayGroupMissing, "group views"},
		"other-definition": {tokenstore.ReplayWaitsForRollout, "0123456789"}, "no-place": {tokenstore.ReplayPlaceInvalid, `"x"`},
	} {
		if r := w.replay(id, want[0], waitsFor(want[0])); !strings.Contains(r.Message, want[1]) || r.Phase != tokenstore.ReplayPending {
			t.Errorf("%s is %s: %q does not say %q", id, r.Phase, r.Message, want[1])
		}
	}
	w.replay("cancelled", "cancelled", in(tokenstore.ReplayCancelled))
	w.ask(tokenstore.ReplayRequest{ID: "no-reset", Groups: []string{"plain"}, Unguarded: []string{"plain"}})
	w.replay("no-reset", "complete, since it is allowed now", in(tokenstore.ReplayComplete))
	w.until("withdrawn what nobody asks for any more", `SELECT count(*) = 2 FROM sluice.replay`)
	w.until("no reset", `SELECT count(*) = 0 FROM seen WHERE position IS NULL`)
}

func TestAReplayBeginsWhereItIsAskedTo(t *testing.T) {
	t.Parallel()
	for name, place := range map[string]func(w *world, tenth int64, at time.Time) progress.StartPosition{
		"at a position": func(_ *world, tenth int64, _ time.Time) progress.StartPosition {
			return progress.StartPosition{Type: progress.AtPosition, Position: fmt.Sprint(tenth)}
		},
		"at a time": func(_ *world, _ int64, at time.Time) progress.StartPosition {
			return progress.StartPosition{Type: progress.AtTimestamp, Timestamp: at}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "\n  - name: view\n    segments: 4"+witnessed)
			w.appendTo(1, 20)
			var tenth int64
			var at time.Time
			err := w.pool.QueryRow(context.Background(), `SELECT position, recorded_at FROM sluice.event ORDER BY position OFFSET 9 LIMIT 1`).Scan(&tenth, &at)
			if err != nil {
				t.Fatal(err)
			}
			w.start("a")
			w.handled(20)
			w.ask(tokenstore.ReplayRequest{ID: "some", From: place(w, tenth, at)})
			w.replay("some", "complete", in(tokenstore.ReplayComplete))
			w.until("the last eleven handled again", `SELECT count(*) = 11 AND min(position) = $1 FROM seen WHERE replay`, tenth)
		})
	}
	t.Run("latest", func(t *testing.T) {
		w := newWorld(t, "\n  - name: view\n    segments: 4"+witnessed)
		w.appendTo(1, 20)
		w.start("a")
		w.handled(20)
		w.ask(tokenstore.ReplayRequest{ID: "none", From: progress.StartPosition{Type: progress.Latest}})
		w.replay("none", "complete", in(tokenstore.ReplayComplete))
		w.appendTo(1, 3)
		w.handled(3)
		w.until("nothing handled again, and nothing of before in the view", `SELECT count(*) FILTER (WHERE replay) = 0 AND (SELECT sum(events) FROM stream_view) = 3 FROM seen`)
	})
}

// TestAGoHandlerIsResetAndAReplayCanBeAbandoned stops a replay in the middle: events that were handled before come no more, none is
// lost that was not, and the group counts as incomplete until another replay has completed.
func TestAGoHandlerIsResetAndAReplayCanBeAbandoned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 4\n    maxBatchSize: 1\n    onError: {backoff: {initial: 10ms, max: 20ms}}\n    handler: {type: Go}")
	for _, sql := range []string{`CREATE TABLE seen (n bigserial PRIMARY KEY, position bigint, replay boolean, context jsonb)`,
		`CREATE TABLE stream_view (stream_id text PRIMARY KEY, events bigint, chain text)`, `CREATE TABLE gate (open boolean)`, `INSERT INTO gate VALUES (true)`} {
		if _, err := w.pool.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	each := handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		var open bool
		if err := tx.QueryRow(ctx, `SELECT open FROM gate`).Scan(&open); err != nil {
			return err
		}
		if !open && e.Replay != nil {
			return errors.New("closed")
		}
		_, err := tx.Exec(ctx, `INSERT INTO seen (position, replay) VALUES ($1, $2)`, e.Position, e.Replay != nil)
		return err
	}, "Counted")
	w.handlers = map[string]handler.Handler{"view": handler.WithReset(each, func(ctx context.Context, tx pgx.Tx, r handler.Replay) error {
		_, err := tx.Exec(ctx, `INSERT INTO seen (context) VALUES (jsonb_build_object($1::text, $2::text))`, r.ID, r.Context["why"])
		return err
	})}
	w.start("a")
	w.start("b")
	w.appendTo(20, 2)
	w.until("all handled", `SELECT count(*) = 40 FROM seen`)
	if _, err := w.pool.Exec(context.Background(), `UPDATE gate SET open = false`); err != nil {
		t.Fatal(err)
	}
	request := tokenstore.ReplayRequest{ID: "stuck", Context: map[string]string{"why": "test"}}
	w.ask(request)
	w.replay("stuck", "running", in(tokenstore.ReplayRunning))
	request.State = tokenstore.ReplayToBeCancelled
	w.ask(request)
	w.appendTo(20, 1)
	w.replay("stuck", "still running: it is too late to cancel it", func(r tokenstore.Replay) bool {
		return r.State == tokenstore.ReplayToBeCancelled && r.Phase == tokenstore.ReplayRunning
	})
	request.State = tokenstore.ReplayToBeAbandoned
	w.ask(request)
	w.replay("stuck", "abandoned", in(tokenstore.ReplayAbandoned))
	w.until("what is new handled, and nothing again", `SELECT count(*) FILTER (WHERE NOT replay) = 60 AND count(*) FILTER (WHERE replay) = 0 FROM seen WHERE position IS NOT NULL`)
	w.until("incomplete", `SELECT bool_and(incomplete IS NOT NULL AND replay IS NULL) FROM sluice.processing_group`)
	if _, err := w.pool.Exec(context.Background(), `UPDATE gate SET open = true`); err != nil {
		t.Fatal(err)
	}
	w.ask(request, tokenstore.ReplayRequest{ID: "whole"})
	w.replay("whole", "complete", in(tokenstore.ReplayComplete))
	w.until("each handled again once", `SELECT count(*) = 60 AND count(DISTINCT position) = 60 FROM seen WHERE replay`)
	w.until("complete, and reset twice", `SELECT bool_and(incomplete IS NULL) AND (SELECT count(*) = 2 FROM seen WHERE position IS NULL) FROM sluice.processing_group`)
}
