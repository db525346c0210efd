package worker

import "sync"

// runQueue holds the segments that have something to do, each once, first come first served. Segments near the tail go before those with
// a backlog, of whose large batches fewer may run at a time than there are executors: what happens now does not wait for what is to be
// made up for.
type runQueue struct {
	mu     sync.Mutex
	live   []*segmentRun
	behind []*segmentRun
	queued map[*segmentRun]bool
	more   sync.Cond
	closed bool

	running int // of those with a backlog
	most    int // that may run of them, at least 1
}

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

// pop waits for a segment, and reports whether it is one with a backlog, of which done has to be told when its batch has ended; no
// segment when the queue was closed.
func (q *runQueue) pop() (s *segmentRun, behind bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	for !q.closed {
		if s, ok := first(&q.live); ok {
			delete(q.queued, s)
			return s, false
		}
		if q.running < max(q.most, 1) {
			if s, ok := first(&q.behind); ok {
				delete(q.queued, s)
				q.running++
				return s, true
			}
		}
		q.more.Wait()
	}
	return nil, false
}

// done takes note that the batch of a segment with a backlog has ended.
func (q *runQueue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.more.Signal()
}

// first takes the first segment of a queue.
func first(queue *[]*segmentRun) (*segmentRun, bool) {
	if len(*queue) == 0 {
		return nil, false
	}
	s := (*queue)[0]
	*queue = (*queue)[1:]
	return s, true
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
		q.more.L = &q.mu
	}
}
