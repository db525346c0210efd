package feed

import (
	"math"
	"slices"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// spacing is how many positions apart events stand, as they did lately. Positions may be the keys
// of a generator, of which four thousand million are given out in a second: there segments that are
// a few events apart are far apart by their positions.
type spacing struct{ positions float64 }

// spacingSamples is how many distances of a page are looked at.
const spacingSamples = 15

// learn takes note of a page that was read for some members. What counts is the median: a pause of
// a night is not how far apart events stand. A source may leave events out that the members have no
// part in.
func (s *spacing) learn(members []*Member, events []*eventsource.Event) {
	if len(events) < 2 {
		return
	}
	var distances []float64
	for i := range min(spacingSamples, len(events)-1) {
		at := i * (len(events) - 1) / min(spacingSamples, len(events)-1)
		distances = append(distances, math.Abs(float64(events[at+1].Position-events[at].Position)))
	}
	slices.Sort(distances)
	share := 0
	for _, m := range members {
		share += m.whole.Share()
	}
	here := distances[len(distances)/2] * min(1, float64(share)/segment.MaxSlices)
	s.positions += (here - s.positions) / 4
}

// of is how many positions so many events take.
func (s *spacing) of(events int64) int64 {
	return int64(min(float64(events)*max(1, s.positions), math.MaxInt64/4))
}
