package faults

import (
	"context"
	"fmt"
	"syscall"
	"testing"
)

// three starts three pods and waits until each owns segments and is watched by another one.
func (w *world) three() []*pod {
	w.t.Helper()
	pods := []*pod{w.start(), w.start(), w.start()}
	w.until("pods to share the segments", `SELECT count(DISTINCT owner) = 3 AND bool_and(owner <> 0) FROM sluice.token`)
	w.until("each to be watched", `SELECT count(DISTINCT objid) = 3 FROM pg_locks WHERE locktype = 'advisory' AND classid IN (SELECT lock_class FROM sluice.worker) AND NOT granted`)
	// Soon after the server's start everybody counts as alive.
	w.until("the server to be up for a while", `SELECT clock_timestamp() > pg_postmaster_start_time() + interval '3 s'`)
	return pods
}

func (w *world) incarnation(p *pod) (n int64) {
	w.t.Helper()
	if err := w.pool.QueryRow(context.Background(), `SELECT max(incarnation) FROM sluice.worker WHERE pod = $1`, p.name).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// application is what a pod's connections are called.
func (w *world) application(p *pod) (name string) {
	w.t.Helper()
	if err := w.pool.QueryRow(context.Background(), `SELECT application FROM sluice.worker WHERE incarnation = $1`, w.incarnation(p)).Scan(&name); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// takenOver waits until others own all segments of a worker.
func (w *world) takenOver(incarnation int64) {
	w.t.Helper()
	w.until("others to own its segments", `SELECT bool_and(owner NOT IN (0, $1)) FROM sluice.token`, incarnation)
}

// tellsOf fails unless the takeovers from a worker were due to one detector.
func (w *world) tellsOf(incarnation int64, want string) {
	w.t.Helper()
	for _, detector := range []string{"SessionLock", "Lease", "Operator"} {
		n := w.logged(fmt.Sprintf(`"from":%d,"detector":"%s"`, incarnation, detector))
		if (n > 0) != (detector == want) {
			w.t.Errorf("worker %d: %d takeovers after %s, want some after %q only", incarnation, n, detector, want)
		}
	}
}

// nothingIsLeft fails unless only the living hold, or wait for, session locks.
func (w *world) nothingIsLeft(alive int) {
	w.t.Helper()
	w.until("only locks of the living", fmt.Sprintf(`SELECT count(*) FILTER (WHERE granted AND mode = 'ExclusiveLock') = %d AND count(*) FILTER (WHERE granted AND mode <> 'ExclusiveLock') = 0
		FROM pg_locks WHERE locktype = 'advisory' AND classid IN (SELECT lock_class FROM sluice.worker) AND objsubid = 2`, alive))
}

// TestAKilledOwnerIsNoticedByItsSessionLock kills owners until the one that watches the victim's session was the first to notice:
// a heartbeat that happens to come within the same few milliseconds sees the same, and turns the watcher away.
func TestAKilledOwnerIsNoticedByItsSessionLock(t *testing.T) {
	w := newWorld(t, groups(8))
	pods := w.three()
	for attempt := 1; ; attempt++ {
		victim := w.incarnation(pods[1])
		pods[1].kill()
		w.takenOver(victim)
		w.tellsOf(victim, "SessionLock")
		if w.logged(fmt.Sprintf(`"worker":%d}`, victim)) == 1 {
			break
		}
		if attempt == 5 {
			t.Fatal("of five owners that were killed, none was noticed by the one that watched its session")
		}
		pods[1] = w.start()
		w.until("the new pod to own segments", `SELECT EXISTS (SELECT FROM sluice.token t JOIN sluice.worker k ON k.incarnation = t.owner WHERE k.pod = $1)`, pods[1].name)
	}
	w.nothingIsLeft(2)
	for _, i := range []int{0, 2} {
		pods[i].drain()
	}
}

func TestSeveralOwnersKilledAtOnceAreAllNoticedByTheirSessionLocks(t *testing.T) {
	w := newWorld(t, groups(8))
	pods := append(w.three(), w.start(), w.start())
	var victims []int64
	for _, p := range pods[1:4] { // next to each other in the ring: one of them watches another
		victims = append(victims, w.incarnation(p))
		p.signal(syscall.SIGKILL)
	}
	for i, victim := range victims {
		<-pods[i+1].ended
		w.takenOver(victim)
		if n := w.logged(fmt.Sprintf(`"from":%d,"detector":"Lease"`, victim)); n > 0 {
			t.Errorf("worker %d was noticed by its lease", victim)
		}
	}
	w.nothingIsLeft(2)
	pods[0].drain()
	pods[4].drain()
}

func TestADrainedOwnerHandsOverToThoseWhoArePlanned(t *testing.T) {
	w := newWorld(t, groups(8))
	pods := w.three()
	for i, p := range pods[:2] { // the one who plans is among any two, or comes to be
		victim := w.incarnation(p)
		p.drain()
		w.takenOver(victim)
		w.tellsOf(victim, "")
		w.until("the plan to be carried out", `SELECT bool_and(a.worker = t.owner) FROM sluice.token t JOIN sluice.assignment a USING (group_name, segment)`)
		w.nothingIsLeft(2 - i)
	}
	if n := w.logged("releasing segments that nobody has asked for"); n > 0 {
		t.Errorf("%d times segments were released before anybody was named for them", n)
	}
	pods[2].drain() // nobody is left to hand over to
}

func TestAFrozenOwnerIsNoticedByItsLease(t *testing.T) {
	w := newWorld(t, groups(8))
	pods := w.three()
	victim := w.incarnation(pods[1])
	pods[1].signal(syscall.SIGSTOP)
	w.takenOver(victim)
	w.tellsOf(victim, "Lease")
	pods[1].signal(syscall.SIGCONT)
	for _, p := range pods {
		p.drain()
	}
}

func TestTheOpenTransactionOfAFrozenOwnerIsEnded(t *testing.T) {
	w := newWorld(t, groups(1))
	pods := w.two()
	var owner int64
	var pod string
	err := w.pool.QueryRow(context.Background(), `SELECT w.incarnation, w.pod FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner WHERE t.group_name = 'answer'`).Scan(&owner, &pod)
	if err != nil {
		t.Fatal(err)
	}
	w.exec(`SELECT sluice.append('stream-1', NULL, jsonb_build_array(jsonb_build_object('type', 'Counted', 'data', jsonb_build_object('n', '0', 'hang', $1::text))))`, pod)
	w.until("its batch to stand still with what it has written", `SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name LIKE 'sluice/%/' || $1::text || '/%' AND state = 'idle in transaction'`, fmt.Sprint(owner))
	for _, p := range pods {
		if p.name == pod {
			p.signal(syscall.SIGSTOP)
			defer p.signal(syscall.SIGCONT)
		}
	}
	// As if the server had found out that the host is gone, but on one of the connections only.
	w.exec(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid IN (SELECT lock_class FROM sluice.worker) AND objid = $1 AND mode = 'ExclusiveLock' AND granted`, owner)
	w.takenOver(owner)
	if n := w.check(); n != 1 {
		t.Fatalf("%d events in the view", n)
	}
	w.tellsOf(owner, "SessionLock")
	if w.logged("ended the connections that were left of dead workers") == 0 {
		t.Error("nothing has ended the transaction that held what the batch needed")
	}
}

// two starts two pods, each with a group's only segment.
func (w *world) two() []*pod {
	w.t.Helper()
	pods := []*pod{w.start(), w.start()}
	w.until("pods to share the segments", `SELECT count(DISTINCT owner) = 2 AND bool_and(owner <> 0) FROM sluice.token`)
	w.until("the server to be up for a while", `SELECT clock_timestamp() > pg_postmaster_start_time() + interval '3 s'`)
	return pods
}

func TestAfterAnUnknownOutcomeASegmentIsClaimedAgainFirst(t *testing.T) {
	w := newWorld(t, groups(1))
	p := w.start()
	w.until("the pod to own the segments", `SELECT count(*) = 2 FROM sluice.token WHERE owner <> 0`)
	w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "0"}}]')`)
	w.check()
	const token = `SELECT epoch FROM sluice.token WHERE group_name = 'view'`
	var before, after int64
	if err := w.pool.QueryRow(context.Background(), token).Scan(&before); err != nil {
		t.Fatal(err)
	}

	tx, err := w.pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) // nothing is left to roll back after the one below
	if _, err := tx.Exec(context.Background(), "SELECT FROM stream_view FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	w.exec(`SELECT sluice.append('stream-1', NULL, '[{"type": "Counted", "data": {"n": "1"}}]')`)
	const batch = `FROM pg_stat_activity WHERE application_name LIKE 'sluice/%' AND wait_event_type = 'Lock' AND wait_event <> 'advisory'`
	w.until("the batch to wait for the lock", `SELECT EXISTS (SELECT `+batch+`)`)
	w.exec(`SELECT pg_terminate_backend(pid) ` + batch)
	w.until("the segment to be claimed again", `SELECT epoch > $1 FROM sluice.token WHERE group_name = 'view'`, before)
	if err := tx.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := w.check(); n != 2 {
		t.Fatalf("%d events in the view", n)
	}
	if err := w.pool.QueryRow(context.Background(), token).Scan(&after); err != nil {
		t.Fatal(err)
	}
	if lost := w.logged("outcome is unknown"); after != before+int64(lost) || lost == 0 {
		t.Errorf("the epoch went from %d to %d after %d lost batches", before, after, lost)
	}
	p.drain()
}
