package worker

import (
	"testing"
	"time"
)

// TestAGroupIsSlowWhileItsCallsLast for longer than it would count as slow afterwards: otherwise the
// stand-ins would take its segments, too, and nobody those of other groups.
func TestAGroupIsSlowWhileItsCallsLast(t *testing.T) {
	slow := &group{name: "slow"}
	q := &runQueue{executors: 2, most: 1}
	q.init()
	for range 2 {
		q.begin(slow, false)
	}
	now := time.Now().Add(longExecution)
	if n := q.handOver(now); n != 2 {
		t.Fatalf("%d places were handed over", n)
	}
	later := now.Add(2 * longestSlow)
	if n := q.handOver(later); n != 0 {
		t.Errorf("%d places more were handed over", n)
	}
	if !q.slow[slow].After(later) {
		t.Errorf("after %s the group counts as slow until %s after that", later.Sub(now), q.slow[slow].Sub(later))
	}
}

// TestQuickCallsDoNotKeepAGroupSlow: a place is handed over as soon as a call of a slow group begins,
// however long that takes.
func TestQuickCallsDoNotKeepAGroupSlow(t *testing.T) {
	was := &group{name: "was slow"}
	q := &runQueue{executors: 2, most: 1}
	q.init()
	now := time.Now()
	until := now.Add(longestSlow / 2)
	q.slow[was] = until
	q.begin(was, false)
	if n := q.handOver(now); n != 1 {
		t.Fatalf("%d places were handed over", n)
	}
	if got := q.slow[was]; got != until {
		t.Errorf("the group counts as slow for %s more", got.Sub(until))
	}
}
