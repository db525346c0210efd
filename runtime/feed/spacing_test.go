package feed

import (
	"testing"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// TestSegmentsAreNearByEventsNotByPositions has events whose positions are keys of a generator,
// which gives out four thousand million in a second.
func TestSegmentsAreNearByEventsNotByPositions(t *testing.T) {
	const apart, day = int64(4e9), int64(86_400 * 4e9)
	l := newLine(0)
	for name, c := range map[string]struct {
		position func(i int64) int64
		near     int64 // events
	}{
		"dense":            {func(i int64) int64 { return i }, 100},
		"sparse":           {func(i int64) int64 { return i * apart }, 100},
		"after a night":    {func(i int64) int64 { return i*apart + min(i, 150)/50*day }, 100},
		"downwards, early": {func(i int64) int64 { return (i ^ 1) * apart }, 100},
	} {
		t.Run(name, func(t *testing.T) {
			f := New(l, Options{Near: c.near}, nil, nil, nil)
			whole := add(t, f, "all", segment.Root, segment.PerStream, 0)
			for page := range int64(20) {
				var events []*eventsource.Event
				for i := range int64(10) {
					events = append(events, &eventsource.Event{Position: c.position(page*10 + i)})
				}
				f.spacing.learn([]*Member{whole}, events)
			}
			f.tail = c.position(20_000)
			at := func(events int64) *Member {
				return add(t, f, "g", segment.Root, segment.PerStream, f.tail-(c.position(1100)-c.position(1100-events)))
			}
			if n := len(clusters([]*Member{at(0), at(40)}, f.near())); n != 1 {
				t.Errorf("two that are 40 events apart are read for by %d reads", n)
			}
			if n := len(clusters([]*Member{at(0), at(1000)}, f.near())); n != 2 {
				t.Errorf("two that are 1000 events apart are read for by %d reads", n)
			}
			if !f.isNearTail(at(40)) || f.isNearTail(at(1000)) {
				t.Errorf("40 events from the tail: %t, 1000: %t", f.isNearTail(at(40)), f.isNearTail(at(1000)))
			}
		})
	}
}
