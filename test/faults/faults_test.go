package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-project/sluice/test/history"
)

// chaos is how long the storm lasts.
func chaos(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SLUICE_FAULTS_DURATION")
	if text == "" {
		return 40 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SLUICE_FAULTS_DURATION: %v", err)
	}
	return d
}

func TestEachEventOnceAndInOrderWhilePodsAreKilledFrozenAndScaled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, groups(8))
	w.record()
	ctx, cancel := context.WithCancel(context.Background())
	writers := w.writers(ctx, 4)
	pods := []*pod{w.start(), w.start(), w.start()}
	w.until("pods to share the segments", `SELECT count(DISTINCT owner) = 3 FROM sluice.token WHERE owner <> 0`)
	did := w.storm(pods, func() *pod { return w.start() }, chaos(t))
	cancel()
	writers.Wait()
	w.survived(did)
}

// storm kills, freezes, drains and scales pods, splits and merges segments and ends connections for a time, and returns how often
// it did what.
func (w *world) storm(pods []*pod, start func() *pod, long time.Duration) map[string]int {
	w.t.Helper()
	seed := uint64(time.Now().UnixNano())
	w.t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	did := map[string]int{}
	const least = 4 // turns, of which no run may lack one
	for turn, end := 0, time.Now().Add(long); turn < least || time.Now().Before(end); turn++ {
		i := random.IntN(len(pods))
		act, past := random.IntN(6), random.IntN(2) == 0
		switch turn {
		case 0:
			act, i = 0, w.owner(pods)
		case 1:
			act, i, past = 1, w.owner(pods), true
		case 2, 3:
			act = 4
		}
		switch {
		case act == 0:
			did["kill"]++
			pods[i].kill()
			pods[i] = start()
		case act == 1:
			did["freeze"]++
			frozen := pods[i]
			frozen.signal(syscall.SIGSTOP)
			pods[i] = start()
			if past { // its lease
				w.takenFrom(frozen)
				did["takeover"]++
			}
			frozen.signal(syscall.SIGCONT)
			frozen.drain()
		case act == 2 && len(pods) < 5:
			did["scale out"]++
			pods = append(pods, start())
		case act == 3 && len(pods) > 2:
			did["scale in"]++
			pods[i].drain()
			pods = append(pods[:i], pods[i+1:]...)
		case act == 4 && turn < least:
			did["split or merge"]++
			w.reshape([]int{16, 3}[turn-2])
		case act == 4:
			did["split or merge"]++
			w.declare(groups(1 + random.IntN(16)))
		default:
			did["connections ended"]++
			w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sluice/%' AND random() < 0.3`)
		}
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond) // the schedule, not a wait for something
	}
	return did
}

// owner returns the pod that owns most segments, as soon as one has as many as make a takeover of several.
func (w *world) owner(pods []*pod) int {
	w.t.Helper()
	names := make([]string, len(pods))
	for i, p := range pods {
		names[i] = p.name
	}
	const owners = `SELECT w.pod FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE w.pod = ANY ($1) GROUP BY 1`
	w.until("a pod to own several segments", "SELECT EXISTS ("+owners+" HAVING count(*) >= $2)", names, takeovers)
	var name string
	if err := w.pool.QueryRow(context.Background(), owners+" ORDER BY count(*) DESC LIMIT 1", names).Scan(&name); err != nil {
		w.t.Fatal(err)
	}
	return slices.Index(names, name)
}

// takeovers are how many segments have to be taken over in a storm.
const takeovers = 3

// reshape splits and merges until there are so many segments, which a schedule of chance need not wait for.
func (w *world) reshape(segments int) {
	w.t.Helper()
	w.declare(groups(segments))
	w.until(fmt.Sprintf("%d segments", segments), `SELECT count(*) = $1 FROM sluice.token WHERE group_name = 'view'`, segments)
}

// takenFrom waits until a pod owns nothing any more.
func (w *world) takenFrom(p *pod) {
	w.t.Helper()
	w.until("the segments of "+p.name+" to be taken over", `SELECT NOT EXISTS (SELECT FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE w.pod = $1)`, p.name)
}

// survived checks every event after a storm, and that there was one.
func (w *world) survived(did map[string]int) {
	w.t.Helper()
	events := w.check()
	did["fenced commits"] = w.logged("a batch was fenced off")
	did["unknown outcomes"] = w.logged("outcome is unknown")
	w.t.Logf("%d events; %v", events, did)
	if events < 500 || did["kill"] == 0 || did["takeover"] == 0 || did["fenced commits"] == 0 {
		w.t.Fatalf("vacuous: %d events, %v", events, did)
	}
	w.historyHolds(history.Want{Events: 1000, Takeovers: takeovers, Splits: 1, Merges: 1, Shared: 3})
}

func TestAFrozenOwnersBatchIsFencedOff(t *testing.T) {
	w := newWorld(t, groups(1))
	ctx := context.Background()
	first := w.start()
	w.until("the pod to own the segments", `SELECT count(*) = 2 FROM sluice.token WHERE owner <> 0`)
	w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "0"}}]')`)
	w.check()

	// A lock of the test's makes the next batch wait in the middle, where its process is frozen.
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx) // nothing is left to roll back after the one below
	if _, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = 0; SELECT FROM stream_view FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "1"}}]')`)
	w.until("the batch to wait for the lock", `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'sluice/%' AND wait_event_type = 'Lock' AND wait_event <> 'advisory')`)
	first.signal(syscall.SIGSTOP)
	second := w.start()
	w.until("another pod to take over", `SELECT count(*) = 2 FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE w.pod = $1`, second.name)
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	first.signal(syscall.SIGCONT)
	if n := w.check(); n != 2 {
		t.Fatalf("%d events in the view", n)
	}
	first.drain()
	second.drain()
}

func TestProcessingGoesOnAfterTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, groups(8))
	ctx, cancel := context.WithCancel(context.Background())
	writers := w.writers(ctx, 3)
	pods := []*pod{w.start(), w.start()}
	w.until("events to be handled", `SELECT count(*) > 20 FROM stream_view`)
	again, err := w.server.Restart(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.Stop(); err != nil {
			t.Error(err)
		}
	})
	w.until("a token to be written after the restart", `SELECT EXISTS (SELECT FROM sluice.token WHERE xmin::text::bigint > 0 AND owner <> 0)`)
	w.until("events to be handled", `SELECT sum(events) > 500 FROM stream_view`)
	cancel()
	writers.Wait()
	w.check()
	for _, p := range pods {
		p.drain()
	}
}

func TestAnEventThatFailsBlocksItsSegmentOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, groups(2))
	pods := []*pod{w.start(), w.start()}
	w.until("the view's table", `SELECT to_regclass('stream_view') IS NOT NULL`)
	w.exec(`ALTER TABLE stream_view ADD CONSTRAINT at_most_two CHECK (stream_id <> 'stream-0' OR events <= 2)`)
	for _, stream := range []string{"stream-0", "stream-1"} { // of different segments of two
		w.exec(`SELECT sluice.append($1, NULL, '[{"type": "Counted", "data": {"n": "1"}}, {"type": "Counted", "data": {"n": "2"}},
			{"type": "Counted", "data": {"n": "3"}}, {"type": "Counted", "data": {"n": "4"}}]')`, stream)
	}
	w.until("what comes before the event, and the other segment, to be handled",
		`SELECT count(*) = 2 FROM stream_view WHERE (stream_id, events) IN (('stream-0', 2), ('stream-1', 4))`)
	w.until("three attempts", `SELECT EXISTS (SELECT FROM sluice.failure f JOIN sluice.event e ON e.position = f.position
		WHERE f.attempts >= 3 AND e.stream_id = 'stream-0' AND e.version = 3 AND f.message LIKE '%at_most_two%')`)
	for _, p := range pods {
		p.kill()
	}
	pods[0] = w.start()
	w.until("the attempts to go on in another pod", `SELECT EXISTS (SELECT FROM sluice.failure WHERE attempts >= 5)`)
	w.until("the report to say so", `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,view,fault,kind}' = 'Event' AND (report #>> '{groups,view,blocked}')::int = 1)`)
	w.exec(`ALTER TABLE stream_view DROP CONSTRAINT at_most_two`)
	if n := w.check(); n != 8 {
		t.Fatalf("%d events in the view", n)
	}
	w.until("the failure to be cleared", `SELECT NOT EXISTS (SELECT FROM sluice.failure)`)
	pods[0].drain()
}

func TestAMissingTableStopsItsGroupUntilItIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(groups(2), "setup: CREATE TABLE IF NOT EXISTS stream_view (stream_id text PRIMARY KEY, position bigint, replay boolean, events bigint NOT NULL, chain text NOT NULL)", "setup: SELECT 1", 1))
	p := w.start()
	w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "1"}}]')`)
	w.until("the reason in the worker's report", `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,view,fault,reason}' = 'TableMissing' AND (report #> '{groups,view,refused}')::bool)`)
	w.until("the other group to go on", `SELECT EXISTS (SELECT FROM sluice.event WHERE type = 'Answered')`)
	w.exec(`CREATE TABLE stream_view (stream_id text PRIMARY KEY, position bigint, replay boolean, events bigint NOT NULL, chain text NOT NULL)`)
	w.check()
	w.exec(`DROP TABLE stream_view`)
	w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "2"}}]')`)
	w.until("the reason, while it runs", `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,view,fault,kind}' = 'Definition')`)
	w.exec(`CREATE TABLE stream_view AS SELECT 'stream-1' AS stream_id, 1::bigint AS position, false AS replay, 1::bigint AS events, md5('1') AS chain`)
	w.exec(`ALTER TABLE stream_view ADD PRIMARY KEY (stream_id)`)
	w.check()
	p.drain()
}
