package stores

import (
	"context"
	"sync/atomic"
)

// slots bounds how many sessions are open at a time. Who holds one asks whether others wait, and then gives it up.
type slots struct {
	free    chan struct{}
	waiting atomic.Int64
}

func newSlots(count int) *slots {
	return &slots{free: make(chan struct{}, max(count, 1))}
}

// take waits for a slot; false when the context ended first.
func (s *slots) take(ctx context.Context) bool {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	select {
	case s.free <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *slots) give() { <-s.free }

// wanted reports whether somebody waits.
func (s *slots) wanted() bool { return s.waiting.Load() > 0 }
