package worker

import (
	"slices"
	"sync"
	"time"
)

// runQueue holds the segments that have something to do, each once, first come first served. Segments near the tail go before those with
// a backlog, of whose large batches fewer may run at a time than there are executors: what happens now does not wait for what is to be
// made up for. Yet it does not keep that from ever being made up for: one segment with a backlog goes after every so many near the tail
// that went before it.
type runQueue struct {
	mu     sync.Mutex
	live   []*segmentRun
	behind []*segmentRun
	queued map[*segmentRun]bool
	more   sync.Cond
	closed bool

	executions map[*execution]bool  // under way
	executors  int                  // how many there are without stand-ins; 0 for no limit
	slow       map[*group]time.Time // until when groups count as slow
	slowRuns   int                  // executions for slow groups
	standIns   int                  // for executors that have not come back

	running int // of those with a backlog
	most    int // that may run of them, at least 1
	passed  int // how often one near the tail went before those that might have run
}

// patience is how many segments near the tail go before one with a backlog that might run.
const patience = 16

// push adds a segment unless it is queued already.
func (q *runQueue) push(s *segmentRun) {
	behind := s.member.Behind()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	if q.queued[s] || q.closed {
		return
	}
	q.queued[s] = true
	if behind {
		q.behind = append(q.behind, s)
	} else {
		q.live = append(q.live, s)
	}
	q.more.Signal()
}

// pop waits for a segment, and reports whether it is one with a backlog: then done has to follow when
// its batch has ended, unless end says otherwise. There is no segment when the queue was closed.
func (q *runQueue) pop() (s *segmentRun, behind bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	for !q.closed {
		behind := q.at(q.behind)
		waits := behind >= 0 && q.running < max(q.most, 1)
		if !waits {
			q.passed = 0
		}
		if live := q.at(q.live); live >= 0 && q.passed < patience {
			if waits {
				q.passed++
			}
			return q.remove(&q.live, live), false
		}
		if waits {
			q.passed = 0
			q.running++
			return q.remove(&q.behind, behind), true
		}
		q.more.Wait()
	}
	return nil, false
}

// another takes a segment near the tail that may share a batch with one of a group, where there is one: it does not wait.
func (q *runQueue) another(g *group) *segmentRun {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.live, func(s *segmentRun) bool { return s.group == g && s.shares() })
	if i < 0 || q.closed {
		return nil
	}
	s := q.live[i]
	q.live = slices.Delete(q.live, i, i+1)
	delete(q.queued, s)
	return s
}

// done takes note that the batch of a segment with a backlog has ended.
func (q *runQueue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.more.Signal()
}

// doneAfter is done after a rest, in which no other one takes the place of the batch that has ended.
func (q *runQueue) doneAfter(rest time.Duration) {
	if rest <= 0 {
		q.done()
		return
	}
	time.AfterFunc(rest, q.done)
}

// at is the index of the first segment of a queue that may run; below 0 where none may. The caller
// holds the lock.
func (q *runQueue) at(queue []*segmentRun) int {
	if len(q.slow) == 0 || q.executors == 0 || q.slowRuns < q.executors {
		return min(0, len(queue)-1)
	}
	return slices.IndexFunc(queue, func(s *segmentRun) bool { return !q.isSlow(s.group) })
}

// remove takes a segment from one of the two queues. The caller holds the lock.
func (q *runQueue) remove(queue *[]*segmentRun, i int) *segmentRun {
	s := (*queue)[i]
	if i == 0 {
		*queue = (*queue)[1:]
	} else {
		*queue = slices.Delete(*queue, i, i+1)
	}
	delete(q.queued, s)
	return s
}

func (q *runQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	q.closed = true
	q.more.Broadcast()
}

func (q *runQueue) init() {
	if q.queued == nil {
		q.queued = map[*segmentRun]bool{}
		q.slow = map[*group]time.Time{}
		q.more.L = &q.mu
	}
}
