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
		j, inPage := slices.BinarySearchFunc(rows, link{position: r.before}, byPosition)
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

// waiting returns the events that are not to be read for coverages, as what they wait for comes later; and the positions that have to be looked at: of what is waited
// for, and of events that need not wait any more or, of a page with a limit, maybe not for longer. Those are a quarter of the page at most, lest
// a page be full of events that wait for those below it.
func waiting(from []*gapped, covered ranges, limit int) (held []link, wanted ranges) {
	var all []link
	for _, c := range from {
		all = append(all, c.held...)
	}
	if len(all) == 0 {
		return nil, nil
	}
	slices.SortFunc(all, byPosition)
	all = slices.CompactFunc(all, samePosition)
	all = slices.DeleteFunc(all, func(r link) bool { return covered.has(r.position) })
	ends := chainEnds(all, covered)
	soon := covered.last() + 4*int64(limit) // about what the next pages look at
	order := make([]int, len(all))
	for i := range all {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(ends[a], ends[b]), cmp.Compare(a, b)) })
	var look []int64
	room := limit / 4
	for _, i := range order {
		switch free := all[i].before == 0 || covered.has(all[i].before); {
		case free:
			look = append(look, all[i].position)
		case ends[i] <= soon && room > 0:
			room--
			look = append(look, all[i].position, ends[i])
		default:
			look = append(look, ends[i])
			held = append(held, all[i])
		}
	}
	slices.SortFunc(held, byPosition)
	return held, positionsOf(look)
}

// chainEnds returns for each of some events that wait the position of what it waits for in the end, through others of them; 0 if that is nothing, or covered. The events ascend by position.
func chainEnds(all []link, covered ranges) []int64 {
	const unknown = -1
	ends := make([]int64, len(all))
	for i := range ends {
		ends[i] = unknown
	}
	var chain []int
	for i := range all {
		end := int64(unknown)
		for at := i; end == unknown; {
			chain = append(chain, at)
			next, waits := slices.BinarySearchFunc(all, link{position: all[at].before}, byPosition)
			switch {
			case ends[at] != unknown:
				end = ends[at]
			case all[at].before == 0 || covered.has(all[at].before):
				end = 0
			case !waits:
				end = all[at].before
			default:
				at = next
			}
		}
		for _, at := range chain {
			ends[at] = end
		}
		chain = chain[:0]
	}
	return ends
}

func byPosition(a, b link) int { return cmp.Compare(a.position, b.position) }

func samePosition(a, b link) bool { return a.position == b.position }

// holding returns the events that wait for a coverage after a page. Those that need not wait any more are among them until they have been
// looked at: else nothing would tell to look before all gaps are.
func (c *gapped) holding(a answer) []link {
	if len(c.held) == 0 && len(a.held) == 0 {
		return nil
	}
	all := slices.Concat(a.held, c.held) // what was seen last goes first
	slices.SortStableFunc(all, byPosition)
	all = slices.CompactFunc(all, samePosition)
	all = slices.DeleteFunc(all, func(r link) bool { return c.set.has(r.position) || a.empty.has(r.position) })
	for i, r := range all {
		if a.empty.has(r.before) {
			all[i].before = 0 // until it is read again
		}
	}
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
