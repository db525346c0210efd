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
	// longTurn is how long a call takes at least that gets a stand-in.
	longTurn = time.Second
	// lookAtTurns is how often they are looked at.
	lookAtTurns = longTurn / 4
	// longestSlow is how long a group counts as slow at most after its last call that did last.
	longestSlow = time.Minute
)

// turn is what an executor does with one segment.
type turn struct {
	group  *group
	behind bool // it counts as one with a backlog
	began  time.Time
	slow   bool // it counts as one of a slow group
	handed bool // a stand-in has the executor's place
}

// isSlow reports whether calls of a group have lasted of late. The caller holds the lock.
func (q *runQueue) isSlow(g *group) bool {
	until, there := q.slow[g]
	return there && time.Now().Before(until)
}

// begin begins a turn.
func (q *runQueue) begin(g *group, behind bool) *turn {
	t := &turn{group: g, behind: behind, began: time.Now()}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.turns == nil {
		q.turns = map[*turn]bool{}
	}
	q.turns[t] = true
	if len(q.slow) > 0 && q.isSlow(g) {
		t.slow = true
		q.slowly++
	}
	return t
}

// end ends a turn, and reports whether a stand-in has the executor's place, and whether the turn
// still counts as one with a backlog.
func (q *runQueue) end(t *turn) (handed, behind bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.turns, t)
	if t.slow {
		q.slowly--
	}
	if took := time.Since(t.began); took >= longTurn {
		q.slow[t.group] = time.Now().Add(min(took, longestSlow))
	}
	if t.handed {
		q.standIns--
	}
	if t.slow || t.handed {
		q.more.Broadcast()
	}
	return t.handed, t.behind
}

// handOver gives away the places of those executors that are at a turn which lasts, or at one of a
// slow group. It returns how many places those are.
func (q *runQueue) handOver(now time.Time) (places int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	if q.closed {
		return 0
	}
	for t := range q.turns {
		if now.Sub(t.began) >= longTurn {
			q.slow[t.group] = now.Add(longestSlow)
			if !t.slow {
				t.slow = true
				q.slowly++
			}
		}
		if !t.slow || t.handed || q.standIns >= q.executors {
			continue
		}
		if t.behind {
			t.behind = false
			q.running--
		}
		t.handed = true
		q.standIns++
		places++
	}
	return places
}

// standIn has stand-ins go on in the places of executors whose calls last. begin begins one.
func (l *life) standIn(ctx context.Context, begin func()) {
	tick := time.NewTicker(lookAtTurns)
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
