package feed

import (
	"context"
	"testing"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
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
				f.spacing.learn([]*Member{whole}, eventsource.Page{Spacing: eventsource.Spacing(events)})
			}
			tail := c.position(20_000)
			f.sawTail(upTo(tail))
			at := func(events int64) *Member {
				return add(t, f, "g", segment.Root, segment.PerStream, tail-(c.position(1100)-c.position(1100-events)))
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

// thousandfold is a coverage of a source that takes a thousand positions for an event, and counts
// distances in events.
type thousandfold struct{ upTo }

func (c thousandfold) Distance(to eventsource.Coverage) int64 {
	return max(to.Position()-c.Position(), 0) / 1000
}

// thousands is the source of such coverages.
type thousands struct{ eventsource.Source }

func (thousands) Parse(p progress.Progress) (eventsource.Coverage, error) {
	return thousandfold{upTo(p.Position)}, nil
}

func (thousands) Head(context.Context) (eventsource.Coverage, error) {
	return thousandfold{upTo(1_000_000)}, nil
}

func TestFeedTellsByTheSourcesDistancesWhatIsNear(t *testing.T) {
	f := New(thousands{}, Options{Near: 100, Buffer: 4, Ahead: 8}, nil, nil, nil)
	at := func(position int64) *Member { return add(t, f, "g", segment.Root, segment.PerStream, position) }
	near, far := []*Member{at(0), at(90_000)}, []*Member{at(0), at(110_000)}
	if n := len(clusters(near, f.near())); n != 1 {
		t.Errorf("two at a distance of 90 are read for by %d reads", n)
	}
	if n := len(clusters(far, f.near())); n != 2 {
		t.Errorf("two at a distance of 110 are read for by %d reads", n)
	}
	if f.isNearTail(at(1_000_000)) {
		t.Error("a segment is near the tail before that is known")
	}
	f.lookForTail(t.Context())
	if !f.isNearTail(at(910_000)) || f.isNearTail(at(890_000)) {
		t.Errorf("near the tail at a distance of 90: %t, of 110: %t", f.isNearTail(at(910_000)), f.isNearTail(at(890_000)))
	}
	has := at(500_000)
	has.buffered = 2
	for position, waits := range map[int64]bool{390_000: false, 410_000: true, 500_000: true, 590_000: true, 610_000: false} {
		if got := f.waitsFor([]eventsource.Coverage{at(position).lowest()}, []*Member{has}); got != waits {
			t.Errorf("at position 500,000 a member waits for one at %d that has no room: %t, want %t", position, got, waits)
		}
	}
}
