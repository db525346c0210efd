package postgres

import (
	"cmp"
	"slices"

	"github.com/sluice-project/sluice/eventsource"
)

// link is where an event stands, and where the one before it in its stream does: the one with the next lower number that the page's statement sees.
// That is 0 for a stream's first event, and for all where the order is not promised, or is that of the positions.
type link struct{ position, before int64 }

// mostWaiting is how many events that wait a coverage remembers, so that they are not read again and again.
const mostWaiting = 1 << 16

// arrange puts a page's rows, which ascend by position, in the order in which their events are given: by position, but for those that stand below the one before
// them in their stream, which come right behind it. It returns their indexes, and the rows that have to wait for one that is neither covered nor given by
// this page. A writer appends to a stream when it sees the event before, so whatever statement sees an event sees the one before it: nobody ever waits for what is
// not there.
func arrange(rows []link, covered ranges) (given []int, held []link) {
	given = make([]int, 0, len(rows))
	done := make([]bool, len(rows))
	next := map[int]int{} // rows that wait for one above them; of a row only one can be the next
	for i, r := range rows {
		j, inPage := slices.BinarySearchFunc(rows, r.before, func(r link, position int64) int { return cmp.Compare(r.position, position) })
		switch {
		case r.before == 0 || covered.has(r.before) || inPage && done[j]:
			for waits := true; waits; i, waits = follow(next, i) {
				given, done[i] = append(given, i), true
			}
		case inPage:
			next[j] = i
		}
	}
	if len(given) < len(rows) {
		for i, r := range rows {
			if !done[i] {
				held = append(held, r)
			}
		}
	}
	return given, held
}

func follow(next map[int]int, i int) (int, bool) {
	j, waits := next[i]
	return j, waits
}

// inOrder returns those of a page's events that are given, in the order in which they are.
func inOrder(events []*eventsource.Event, a answer) []*eventsource.Event {
	if a.plain && len(a.given) == len(events) {
		return events
	}
	given := make([]*eventsource.Event, len(a.given))
	for i, from := range a.given {
		given[i] = events[from]
	}
	return given
}

// waiting returns the events that need not be read for coverages, as those that they wait for have not been given to all; and the positions that have
// to be looked at, of those that are waited for and of those that do not wait any more.
func waiting(from []*gapped, covered ranges) (held []link, wanted ranges) {
	for _, c := range from {
		held = append(held, c.held...)
	}
	if len(held) == 0 {
		return nil, nil
	}
	slices.SortFunc(held, func(a, b link) int { return cmp.Compare(a.position, b.position) })
	held = slices.CompactFunc(held, func(a, b link) bool { return a.position == b.position })
	var look []int64
	held = slices.DeleteFunc(held, func(r link) bool {
		if covered.has(r.position) {
			return true
		}
		if covered.has(r.before) {
			look = append(look, r.position)
			return true
		}
		look = append(look, r.before)
		return false
	})
	return held, positionsOf(look)
}

// holding returns the events that wait for a coverage after a page.
func (c *gapped) holding(a answer) []link {
	if len(c.held) == 0 && len(a.held) == 0 {
		return nil
	}
	all := slices.Concat(a.held, c.held) // what was seen last goes first
	slices.SortStableFunc(all, func(a, b link) int { return cmp.Compare(a.position, b.position) })
	all = slices.CompactFunc(all, func(a, b link) bool { return a.position == b.position })
	all = slices.DeleteFunc(all, func(r link) bool { return c.set.has(r.position) || c.set.has(r.before) || a.gone.has(r.before) })
	return slices.Clip(all[:min(len(all), mostWaiting)])
}

// befores are the positions that rows wait for.
func befores(rows []link) ranges {
	at := make([]int64, len(rows))
	for i, r := range rows {
		at[i] = r.before
	}
	return positionsOf(at)
}

// positions are those of rows that ascend.
func positions(rows []link) (set ranges) {
	for _, r := range rows {
		set = set.add(span{r.position, r.position})
	}
	return set
}

// positionsOf is the set of some positions.
func positionsOf(at []int64) (set ranges) {
	if !slices.IsSorted(at) {
		at = slices.Sorted(slices.Values(at))
	}
	for _, p := range at {
		set = set.add(span{p, p})
	}
	return set
}
