package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// TestWithinABatchEachEventIsToldForWhatItIs has the reset append events, so that the first batch after it holds some that had been
// handled before and some that had not; and a writer end after the replay whose event stands below the boundary.
func TestWithinABatchEachEventIsToldForWhatItIs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, "\n  - name: view\n    segments: 1"+strings.NewReplacer(
		"context jsonb)", "context jsonb, tx xid8 DEFAULT pg_current_xact_id())",
		"'sluice.replay_context')::jsonb))", "'sluice.replay_context')::jsonb));\n"+
			`          SELECT sluice.append('stream-' || n, NULL, '[{"type": "Counted", "data": {"n": "new"}}]') FROM generate_series(0, 9) n`,
	).Replace(witnessed))
	w.appendTo(10, 1)
	w.start("a")
	w.handled(10)
	late, err := w.begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.log.AppendTx(ctx, late, "late", eventspostgres.Any, eventspostgres.NewEvent{Type: "Counted", Data: map[string]int{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	w.appendTo(10, 1)
	w.handled(20)
	w.ask(tokenstore.ReplayRequest{ID: "fix"})
	w.replay("fix", "complete", in(tokenstore.ReplayComplete))
	if err := late.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	w.handled(31)
	if n := w.folded(); n != 31 {
		t.Fatalf("%d events in the view", n)
	}
	if again := w.flagged(); again != 20 {
		t.Errorf("%d events were handled again, want 20", again)
	}
	w.until("a batch across the boundary", `SELECT EXISTS (SELECT FROM seen WHERE position IS NOT NULL GROUP BY tx HAVING bool_or(replay) AND bool_or(NOT replay))`)
	w.until("the late event below the boundary, for the first time", `SELECT NOT s.replay AND s.position < (SELECT max(position) FROM seen WHERE replay)
		FROM seen s JOIN sluice.event e USING (position) WHERE e.stream_id = 'late'`)
}

// TestASecondReplayOfAGroupWaitsForTheFirst asks for one in the middle of another.
func TestASecondReplayOfAGroupWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 4\n    maxBatchSize: 3\n    onError: {backoff: {initial: 10ms, max: 20ms}}\n    handler: {type: Go}")
	for _, sql := range []string{`CREATE TABLE seen (n bigserial PRIMARY KEY, position bigint, replay text, why text)`, `CREATE TABLE gate (open boolean)`, `INSERT INTO gate VALUES (false)`} {
		if _, err := w.pool.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	each := handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		var open bool
		if err := tx.QueryRow(ctx, `SELECT open FROM gate`).Scan(&open); err != nil {
			return err
		}
		if e.Replay == nil {
			_, err := tx.Exec(ctx, `INSERT INTO seen (position) VALUES ($1)`, e.Position)
			return err
		}
		if !open && e.Version > 1 { // in the middle
			return errors.New("closed")
		}
		_, err := tx.Exec(ctx, `INSERT INTO seen (position, replay, why) VALUES ($1, $2, $3)`, e.Position, e.Replay.ID, e.Replay.Context["why"])
		return err
	}, "Counted")
	w.handlers = map[string]handler.Handler{"view": handler.WithReset(each, func(ctx context.Context, tx pgx.Tx, r handler.Replay) error {
		_, err := tx.Exec(ctx, `INSERT INTO seen (replay) VALUES ($1)`, r.ID)
		return err
	})}
	w.start("a")
	w.start("b")
	w.appendTo(20, 2)
	w.until("all handled", `SELECT count(*) = 40 FROM seen`)
	first := tokenstore.ReplayRequest{ID: "first", Context: map[string]string{"why": "rounding"}}
	second := tokenstore.ReplayRequest{ID: "second", Context: map[string]string{"why": "currency"}}
	w.ask(first)
	w.until("the first to be in the middle", `SELECT count(*) > 0 FROM seen WHERE replay = 'first' AND position IS NOT NULL`)
	w.ask(first, second)
	if r := w.replay("second", "waiting", waitsFor(tokenstore.ReplayWaitsForOther)); !strings.Contains(r.Message, "replay first") {
		t.Errorf("%q does not name the first", r.Message)
	}
	w.appendTo(20, 1)
	w.until("what is new to be handled meanwhile, but behind what is not", `SELECT count(*) FILTER (WHERE replay IS NULL) >= 40 FROM seen`)
	if _, err := w.pool.Exec(context.Background(), `UPDATE gate SET open = true`); err != nil {
		t.Fatal(err)
	}
	w.replay("second", "complete", in(tokenstore.ReplayComplete))
	w.until("each handled for the first time once", `SELECT count(*) = 60 AND count(DISTINCT position) = 60 FROM seen WHERE replay IS NULL`)
	w.until("each of before the reset handled again once by the first, for its reason", `SELECT count(*) = 40 AND count(DISTINCT position) = 40 AND bool_and(why = 'rounding')
		FROM seen WHERE replay = 'first' AND position IS NOT NULL`)
	w.until("by the second all that there was then, and after the first", `SELECT count(*) = count(DISTINCT position) AND count(*) BETWEEN 40 AND 60 AND bool_and(why = 'currency')
		AND min(n) > (SELECT max(n) FROM seen WHERE replay = 'first') FROM seen WHERE replay = 'second' AND position IS NOT NULL`)
	w.until("exactly what had been handled before its reset again by the second", `SELECT bool_and((n < (SELECT n FROM seen WHERE replay = 'second' AND position IS NULL))
		= (position IN (SELECT position FROM seen WHERE replay = 'second' AND position IS NOT NULL))) FROM seen WHERE replay IS NULL`)
	w.until("two resets", `SELECT count(*) = 2 FROM seen WHERE position IS NULL`)
}

// reader keeps resets waiting until it is told to end.
func (w *world) reader() (end func()) {
	w.t.Helper()
	ctx := context.Background()
	tx, err := w.begin(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { tx.Rollback(ctx) }) // nothing is left to roll back where it has ended
	if _, err := tx.Exec(ctx, `SELECT * FROM stream_view`, pgx.QueryExecModeSimpleProtocol); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		w.t.Helper()
		if err := tx.Commit(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestAReplayIsCancelledWhileItsResetWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 4"+witnessed)
	w.appendTo(10, 5)
	w.start("a")
	w.handled(50)
	end := w.reader()
	request := tokenstore.ReplayRequest{ID: "fix"}
	w.ask(request)
	w.replay("fix", "waiting for locks", func(r tokenstore.Replay) bool {
		return r.Phase == tokenstore.ReplayResetting && r.Reason == tokenstore.ReplayWaitsForLocks
	})
	request.State = tokenstore.ReplayToBeCancelled
	w.ask(request)
	w.replay("fix", "cancelled", in(tokenstore.ReplayCancelled))
	end()
	w.appendTo(10, 1)
	w.handled(60)
	if n := w.folded(); n != 60 {
		t.Fatalf("%d events in the view", n)
	}
	w.until("nothing reset and nothing handled again", `SELECT count(*) = 60 AND NOT bool_or(replay) FROM seen`)
}

// TestAReplayBeyondTheNewestEventIsRefused: it would empty the projection, handle nothing again,
// and be complete.
func TestAReplayBeyondTheNewestEventIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 2"+witnessed)
	w.appendTo(1, 20)
	w.start("a")
	w.handled(20)
	w.ask(tokenstore.ReplayRequest{ID: "position", From: progress.StartPosition{Type: progress.AtPosition, Position: "999999999"}},
		tokenstore.ReplayRequest{ID: "time", From: progress.StartPosition{Type: progress.AtTimestamp, Timestamp: time.Now().AddDate(5, 0, 0)}})
	for id, says := range map[string]string{"position": "beyond the newest event, which is at position 20", "time": "is in the future"} {
		r := w.replay(id, "refused", waitsFor(tokenstore.ReplayPlaceInvalid))
		if r.Phase != tokenstore.ReplayPending || !strings.Contains(r.Message, says) {
			t.Errorf("%s: %s: %s", id, r.Phase, r.Message)
		}
	}
	w.handled(20)
}

func TestAReplayBeyondTheOldestEventIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, "\n  - name: view\n    segments: 2"+witnessed)
	w.appendTo(1, 20)
	w.start("a")
	w.handled(20)
	var eleventh time.Time
	if err := w.pool.QueryRow(ctx, `SELECT recorded_at FROM sluice.event WHERE position = 11`).Scan(&eleventh); err != nil {
		t.Fatal(err)
	}
	remove := func(through int) {
		t.Helper()
		if _, err := w.pool.Exec(ctx, `DELETE FROM sluice.event WHERE position <= $1`, through); err != nil {
			t.Fatal(err)
		}
	}
	remove(10)
	from := func(id string, at progress.StartPosition) tokenstore.ReplayRequest {
		return tokenstore.ReplayRequest{ID: id, From: at}
	}
	position := func(p int) progress.StartPosition {
		return progress.StartPosition{Type: progress.AtPosition, Position: fmt.Sprint(p)}
	}
	w.ask(from("position", position(10)), from("time", progress.StartPosition{Type: progress.AtTimestamp, Timestamp: eleventh.Add(-time.Hour)}))
	for _, id := range []string{"position", "time"} {
		r := w.replay(id, "refused", waitsFor(tokenstore.ReplayPlaceInvalid))
		if r.Phase != tokenstore.ReplayPending || !strings.Contains(r.Message, "the oldest event, which is at position 11") {
			t.Errorf("%s: %s: %s", id, r.Phase, r.Message)
		}
	}
	w.until("nothing reset, and the segments owned", `SELECT bool_and(owner <> 0) AND NOT EXISTS (SELECT FROM seen WHERE position IS NULL) FROM sluice.token`)
	w.ask(from("position", position(11)))
	w.replay("position", "complete, from another place", in(tokenstore.ReplayComplete))
	w.until("the ten that are left handled again", `SELECT count(*) = 10 AND min(position) = 11 FROM seen WHERE replay`)

	// What is deleted while the reset waits for a lock.
	end := w.reader()
	w.ask(from("later", position(15)))
	w.replay("later", "waiting for locks", waitsFor(tokenstore.ReplayWaitsForLocks))
	remove(15)
	w.replay("later", "refused", func(r tokenstore.Replay) bool {
		return r.Phase == tokenstore.ReplayPending && r.Reason == tokenstore.ReplayPlaceInvalid
	})
	end()
	w.appendTo(1, 1)
	w.until("the group to go on where it was", `SELECT EXISTS (SELECT FROM seen WHERE position > 20 AND NOT replay)`)
	w.until("one reset", `SELECT count(*) = 1 FROM seen WHERE position IS NULL`)

	source := eventspostgres.NewSource(w.pool, "sluice")
	var none *eventsource.StartPositionError
	err := w.store().Declare(ctx, tokenstore.Owner{Processor: "test/default/other"}, []tokenstore.Group{{Name: "other", Segments: 1}}, nil, func(string) (progress.Progress, error) {
		return source.Start(ctx, position(3))
	})
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "group other") {
		t.Errorf("a new group that is to begin at 3: %v", err)
	}
	w.until("nothing of it in the store", `SELECT NOT EXISTS (SELECT FROM sluice.processing_group WHERE name = 'other')`)
}
