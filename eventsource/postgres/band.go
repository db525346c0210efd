package postgres

import (
	"cmp"
	"slices"
)

// band is a range of positions in which all coverages asked for have what the snapshot sees, and some lack all else.
type band struct {
	above, through int64 // the positions p with above < p <= through
	snapshot       Snapshot
}

// lacking returns what some of the coverages lack: in the bands what the band's snapshot does not see, and above tail
// everything. The bands are ascending and reach from 0 to tail; those whose neighbour has the same snapshot are one.
func lacking(from []*coverage) (bands []band, tail int64) {
	from = slices.Clone(from)
	slices.SortFunc(from, compareByContent)
	from = slices.CompactFunc(from, func(a, b *coverage) bool { return compareByContent(a, b) == 0 })
	tail = from[0].Position()
	var ends []int64
	for _, c := range from {
		tail = min(tail, c.Position())
		for _, s := range c.steps {
			ends = append(ends, s.through)
		}
	}
	slices.Sort(ends)
	above := int64(0)
	for _, end := range slices.Compact(ends) {
		if end > tail {
			break
		}
		meet := from[0].at(end)
		for _, c := range from[1:] {
			meet = meet.Meet(c.at(end))
		}
		if n := len(bands); n > 0 && bands[n-1].snapshot.Equal(meet) {
			bands[n-1].through = end
		} else {
			bands = append(bands, band{above, end, meet})
		}
		above = end
	}
	return bands, tail
}

// compareByContent orders coverages so that equal ones, which members of a shared read mostly have, stand together.
func compareByContent(a, b *coverage) int {
	if a == b {
		return 0
	}
	return slices.CompareFunc(a.steps, b.steps, func(a, b step) int {
		return cmp.Or(
			cmp.Compare(a.through, b.through),
			cmp.Compare(a.snapshot.xmax, b.snapshot.xmax),
			slices.Compare(a.snapshot.xip, b.snapshot.xip))
	})
}
