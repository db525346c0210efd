package worker

import (
	"context"
	"time"
)

// Executors are few, and a call may take as long as its group's time limit lets it. So one that
// lasts is left to its executor, and a stand-in goes on in the executor's place until the call
// ends.
//
// What must hold: groups whose calls last have no more calls under way than there are executors,
// however many segments they have, and each executor that such a call has gets a stand-in. So there
// is one for the segments of other groups.
const (
	// longExecution is how long an execution takes at least that gets a stand-in.
	longExecution = time.Second
	// lookAtExecutions is how often executions are looked at.
	lookAtExecutions = longExecution / 4
	// longestSlow is how long a group counts as slow at most after its last call that did last.
	longestSlow = time.Minute
)

// execution is what an executor does with one segment.
type execution struct {
	group  *group
	behind bool // it counts as one with a backlog
	began  time.Time
	slow   bool // it counts as one for a slow group
	handed bool // a stand-in has the executor's place
}

// isSlow reports whether calls of a group have lasted of late. The caller holds the lock.
func (q *runQueue) isSlow(g *group) bool {
	until, there := q.slow[g]
	return there && time.Now().Before(until)
}

// begin begins an execution.
func (q *runQueue) begin(g *group, behind bool) *execution {
	e := &execution{group: g, behind: behind, began: time.Now()}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.executions == nil {
		q.executions = map[*execution]bool{}
	}
	q.executions[e] = true
	if len(q.slow) > 0 && q.isSlow(g) {
		e.slow = true
		q.slowRuns++
	}
	return e
}

// end ends an execution. It reports whether a stand-in has the executor's place, and whether the
// execution still counts as one with a backlog.
func (q *runQueue) end(e *execution) (handed, behind bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.executions, e)
	if e.slow {
		q.slowRuns--
	}
	if took := time.Since(e.began); took >= longExecution {
		q.slow[e.group] = time.Now().Add(min(took, longestSlow))
	}
	if e.handed {
		q.standIns--
	}
	if e.slow || e.handed {
		q.more.Broadcast()
	}
	return e.handed, e.behind
}

// handOver gives away the places of those executors whose execution lasts, or is for a slow group. It
// returns how many places those are.
func (q *runQueue) handOver(now time.Time) (places int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	if q.closed {
		return 0
	}
	for e := range q.executions {
		if now.Sub(e.began) >= longExecution {
			q.slow[e.group] = now.Add(longestSlow)
			if !e.slow {
				e.slow = true
				q.slowRuns++
			}
		}
		if !e.slow || e.handed || q.standIns >= q.executors {
			continue
		}
		if e.behind {
			e.behind = false
			q.running--
		}
		e.handed = true
		q.standIns++
		places++
	}
	return places
}

// standIn has stand-ins go on in the places of executors whose calls last. begin begins one.
func (l *life) standIn(ctx context.Context, begin func()) {
	tick := time.NewTicker(lookAtExecutions)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for range l.runnable.handOver(now) {
				begin()
			}
		}
	}
}
