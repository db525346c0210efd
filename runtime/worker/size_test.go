package worker

import (
	"testing"
	"time"
)

// run has batches of an handler that takes a time for each event, on top of what each batch takes, and returns the size that they end at.
func (b *batchSize) run(batches int, perEvent, perBatch time.Duration, largest int) int {
	for range batches {
		n := b.next(largest)
		b.committed(n, perBatch+time.Duration(n)*perEvent, largest)
	}
	return b.next(largest)
}

func TestBatchesGrowUntilTheyTakeTheirTime(t *testing.T) {
	for name, test := range map[string]struct {
		perEvent  time.Duration
		largest   int
		low, high int
	}{
		"quick handlers come to the largest":       {time.Microsecond, 5000, 5000, 5000},
		"slower ones as far as the time goes":      {time.Millisecond, 5000, 200, 250},
		"the slowest handle one event at a time":   {time.Second, 5000, 1, 1},
		"the group's setting is never gone beyond": {time.Microsecond, 7, 7, 7},
	} {
		t.Run(name, func(t *testing.T) {
			b := batchSize{limit: firstBatch}
			if got := b.run(20, test.perEvent, 2*time.Millisecond, test.largest); got < test.low || got > test.high {
				t.Errorf("after 20 batches there are %d events in one, want %d to %d", got, test.low, test.high)
			}
		})
	}
}

func TestBatchesFollowAHandlerThatGetsSlower(t *testing.T) {
	b := batchSize{limit: firstBatch}
	b.run(20, time.Microsecond, 0, 5000)
	b.committed(b.next(5000), 5*time.Second, 5000)
	if got := b.next(5000); got != 250 {
		t.Errorf("after 5,000 events in 5 s the next batch has %d, want 250", got)
	}
}

// One slow batch of few events, which waited for a lock say, must not keep the ones after it small for long.
func TestBatchesComeBackAfterOneThatWaited(t *testing.T) {
	b := batchSize{limit: 5000}
	b.committed(3, 2*time.Second, 5000)
	if got := b.run(13, time.Microsecond, time.Millisecond, 5000); got != 5000 {
		t.Errorf("13 quick batches later there are %d events in one, want 5000", got)
	}
}

// What each call costs must not keep batches at one event, where a failure has made them as small.
func TestBatchesGrowFromOneEvent(t *testing.T) {
	b := batchSize{limit: 1}
	if got := b.run(60, time.Microsecond, 200*time.Millisecond, 5000); got != 5000 {
		t.Errorf("after 60 batches of 200 ms there are %d events in one, want 5000", got)
	}
}

func TestBatchesComeBackSlowlyAfterContention(t *testing.T) {
	b := batchSize{limit: 4000}
	b.contended(4000)
	if got := b.next(5000); got != 2000 {
		t.Errorf("the next one has %d events, want half of the 4000", got)
	}
	if got := b.run(4, time.Microsecond, 0, 5000); got < 2000 || got > 3000 {
		t.Errorf("four batches later there are %d in one, want 2000 to 3000", got)
	}
	if got := b.run(20, time.Microsecond, 0, 5000); got != 5000 {
		t.Errorf("24 batches later there are %d in one, want 5000", got)
	}
}

// The event that fails is found after few failures, whichever it is, and then batches are as large as they were.
func TestBatchSizeFindsAFailingEventByHalving(t *testing.T) {
	const events = 50
	for culprit := range events {
		b := batchSize{limit: events}
		at, failures := 0, 0
		for b.next(5000) > 1 || at != culprit {
			n := min(b.next(5000), events-at)
			if at+n <= culprit {
				b.committed(n, time.Millisecond, 5000)
				at += n
				continue
			}
			b.failed(n)
			if failures++; failures > 6 {
				t.Fatalf("event %d of %d was not found after %d failures", culprit, events, failures)
			}
		}
		b.failed(1)
		b.committed(1, time.Millisecond, 5000)
		if got := b.next(5000); got != events {
			t.Errorf("after event %d the next batch has %d events, want %d", culprit, got, events)
		}
	}
}

// A handler that needs more time for a batch than there is must not run out of time again and again.
func TestBatchesThatRanOutOfTimeAreSmallerAfterwards(t *testing.T) {
	const limit = 10 * time.Second
	b := batchSize{limit: firstBatch}
	failures := 0
	for handled := 0; handled < 1000; {
		n := b.next(5000)
		if took := time.Duration(n) * time.Second; took <= limit {
			b.committed(n, took, 5000)
			handled += n
		} else {
			b.timedOut(n, limit)
			failures++
		}
	}
	if failures > 3 {
		t.Errorf("batches of 1000 events ran out of time %d times", failures)
	}
}

// One batch waited for something that is there again. A handler with a cost for each call must not
// be slow until all of the batch is handled.
func TestBatchesGrowAfterOneThatWaitedTillItsTimeWasOver(t *testing.T) {
	const limit, events, perBatch = 10 * time.Second, 10000, 100 * time.Millisecond
	b := batchSize{limit: events}
	b.timedOut(events, limit)
	took := time.Duration(0)
	for handled := 0; handled < events; took += perBatch {
		n := min(b.next(events), events-handled)
		b.committed(n, perBatch, events)
		handled += n
	}
	if took > 2*limit {
		t.Errorf("%d events took %s after one time limit of %s", events, took, limit)
	}
	if got := b.run(2, 0, perBatch, events); got != events {
		t.Errorf("two batches later there are %d events in one, want %d", got, events)
	}
}

// While single events are quick the one that hangs is found at the next time limit.
func TestAnEventThatHangsIsLookedForOneByOne(t *testing.T) {
	const limit, events = 10 * time.Second, 2000
	for _, culprit := range []int{0, 1, 7, events / 2, events - 1} {
		b := batchSize{limit: events}
		b.timedOut(events, limit)
		for at := 0; at < culprit; at++ {
			if n := b.next(events); n != 1 {
				t.Fatalf("event %d is in a batch of %d", at, n)
			}
			b.committed(1, 4*time.Millisecond, events)
		}
		if n := b.next(events); n != 1 {
			t.Fatalf("event %d, which hangs, is in a batch of %d", culprit, n)
		}
		b.failed(1)
		b.committed(1, time.Millisecond, events)
		if got := b.next(events); got != events {
			t.Errorf("after event %d the next batch has %d events, want %d", culprit, got, events)
		}
	}
}
