package worker

import "time"

const (
	// firstBatch is how many events the first batch after a claim has at most.
	firstBatch = 50
	// batchTime is what a batch may take. Beyond it larger batches save next to nothing, while everything that a batch holds up waits
	// longer: rows that it has locked, a hand-over of its segment, other segments of this worker, and what it does again after a failure.
	batchTime = 250 * time.Millisecond
)

// batchSize is how many events a segment's next batch has at most. It doubles while batches are quick, and follows their speed when
// they take too long. After contention it comes back slowly: large transactions that lock rows of each other in different
// orders would deadlock again at once, and a deadlock costs the server a second to find.
type batchSize struct {
	limit   int
	ceiling int // 0 for none
	left    int // among so many events there is one that fails; 0 where none is looked for

	// After a batch that ran out of time.
	most     int           // events in the next batch; 0 where it is looked for by halving
	of       int           // events in that batch
	patience time.Duration // that is left for batches of one event
}

// next is the size of the next batch, where the group's setting allows so many.
func (b *batchSize) next(largest int) int {
	n := min(b.limit, largest)
	if b.ceiling > 0 {
		n = min(n, b.ceiling)
	}
	switch {
	case b.left > 0 && b.most > 0:
		n = min(n, b.most)
	case b.left > 0:
		n = min(n, b.left/2)
	}
	return max(n, 1)
}

// committed takes note of a batch that has committed.
func (b *batchSize) committed(events int, took time.Duration, largest int) {
	if b.left > 0 {
		b.left = max(0, b.left-events)
		b.looked(took)
		return
	}
	inTime := largest // that many events would have been handled in time, at this speed
	if took > 0 {
		inTime = int(min(float64(largest), float64(events)*float64(batchTime)/float64(took)))
	}
	if took > batchTime {
		b.limit = max(1, min(inTime, b.limit))
	} else {
		b.limit = min(max(b.limit, 1)*2, max(b.limit, inTime, min(events+1, largest))) // by one at least: most of it may be what a call costs
	}
	if b.ceiling > 0 {
		if b.ceiling += max(1, b.ceiling/16); b.ceiling >= largest {
			b.ceiling = 0
		}
	}
}

// contended takes note of a batch that others were in the way of.
func (b *batchSize) contended(events int) {
	b.limit = max(1, events/2)
	b.ceiling = b.limit
}

// looked takes note of a batch that has committed after one that ran out of time. When batches of
// one event have taken as long as that one, another failure costs no more than they do: they grow.
// If no event hangs, the batch had too many.
func (b *batchSize) looked(took time.Duration) {
	if b.most == 0 {
		return
	}
	if b.patience -= took; b.patience < 0 && took <= batchTime {
		b.most *= 2
	}
	if b.left == 0 {
		b.limit, b.most = max(1, min(b.limit, b.of/2)), 0
	}
}

// failed takes note of a batch in which an event failed: the next ones look for it by halving.
func (b *batchSize) failed(events int) { b.left, b.most = events, 0 }

// timedOut takes note of a batch that ran out of time, as an event hangs, or as it had too many.
// Each failure takes as long as the limit, so that the next batches have one event each.
func (b *batchSize) timedOut(events int, took time.Duration) {
	b.left, b.most, b.of, b.patience = events, 1, events, took
}
