package tokenstore

import (
	"fmt"
	"time"
)

// Timing are the times of a worker's membership. All follow from its lease.
type Timing struct {
	// Lease is for how long after its last heartbeat a worker counts as alive where nothing else
	// tells of its end.
	Lease time.Duration
	// Heartbeat is the time between two heartbeats.
	Heartbeat time.Duration
	// Within bounds one heartbeat.
	Within time.Duration
	// Margin is how much earlier than the directory a worker stops trusting its lease.
	Margin time.Duration
}

// Bounds of a lease.
const (
	ShortestLease = 2 * time.Second
	LongestLease  = time.Minute
)

// TimingOf returns the times that go with a lease. One out of bounds counts as the nearest bound,
// and none as Lease.
func TimingOf(lease time.Duration) Timing {
	if lease == 0 {
		lease = Lease
	}
	lease = min(max(lease, ShortestLease), LongestLease)
	return Timing{Lease: lease, Heartbeat: min(lease/5, Heartbeat), Within: min(lease*2/5, 2*time.Second), Margin: min(lease/10, 500*time.Millisecond)}
}

// Check returns what does not fit together.
func (t Timing) Check() error {
	switch {
	case t.Heartbeat <= 0 || t.Within <= 0 || t.Margin <= 0:
		return fmt.Errorf("the times of a lease of %s have to be positive: %+v", t.Lease, t)
	case t.Heartbeat+t.Within >= t.Lease-t.Margin:
		return fmt.Errorf("a heartbeat every %s that takes up to %s leaves no time for another one within a lease of %s less %s", t.Heartbeat, t.Within, t.Lease, t.Margin)
	case t.Heartbeat >= PlannerTimeout:
		return fmt.Errorf("a worker that plans renews its plan with each heartbeat: %s has to be less than %s", t.Heartbeat, PlannerTimeout)
	}
	return nil
}
