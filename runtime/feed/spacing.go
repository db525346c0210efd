package feed

import (
	"math"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// spacing is how far apart events stand, as they did lately, in the source's distances. These may be
// distances of keys of a generator, of which four thousand million are given out in a second: there
// segments that are a few events apart are far apart by their distance.
type spacing struct{ distance float64 }

// learn takes note of a page that was read for some members. A source may leave events out that the
// members have no part in.
func (s *spacing) learn(members []*Member, page eventsource.Page) {
	if page.Spacing == 0 {
		return
	}
	share := 0
	for _, m := range members {
		share += m.whole.Share()
	}
	here := page.Spacing * min(1, float64(share)/segment.MaxSlices)
	s.distance += (here - s.distance) / 4
}

// of is how far so many events reach.
func (s *spacing) of(events int64) int64 {
	return int64(min(float64(events)*max(1, s.distance), math.MaxInt64/4))
}
