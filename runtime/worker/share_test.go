package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// sharing makes the segments of groups share transactions, and has those note in which one they handled an event.
func sharing(groups string) string {
	return strings.NewReplacer("type: Go", "type: Go, rows: BySequence", "type: SQL\n", "type: SQL\n      rows: BySequence\n").Replace(noting(groups))
}

func noting(groups string) string {
	return strings.ReplaceAll(groups, "context jsonb)", "context jsonb, tx xid8 DEFAULT pg_current_xact_id())")
}

// shared is true of a transaction in which several tokens move.
func shared(m pgproxy.Message) bool {
	return m.Ran("lock_timeout", "advance(", "INTO stream_view")
}

// appendUntil has events come until a trap springs.
func (w *world) appendUntil(trap *pgproxy.Trap) {
	w.t.Helper()
	for n := range 100 {
		w.appendAtOnce(streams, n)
		select {
		case <-trap.Fired():
			return
		case <-time.After(10 * time.Millisecond): // or it has to be tried again
		}
	}
	trap.WaitFired()
}

const streams = 64 // enough for each of sixteen segments to have some

// warm has each segment handle an event, after which it may share.
func (w *world) warm() {
	w.t.Helper()
	w.appendAtOnce(streams, 1000)
	w.caughtUp()
}

// transactionsOf is how many transactions have handled the events of all but the first, and the most segments that one was for.
func (w *world) transactions() (transactions, most int) {
	w.t.Helper()
	err := w.pool.QueryRow(context.Background(), `
		SELECT count(*), max(segments) FROM (SELECT count(DISTINCT t.segment) AS segments FROM seen s JOIN sluice.event e USING (position)
		  JOIN sluice.token t ON t.group_name = 'view' AND e.slice & t.mask = t.segment WHERE e.version > 1 GROUP BY s.tx) AS each`).Scan(&transactions, &most)
	if err != nil {
		w.t.Fatal(err)
	}
	return transactions, most
}

// TestSegmentsNearTheTailShareTransactions has events come to all of sixteen segments at once, again and again.
func TestSegmentsNearTheTailShareTransactions(t *testing.T) {
	t.Parallel()
	const rounds = 20
	run := func(t *testing.T, groups string) (transactions, most int) {
		w := newWorld(t, fmt.Sprintf(groups, 16))
		w.start("a")
		w.warm()
		w.atRest()
		defer w.watch()()
		for n := range rounds {
			w.appendAtOnce(streams, n)
			w.caughtUp()
		}
		return w.transactions()
	}
	t.Run("declared", func(t *testing.T) {
		t.Parallel()
		transactions, most := run(t, sharing(witnessedOf))
		t.Logf("%d transactions for %d rounds, for up to %d segments each", transactions, rounds, most)
		if transactions > rounds*16/3 || most < 8 {
			t.Errorf("%d transactions for %d rounds of sixteen segments, for up to %d segments each", transactions, rounds, most)
		}
	})
	t.Run("not declared", func(t *testing.T) {
		t.Parallel()
		if transactions, most := run(t, noting(witnessedOf)); transactions < rounds*16 || most != 1 {
			t.Errorf("%d transactions for %d rounds of sixteen segments, for up to %d segments each, want one segment each", transactions, rounds, most)
		}
	})
}

// TestASharedBatchIsNotLargerThanAnother has more events come than a batch may have.
func TestASharedBatchIsNotLargerThanAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharing(fmt.Sprintf(strings.Replace(witnessedOf, "segments: %d", "segments: %d\n    maxBatchSize: 7", 1), 16)))
	w.executors = 1
	w.start("a")
	w.warm()
	for n := range 5 {
		w.appendAtOnce(streams, n)
	}
	w.caughtUp()
	w.until("batches of seven at most", `SELECT max(events) = 7 FROM (SELECT count(*) AS events FROM seen GROUP BY tx) AS batches`)
	if _, most := w.transactions(); most < 2 {
		t.Error("vacuous: no batch was shared")
	}
}

// calls counts how often each event was given to the handler.
type calls struct {
	mu sync.Mutex
	of map[int64]int
}

func (c *calls) note(e handler.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[e.Position]++
}

// most is how often the handler was given an event of a query at the most.
func (c *calls) most(w *world, query string, args ...any) (most int) {
	w.t.Helper()
	rows, err := w.pool.Query(context.Background(), query, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	positions, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(positions) == 0 {
		w.t.Fatalf("%d positions: %v", len(positions), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, position := range positions {
		most = max(most, c.of[position])
	}
	return most
}

// TestAnEventThatFailsHoldsUpItsSegmentAlone has one of eight segments stand still at an event, while more come to all.
func TestAnEventThatFailsHoldsUpItsSegmentAlone(t *testing.T) {
	t.Parallel()
	w, _ := newWorldBehindProxy(t, sharing(fmt.Sprintf(goViewOf, 8)))
	w.executors = 1 // what failed together would be taken together again
	var healed atomic.Bool
	given := &calls{of: map[int64]int{}}
	w.addingUnless(func(e handler.Event) error {
		given.note(e)
		if e.StreamID == "stream-0" && e.Version == 2 && !healed.Load() {
			return errors.New("not this one")
		}
		return nil
	})
	w.start("a")
	w.warm()
	defer w.watch()()
	poisoned := w.tokenOf("stream-0").segment
	others := func(n int) string {
		return fmt.Sprintf(`SELECT count(*) > 0 AND bool_and(v.events = %d) FROM stream_view v JOIN (SELECT DISTINCT stream_id, slice FROM sluice.event) e USING (stream_id) WHERE slice & 7 <> $1`, n)
	}
	w.appendAtOnce(streams, 1001)
	w.until("the others to go on", others(2), poisoned)
	w.until("the event to be known", `SELECT EXISTS (SELECT FROM sluice.failure f JOIN sluice.event e USING (position) WHERE e.stream_id = 'stream-0' AND e.version = 2 AND f.attempts > 3)`)
	for n := range 20 {
		w.appendAtOnce(streams, n)
		w.until("the others to go on", others(3+n), poisoned)
	}
	ofOthers := `SELECT position FROM sluice.event WHERE slice & 7 <> $1 AND version `
	if most := given.most(w, ofOthers+`= 2`, poisoned); most > 3 {
		t.Errorf("an event next to the one that fails was given to the handler %d times, want thrice at most", most)
	}
	if most := given.most(w, ofOthers+`> 2`, poisoned); most > 2 {
		t.Errorf("an event of another segment, after the failure, was given to the handler %d times, want once, or twice where the machine was slow", most)
	}
	healed.Store(true)
	w.caughtUp()
	w.atRest()
}

// TestARowThatIsLockedHoldsUpItsSegmentAlone keeps a row of one segment locked, while events come to all.
func TestARowThatIsLockedHoldsUpItsSegmentAlone(t *testing.T) {
	t.Parallel()
	for kind, newWorld := range kindsOf(sharing) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w, _ := newWorld(t, 8)
			w.start("a")
			w.warm()
			test := w.session()
			test(`BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; SELECT FROM stream_view WHERE stream_id = 'stream-0' FOR UPDATE`)
			for n := range 5 {
				w.appendAtOnce(streams, n)
				w.until("the others to go on", `SELECT count(*) > 0 AND bool_and(v.events = $1) FROM stream_view v JOIN (SELECT DISTINCT stream_id, slice FROM sluice.event) e USING (stream_id)
					WHERE slice & 7 <> (SELECT slice & 7 FROM sluice.event WHERE stream_id = 'stream-0' LIMIT 1)`, n+2)
			}
			test(`COMMIT`)
			w.caughtUp()
			w.atRest()
		})
	}
}

// TestAFenceLosesOnlyTheSegmentThatWasTaken takes one of several segments away while the batch that they share waits to commit.
func TestAFenceLosesOnlyTheSegmentThatWasTaken(t *testing.T) {
	t.Parallel()
	for kind, newWorld := range kindsOf(sharing) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w, proxy := newWorld(t, 8)
			w.executors = 1
			w.start("a")
			w.warm()
			w.atRest()
			defer w.watch()()
			for attempt := 1; !w.losesOne(proxy); attempt++ {
				if attempt == 3 { // once or twice the machine may have been too slow for the worker's lease
					t.Fatal("each time more segments were claimed again than the one that was taken")
				}
			}
			w.appendAtOnce(streams, 1002)
			w.caughtUp()
		})
	}
}

// losesOne takes a segment away from under a shared batch, and reports whether none but that one was claimed again.
func (w *world) losesOne(proxy *pgproxy.Proxy) bool {
	w.t.Helper()
	before := w.epochs()
	taken := int64(0)
	for fenced := false; !fenced; { // the batch that is held may be one without the segment
		if taken++; taken > 10 {
			w.t.Fatal("vacuous: no batch with the segment was held")
		}
		held := proxy.Set(pgproxy.Rule{Hold: true, When: func(m pgproxy.Message) bool {
			return m.Runs() && strings.Contains(m.SQL, "advance(") && shared(m)
		}})
		w.appendUntil(held)
		// What Claim does, by nobody that anybody knows: the worker may claim it again.
		w.exec(`UPDATE sluice.token SET epoch = epoch + 1, version = version + 1 WHERE segment = 5`)
		held.Release()
		fenced = held.WaitSettled().Code == "SL001"
		w.caughtUp()
		w.atRest()
	}
	after := w.epochs()
	w.t.Logf("the epochs have gone up by %d; each of %d claims of the segment by another, and then by this worker, makes 2", after-before, taken)
	return after == before+2*taken
}

// TestReplaysAndOtherTypesInSharedBatches replays a group while segments share, among events that it does not want.
func TestReplaysAndOtherTypesInSharedBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharing(fmt.Sprintf(witnessedOf, 8)))
	w.start("a")
	w.warm()
	other := func(n int) {
		if _, err := w.log.Append(context.Background(), fmt.Sprintf("stream-%d", n), eventspostgres.Any, eventspostgres.NewEvent{Type: "Ignored"}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 10 {
		other(n)
		w.appendAtOnce(streams, n)
	}
	w.ask(tokenstore.ReplayRequest{ID: "fix", Context: map[string]string{"why": "rounding"}})
	for n := range 20 {
		other(n)
		w.appendAtOnce(streams, n)
	}
	w.replay("fix", "complete", in(tokenstore.ReplayComplete))
	for n := range 10 {
		other(n)
		w.appendAtOnce(streams, n)
	}
	w.caughtUp()
	if w.flagged() == 0 {
		t.Error("vacuous: nothing was handled again")
	}
	if _, most := w.transactions(); most < 2 {
		t.Error("vacuous: no batch was shared")
	}
	w.until("the context with what is handled again, and with that alone", `SELECT bool_and((context ->> 'why' IS NOT DISTINCT FROM 'rounding') = replay) FROM seen WHERE position IS NOT NULL`)
}

// TestSegmentsThatShareAreHandedOver has workers come and go, and segments be merged, while they share.
func TestSegmentsThatShareAreHandedOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sharing(fmt.Sprintf(viewOf, 16)))
	w.start("a")
	w.warm()
	defer w.watch()()
	owners := `SELECT count(DISTINCT owner) = $1 AND bool_and(owner <> 0) FROM sluice.token`
	drain := w.start("b")
	for n := range 10 {
		w.appendAtOnce(streams, n)
	}
	w.until("two owners", owners, 2)
	for n := range 10 {
		w.appendAtOnce(streams, n)
	}
	drain()
	w.until("one owner", owners, 1)
	w.caughtUp()
	w.edit(sharing(fmt.Sprintf(viewOf, 4)))
	for n := range 10 {
		w.appendAtOnce(streams, n)
	}
	w.until("four segments", `SELECT count(*) = 4 AND bool_and(owner <> 0) FROM sluice.token`)
	w.caughtUp()
}
