package worker

import "sync"

// runQueue holds the segments that have something to do, each once, first come first served.
type runQueue struct {
	mu     sync.Mutex
	queue  []*segmentRun
	queued map[*segmentRun]bool
	more   sync.Cond
	closed bool
}

// push adds a segment unless it is queued already.
func (q *runQueue) push(s *segmentRun) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	if q.queued[s] || q.closed {
		return
	}
	q.queued[s] = true
	q.queue = append(q.queue, s)
	q.more.Signal()
}

// pop waits for a segment; false when the queue was closed.
func (q *runQueue) pop() (*segmentRun, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	for len(q.queue) == 0 && !q.closed {
		q.more.Wait()
	}
	if q.closed {
		return nil, false
	}
	s := q.queue[0]
	q.queue = q.queue[1:]
	delete(q.queued, s)
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
