package faults

import (
	"context"
	"strings"
	"testing"
	"time"
)

// newer is another definition of the same groups.
func newer(groups string) string {
	changed := strings.Replace(groups, "replay, 1, md5(", "replay, 1 + 0, md5(", 1)
	if changed == groups {
		panic("the view's statement has no such text")
	}
	return changed
}

// surge starts a pod of the definition that is wanted now, and starts it again whenever it ends, until the function that it
// returns is called.
func (w *world) surge(environment ...string) (end func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	first := w.start(environment...)
	go func() {
		defer close(ended)
		for p := first; ; p = w.start(environment...) {
			select {
			case <-p.ended:
			case <-ctx.Done():
				p.cmd.Process.Kill() // it may have ended
				<-p.ended
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// TestAVersionThatFailsIsGivenNothingAndTheOldOneGoesOn rolls out, under load, a version whose process dies or which panics.
func TestAVersionThatFailsIsGivenNothingAndTheOldOneGoesOn(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]string{"its process dies at each event": "exit", "it panics at each event": "panic"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, groups(4))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			writers := w.writers(ctx, 2)
			old := []*pod{w.start(), w.start()}
			w.until("the old version to have proven itself", `SELECT bool_and(proven_at IS NOT NULL) FROM sluice.definition`)
			w.until("the old pods to share the segments", `SELECT count(DISTINCT owner) = 2 AND bool_and(owner <> 0) FROM sluice.token`)

			w.declare(newer(groups(4)))
			end := w.surge("FAULT=" + fault)
			defer end()
			w.until("the new version to be in quarantine", `SELECT bool_or(quarantined_at IS NOT NULL) FROM sluice.definition`)
			w.until("the old pods to have all segments", `SELECT bool_and(w.pod IN ('pod-1', 'pod-2')) FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner HAVING count(*) = 8`)
			w.until("new events to be handled after that", `SELECT EXISTS (SELECT FROM sluice.event e WHERE type = 'Answered' AND recorded_at > (SELECT max(quarantined_at) FROM sluice.definition))`)
			w.until("no pod of it to be ready", `SELECT NOT EXISTS (SELECT FROM sluice.worker WHERE definition = (SELECT definition FROM sluice.processor) AND (report ->> 'ready')::boolean)`)
			end()
			cancel()
			writers.Wait()
			if events := w.check(); events < 50 {
				t.Fatalf("vacuous: %d events", events)
			}
			w.until("nothing to be blocked", `SELECT NOT EXISTS (SELECT FROM sluice.failure)`)

			w.declare(strings.Replace(groups(4), "SELECT stream_id, 1,", "SELECT stream_id, 2 - 1,", 1))
			fixed := w.start()
			w.until("a corrected version to get its share", `SELECT count(*) >= 2 FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE w.pod = $1`, fixed.name)
			for _, p := range append(old, fixed) {
				p.drain()
			}
		})
	}
}

// TestAVersionThatFailsAtOneEventBlocksThatOnesSegment is what is left where the version works but for one event.
func TestAVersionThatFailsAtOneEventBlocksThatOnesSegment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, groups(2))
	old := w.start()
	w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "1"}}]')`)
	w.check()
	w.declare(newer(groups(2)))
	fresh := w.start("FAULT=panic:stream-0")
	w.until("the new version to have its share", `SELECT count(*) > 0 FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE w.pod = $1`, fresh.name)
	old.drain()
	w.until("the new pod to have all", `SELECT count(*) = 4 FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE w.pod = $1`, fresh.name)
	for _, stream := range []string{"stream-0", "stream-1"} { // of different segments of two
		w.exec(`SELECT sluice.append($1, NULL, '[{"type": "Counted", "data": {"n": "1"}}, {"type": "Counted", "data": {"n": "2"}},
			{"type": "Counted", "data": {"n": "3"}}, {"type": "Counted", "data": {"n": "4"}}]')`, stream)
	}
	w.until("the other stream to be answered, and this one up to the event", `SELECT count(*) FILTER (WHERE stream_id = 'answer-stream-1') = 5 AND count(*) FILTER (WHERE stream_id = 'answer-stream-0') = 2 FROM sluice.event`)
	w.until("the event to be blamed", `SELECT count(*) = 1 FROM sluice.failure f JOIN sluice.event e USING (position) WHERE e.stream_id = 'stream-0' AND e.version = 3`)
	w.declare(groups(2))
	fixed := w.start()
	w.until("the old version to be back", `SELECT count(*) > 0 FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE w.pod = $1`, fixed.name)
	fresh.drain()
	w.check()
	fixed.drain()
}

// TestAStatementWithAnUnknownColumnIsNeverRun rolls out what the server does not parse.
func TestAStatementWithAnUnknownColumnIsNeverRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, groups(4))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	writers := w.writers(ctx, 2)
	w.start()
	w.until("events to be handled", `SELECT sum(events) > 20 FROM stream_view`)
	w.declare(strings.Replace(groups(4), "events = v.events + 1", "total = v.total + 1", 1))
	fresh := w.start()
	w.until("the new pod to say what is wrong", `SELECT EXISTS (SELECT FROM sluice.worker WHERE pod = $1 AND report #>> '{groups,view,fault,message}' LIKE '%total%')`, fresh.name)
	time.Sleep(time.Second) // for what must not happen
	w.until("the old pod to have all of the group", `SELECT bool_and(w.pod = 'pod-1') FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE t.group_name = 'view'`)
	w.until("the new pod not to be ready", `SELECT NOT coalesce((report ->> 'ready')::boolean, false) FROM sluice.worker WHERE pod = $1`, fresh.name)
	cancel()
	writers.Wait()
	w.check()
}
