package worker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// goGroup is a group with a Go handler of one segment, whose time limit is short.
const goGroup = `
  - name: calls
    segments: 1
    timeout: 300ms
    onError: {backoff: {initial: 50ms, max: 200ms}}
    handler: {type: Go}`

// other is a group that has nothing to do with what another one does.
const other = `
  - name: view
    segments: 2` + view

// bad appends, in the middle of others of its own stream, an event of the stream bad, and returns its position.
func (w *world) bad() (position int64) {
	w.t.Helper()
	var events []eventspostgres.NewEvent
	for _, kind := range []string{"Counted", "Bad", "Counted"} {
		events = append(events, eventspostgres.NewEvent{Type: kind, Data: map[string]int{"n": 1}})
	}
	if _, err := w.log.Append(context.Background(), "bad", eventspostgres.Any, events...); err != nil {
		w.t.Fatal(err)
	}
	if err := w.pool.QueryRow(context.Background(), `SELECT position FROM sluice.event WHERE type = 'Bad'`).Scan(&position); err != nil {
		w.t.Fatal(err)
	}
	return position
}

// seen is what the handler of calls keeps of each event that it has handled.
func (w *world) makeSeen() {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), `CREATE TABLE seen (n bigserial PRIMARY KEY, position bigint NOT NULL)`); err != nil {
		w.t.Fatal(err)
	}
}

func record(ctx context.Context, tx pgx.Tx, e handler.Event) error {
	_, err := tx.Exec(ctx, `INSERT INTO seen (position) VALUES ($1)`, e.Position)
	return err
}

// seenOnce fails unless all events were handled once and in order.
func (w *world) seenOnce() {
	w.t.Helper()
	w.until("all events handled", `SELECT (SELECT count(*) FROM seen) >= (SELECT count(*) FROM sluice.event)`)
	var right bool
	err := w.pool.QueryRow(context.Background(), `SELECT (SELECT array_agg(position ORDER BY n) FROM seen) = (SELECT array_agg(position ORDER BY position) FROM sluice.event)`).Scan(&right)
	if err != nil || !right {
		w.t.Errorf("not each event was handled once and in order (%v)", err)
	}
}

// TestACallThatHangsAtItsFirstEventIsNotSearched has a batch whose first event hangs. The handler
// tells where it is, so the event is called alone next.
func TestACallThatHangsAtItsFirstEventIsNotSearched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: view
    segments: 1
    timeout: 500ms
    onError: {backoff: {initial: 1m, max: 1m}}
    handler: {type: Go}`)
	w.grace = 200 * time.Millisecond
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var calls atomic.Int32
	w.handlers = map[string]handler.Handler{"view": handler.Each(func(context.Context, pgx.Tx, handler.Event) error {
		calls.Add(1)
		<-hang
		return nil
	}, "Counted")}
	w.appendAtOnce(16, 1)
	w.start("a")
	w.until("an attempt", `SELECT EXISTS (SELECT FROM sluice.failure WHERE attempts = 1)`)
	if n := calls.Load(); n > 2 {
		t.Errorf("the handler was called %d times until an attempt was counted", n)
	}
}

// TestAnEventThatHangsIsFoundAtTheSecondTimeLimit has one event of a batch hang, in handlers that do
// not tell where they are: halving would take a time limit for each step.
func TestAnEventThatHangsIsFoundAtTheSecondTimeLimit(t *testing.T) {
	t.Parallel()
	const events, culprit = 40, 29
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for name, wait := range map[string]func(context.Context, pgx.Tx) error{
		"a function that ignores its context": func(context.Context, pgx.Tx) error {
			<-hang
			return nil
		},
		"a function that heeds its context": func(ctx context.Context, _ pgx.Tx) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"a statement": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SELECT pg_sleep(60)")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, `
  - name: view
    segments: 1
    timeout: 2s
    onError: {backoff: {initial: 1m, max: 1m}}
    handler: {type: Go}`)
			w.grace = 200 * time.Millisecond
			var hung atomic.Int32
			w.handlers = map[string]handler.Handler{"view": handler.Set(func(ctx context.Context, tx pgx.Tx, batch []handler.Event) error {
				if batch[0].Position <= culprit && culprit <= batch[len(batch)-1].Position {
					hung.Add(1)
					return wait(ctx, tx)
				}
				return nil
			}, "Counted")}
			w.appendAtOnce(events, 1)
			w.start("a")
			w.until("an attempt", fmt.Sprintf(`SELECT EXISTS (SELECT FROM sluice.failure WHERE position = %d AND attempts = 1)`, culprit))
			if n := hung.Load(); n != 2 {
				t.Errorf("%d calls ran out of time until an attempt was counted", n)
			}
		})
	}
}

// TestWhateverAHandlerDoesItsEventIsNamed has a Go handler misbehave at one event, until the cause
// is gone. Meanwhile the event is named in the store and in the report, the events before it are
// handled, those after it wait, and other groups go on.
func TestWhateverAHandlerDoesItsEventIsNamed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reason string
		at     func(ctx context.Context, tx pgx.Tx, mended <-chan struct{}) error
	}{
		"it fails":  {"HandlerFailed", func(context.Context, pgx.Tx, <-chan struct{}) error { return errors.New("no") }},
		"it panics": {"HandlerPanicked", func(context.Context, pgx.Tx, <-chan struct{}) error { panic("no") }},
		"it ends its goroutine": {"HandlerExited", func(context.Context, pgx.Tx, <-chan struct{}) error {
			runtime.Goexit()
			return nil
		}},
		"it waits for its context": {"HandlerTimedOut", func(ctx context.Context, _ pgx.Tx, _ <-chan struct{}) error {
			<-ctx.Done()
			return ctx.Err()
		}},
		"it ignores its context": {"HandlerTimedOut", func(_ context.Context, _ pgx.Tx, mended <-chan struct{}) error {
			<-mended
			return nil
		}},
		"it waits in a statement": {"HandlerTimedOut", func(ctx context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, err := tx.Exec(ctx, "SELECT pg_sleep(60)")
			return err
		}},
		"it waits in a statement and ignores its context": {"HandlerTimedOut", func(_ context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, err := tx.Exec(context.Background(), "SELECT pg_sleep(60)")
			return err
		}},
		"it cancels a context of its own": {"HandlerFailed", func(ctx context.Context, _ pgx.Tx, _ <-chan struct{}) error {
			own, cancel := context.WithCancel(ctx)
			cancel()
			return fmt.Errorf("asking a service: %w", own.Err())
		}},
		"it ends its connection": {"CallDidNotEnd", func(ctx context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, err := tx.Exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid())")
			return err
		}},
		"it swallows an error": {"HandlerFailed", func(ctx context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, _ = tx.Exec(ctx, "SELECT 1/0")
			return nil
		}},
		"it raises an error of its own": {"HandlerFailed", func(ctx context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'closed' USING ERRCODE = 'AC001'; END $$")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, goGroup+other)
			w.grace = 200 * time.Millisecond
			w.executors = 1 // so that other groups go on only if it goes on
			w.makeSeen()
			mended := make(chan struct{})
			mend := sync.OnceFunc(func() { close(mended) })
			defer mend()
			w.handlers = map[string]handler.Handler{"calls": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
				select {
				case <-mended:
				default:
					if e.Type == "Bad" {
						if err := test.at(ctx, tx, mended); err != nil {
							return err
						}
					}
				}
				return record(ctx, tx, e)
			})}
			w.appendTo(3, 2)
			position := w.bad()
			w.start("a")
			w.until("the attempts at the event", `SELECT count(*) = 1 FROM sluice.failure WHERE group_name = 'calls' AND position = $1 AND attempts >= 2 AND reason = $2
				AND event_type = 'Bad' AND stream = 'bad'`, position, test.reason)
			w.until("the report", `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,calls,fault,reason}' = $2 AND (report #>> '{groups,calls,fault,position}')::bigint = $1
				AND report #>> '{groups,calls,fault,type}' = 'Bad' AND (report #>> '{groups,calls,blocked}')::int = 1)`, position, test.reason)
			w.until("the events before", `SELECT (SELECT count(*) FROM seen) = (SELECT count(*) FROM sluice.event WHERE position < $1)`, position)
			w.appendTo(3, 2)
			w.handled(14) // of the other group
			mend()
			w.seenOnce()
			w.until("no failure", `SELECT count(*) = 0 FROM sluice.failure`)
		})
	}
}

// TestALongCallIsReportedWhileItRuns needs no failure: nobody knows yet how it ends.
func TestALongCallIsReportedWhileItRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: calls
    segments: 1
    timeout: 0s
    handler: {type: Go}`)
	w.makeSeen()
	release := make(chan struct{})
	w.handlers = map[string]handler.Handler{"calls": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		if e.Type == "Bad" {
			<-release
		}
		return record(ctx, tx, e)
	})}
	position := w.bad()
	w.start("a")
	mend := sync.OnceFunc(func() { close(release) })
	defer mend()
	w.until("the call in the report", `SELECT EXISTS (SELECT FROM sluice.worker, jsonb_array_elements(report #> '{groups,calls,calls}') AS c
		WHERE (c ->> 'position')::bigint = $1 AND c ->> 'type' = 'Bad' AND c ->> 'stream' = 'bad' AND c ->> 'kind' = 'Batch' AND (c ->> 'running')::float >= 5)`, position)
	mend()
	w.seenOnce()
}

// TestAHandlerMayPauseInItsTransaction for as long as its time limit, between any two statements:
// it may call a service.
func TestAHandlerMayPauseInItsTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: calls
    segments: 1
    handler: {type: Go}`)
	w.makeSeen()
	var called atomic.Int64
	w.handlers = map[string]handler.Handler{"calls": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		called.Add(1)
		if e.Type != "Bad" {
			return record(ctx, tx, e)
		}
		var n int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM seen").Scan(&n); err != nil {
			return err
		}
		time.Sleep(4 * time.Second) // longer than any session of Sluice's own may rest
		return record(ctx, tx, e)
	})}
	w.bad()
	w.start("a")
	w.seenOnce()
	if n := called.Load(); n != 3 {
		t.Errorf("the handler was called %d times for three events", n)
	}
	var failures int
	if err := w.pool.QueryRow(t.Context(), "SELECT count(*) FROM sluice.failure").Scan(&failures); err != nil || failures > 0 {
		t.Errorf("%d attempts have failed (%v)", failures, err)
	}
}

// TestACallThatDidNotEndIsCountedByTheNextOwner has a worker that has marked its call end without a word.
func TestACallThatDidNotEndIsCountedByTheNextOwner(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		events   int64 // in the call
		attempts int
	}{"one event counts": {1, 1}, "several are handled one by one first": {3, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			w := newWorld(t, `
  - name: calls
    segments: 1
    onError: {backoff: {initial: 1h, max: 1h}}
    handler: {type: Go}`)
			w.makeSeen()
			var mu sync.Mutex
			var calls []int
			w.handlers = map[string]handler.Handler{"calls": handler.Set(func(ctx context.Context, tx pgx.Tx, events []handler.Event) error {
				mu.Lock()
				calls = append(calls, len(events))
				mu.Unlock()
				for _, e := range events {
					if err := record(ctx, tx, e); err != nil {
						return err
					}
				}
				return nil
			})}
			w.appendTo(1, 10)
			store, directory := postgres.NewStore(w.pool, postgres.DefaultSchema), postgres.NewDirectory(w.pool, postgres.DefaultSchema)
			err := directory.Register(ctx, processor, tokenstore.Worker{Incarnation: 1 << 30, Nonce: "00000000-0000-4000-8000-000000000000", Pod: "gone", Definition: w.spec.Definition().ID(), Handlers: []string{}})
			if err != nil {
				t.Fatal(err)
			}
			tokens, err := store.Tokens(ctx, processor)
			if err != nil {
				t.Fatal(err)
			}
			tokens, err = store.Claim(ctx, processor, 1<<30, 1, []tokenstore.Claim{{Key: tokens[0].Key, Epoch: tokens[0].Epoch}})
			if err != nil || len(tokens) != 1 {
				t.Fatal(tokens, err)
			}
			var first int64
			if err := w.pool.QueryRow(ctx, "SELECT min(position) FROM sluice.event").Scan(&first); err != nil {
				t.Fatal(err)
			}
			mark := tokenstore.Failure{Key: tokens[0].Key, Calling: true, Position: first, Last: first + test.events - 1, Type: "Counted", Stream: "stream-0"}
			if err := store.Mark(ctx, tokens[0].Epoch, tokens[0].Version, mark); err != nil {
				t.Fatal(err)
			}
			if err := directory.SetState(ctx, 1<<30, tokenstore.Ended); err != nil {
				t.Fatal(err)
			}
			w.start("a")
			if test.attempts > 0 {
				w.until("the attempt", `SELECT EXISTS (SELECT FROM sluice.failure WHERE position = $1 AND attempts = 1 AND reason = 'CallDidNotEnd' AND stream = 'stream-0')`, first)
				mu.Lock()
				defer mu.Unlock()
				if len(calls) > 0 {
					t.Errorf("the handler was called with %v events before the wait was over", calls)
				}
				return
			}
			w.seenOnce()
			mu.Lock()
			defer mu.Unlock()
			if len(calls) < 4 || calls[0] != 1 || calls[1] != 1 || calls[2] != 1 {
				t.Errorf("the events of the call were handled in batches of %v, want them one by one", calls)
			}
			w.until("no mark", `SELECT count(*) = 0 FROM sluice.failure`)
		})
	}
}

// TestABatchIsSplitAtTheEventThatFails counts how often each event is handled.
func TestABatchIsSplitAtTheEventThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: calls
    segments: 1
    onError: {backoff: {initial: 1h, max: 1h}}
    handler: {type: Go}`)
	w.makeSeen()
	var mu sync.Mutex
	calls := map[int64]int{}
	w.handlers = map[string]handler.Handler{"calls": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		mu.Lock()
		calls[e.Position]++
		mu.Unlock()
		if e.Type == "Bad" {
			return errors.New("no")
		}
		return record(ctx, tx, e)
	})}
	w.appendAtOnce(20, 1)
	position := w.bad()
	w.start("a")
	w.until("the attempt", `SELECT EXISTS (SELECT FROM sluice.failure WHERE position = $1 AND attempts = 1)`, position)
	mu.Lock()
	defer mu.Unlock()
	for at, n := range calls {
		if n > 2 || at > position {
			t.Errorf("the event at %d was handled %d times; the one that fails is at %d", at, n, position)
		}
	}
}

// TestAnEventThatFailsAtOneWorkerIsTriedAtTheOthers has a worker at which every event fails, whose route to a service is lost say,
// and one at which all go well.
func TestAnEventThatFailsAtOneWorkerIsTriedAtTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: calls
    segments: 8
    onError: {backoff: {initial: 50ms, max: 100ms}}
    handler: {type: Go}`)
	w.makeSeen()
	w.handlers = map[string]handler.Handler{"calls": handler.Each(record)}
	w.start("good")
	w.until("one owner", `SELECT bool_and(owner <> 0) FROM sluice.token`)
	w.handlers = map[string]handler.Handler{"calls": handler.Each(func(context.Context, pgx.Tx, handler.Event) error { return errors.New("no route to host") })}
	w.start("cut off")
	w.until("two owners", `SELECT bool_and(owner <> 0) AND count(DISTINCT owner) = 2 FROM sluice.token`)
	w.appendAtOnce(40, 1)
	w.until("the worker at which all fails to say so", `SELECT EXISTS (SELECT FROM sluice.worker WHERE pod = 'cut off' AND report #>> '{unfit,message}' LIKE '%no route to host%')`)
	w.until("all events handled", `SELECT count(*) = 40 AND count(DISTINCT position) = 40 FROM seen`)
	w.until("no failure", `SELECT count(*) = 0 FROM sluice.failure`)
}

// TestAnEventThatFailsEverywhereIsTriedOnceAtEachWorkerFirst has as many workers as calls are counted for.
func TestAnEventThatFailsEverywhereIsTriedOnceAtEachWorkerFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: calls
    segments: 4
    onError: {backoff: {initial: 50ms, max: 100ms}}
    handler: {type: Go}`)
	w.makeSeen()
	var mended sync.Once
	good := make(chan struct{})
	w.handlers = map[string]handler.Handler{"calls": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		select {
		case <-good:
		default:
			if e.Type == "Bad" {
				return errors.New("no")
			}
		}
		return record(ctx, tx, e)
	})}
	for _, pod := range []string{"a", "b", "c"} {
		w.start(pod)
	}
	w.until("three owners", `SELECT bool_and(owner <> 0) AND count(DISTINCT owner) = 3 FROM sluice.token`)
	position := w.bad()
	w.until("all workers to have tried it", `SELECT EXISTS (SELECT FROM sluice.failure WHERE position = $1 AND cardinality(tried) = 3 AND attempts > 4)`, position)
	mended.Do(func() { close(good) })
	w.until("all events handled", `SELECT count(*) = 3 AND count(DISTINCT position) = 3 FROM seen`)
	w.until("no failure", `SELECT count(*) = 0 FROM sluice.failure`)
}

// TestAnEventThatNobodyWantsAnyMoreBlocksNothing has a definition leave out an event that failed under the one before.
func TestAnEventThatNobodyWantsAnyMoreBlocksNothing(t *testing.T) {
	t.Parallel()
	groups := func(unwanted string) string {
		return `
  - name: calls
    segments: 1
    onError: {backoff: {initial: 50ms, max: 100ms}}
    handler:
      type: SQL
      sql:
        statements:
        - {eventTypes: [Counted], each: "INSERT INTO seen (position) SELECT position FROM event"}
        - {eventTypes: [` + unwanted + `], each: "INSERT INTO seen (position) SELECT position / 0 FROM event"}`
	}
	w := newWorld(t, groups("Bad"))
	w.makeSeen()
	position := w.bad()
	drain := w.start("a")
	w.until("the attempt", `SELECT EXISTS (SELECT FROM sluice.failure WHERE position = $1 AND attempts >= 1)`, position)
	drain()
	w.edit(groups("Other"))
	w.start("b")
	w.until("the events around it", `SELECT count(*) = 2 FROM seen`)
	w.until("no failure", `SELECT count(*) = 0 FROM sluice.failure`)
}

// TestAttemptsAtALateEventAreKept has an event fail whose position is below that of its token, since
// its transaction committed after others. Moves of the token that do not handle it must not delete
// what is stored of its attempts.
func TestAttemptsAtALateEventAreKept(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	groups := func(fails string) string {
		return `
  - name: calls
    segments: 1
    onError: {backoff: {initial: 20ms, max: 20ms}}
    handler:
      type: SQL
      sql:
        statements:
        - {eventTypes: [Counted], each: "INSERT INTO seen (position) SELECT position FROM event"}
        - {eventTypes: [` + fails + `], each: "INSERT INTO seen (position) SELECT position / 0 FROM event"}`
	}
	begin := func(t *testing.T) (w *world, before, late pgx.Tx) {
		w = newWorld(t, groups("Bad"))
		w.makeSeen()
		open := func(stream, kind string) pgx.Tx {
			tx, err := w.begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tx.Rollback(ctx) })
			if _, err := w.log.AppendTx(ctx, tx, stream, eventspostgres.Any, eventspostgres.NewEvent{Type: kind, Data: map[string]int{"n": 1}}); err != nil {
				t.Fatal(err)
			}
			return tx
		}
		before, late = open("before", "Counted"), open("bad", "Bad")
		w.appendTo(1, 3)
		return w, before, late
	}
	fails := func(w *world, late pgx.Tx) (since time.Time) {
		w.until("the later events", `SELECT count(*) = 3 FROM seen`)
		if err := late.Commit(ctx); err != nil {
			w.t.Fatal(err)
		}
		w.until("attempts", `SELECT EXISTS (SELECT FROM sluice.failure WHERE attempts >= 3)`)
		w.until("the failed event to be below the token", `SELECT f.position < t.position FROM sluice.failure f JOIN sluice.token t USING (tenant, group_name, segment)`)
		if err := w.pool.QueryRow(ctx, `SELECT since FROM sluice.failure`).Scan(&since); err != nil {
			w.t.Fatal(err)
		}
		return since
	}

	t.Run("by a release", func(t *testing.T) {
		t.Parallel()
		w, _, late := begin(t)
		drain := w.start("a")
		since := fails(w, late)
		drain()
		w.until("the segment to be released", `SELECT owner = 0 FROM sluice.token`)
		w.holds("attempts are kept", `SELECT count(*) = 1 FROM sluice.failure WHERE attempts >= 3 AND since = $1`, since)
	})
	t.Run("by a batch of an earlier event", func(t *testing.T) {
		t.Parallel()
		w, before, late := begin(t)
		w.start("a")
		since := fails(w, late)
		if err := before.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		w.exec(`UPDATE sluice.token SET epoch = epoch + 1, version = version + 1, owner = 0`) // it is claimed again
		w.until("the earlier event", `SELECT count(*) = 4 FROM seen`)
		w.holds("attempts are kept", `SELECT count(*) = 1 FROM sluice.failure WHERE attempts >= 3 AND since = $1`, since)
	})
	t.Run("until nobody wants it", func(t *testing.T) {
		t.Parallel()
		w, _, late := begin(t)
		drain := w.start("a")
		fails(w, late)
		drain()
		w.edit(groups("Other"))
		w.start("b")
		w.until("no failure", `SELECT count(*) = 0 FROM sluice.failure`)
	})
}

// holds fails unless a query returns true.
func (w *world) holds(what, query string, args ...any) {
	w.t.Helper()
	var holds bool
	if err := w.pool.QueryRow(context.Background(), query, args...).Scan(&holds); err != nil || !holds {
		w.t.Errorf("not so: %s (%v)", what, err)
	}
}

// TestAnotherServerThatFailsIsNotTakenForTheStore has a handler fail to connect to a database of
// its own: what is reported says so, and the segment is not claimed again as if the batch's
// connection had been lost.
func TestAnotherServerThatFailsIsNotTakenForTheStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, goGroup)
	w.makeSeen()
	var mended atomic.Bool
	w.handlers = map[string]handler.Handler{"calls": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		if e.Type == "Bad" && !mended.Load() {
			other := tx.Conn().Config().Copy()
			other.Database = "not_there"
			_, err := pgx.ConnectConfig(ctx, other)
			return err
		}
		return record(ctx, tx, e)
	})}
	w.start("a")
	w.until("an owner", `SELECT bool_and(owner <> 0) FROM sluice.token`)
	epoch := w.count(`SELECT epoch FROM sluice.token`)
	position := w.bad()
	w.until("the report", `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,calls,fault,reason}' = 'ServerError'
		AND (report #>> '{groups,calls,fault,position}')::bigint = $1 AND report #>> '{groups,calls,fault,message}' LIKE '%not_there%')`, position)
	if got := w.count(`SELECT epoch FROM sluice.token`); got != epoch || w.count(`SELECT count(*) FROM sluice.failure`) != 0 {
		t.Errorf("the segment was claimed %d times more", got-epoch)
	}
	mended.Store(true)
	w.seenOnce()
}
