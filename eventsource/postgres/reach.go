package postgres

import "github.com/sluice-project/sluice/eventsource"

// reach is what a page read from some coverages vouches for: it holds all events up to through that its snapshot sees and
// any of those coverages lacks.
type reach struct {
	snapshot Snapshot
	through  int64
	last     int64 // position of the last event in the page, 0 without any
	more     bool  // there may be events above through
}

// reached says how far a page goes.
//
// A full page ends at its last event. One that is not full holds all that there is up to windowEnd, where the read stopped
// looking. If no position above windowEnd has been given out, it holds all that there is at all, and vouches up to the
// highest position that anybody speaks of: which one does not matter, since events up to it that the snapshot does not see are
// found later by their transactions, like all late ones.
func reached(from []*coverage, snapshot Snapshot, full bool, last, windowEnd, head int64) reach {
	if full {
		return reach{snapshot: snapshot, through: last, last: last, more: true}
	}
	highest := max(head, last)
	for _, c := range from {
		highest = max(highest, c.Position())
	}
	return reach{snapshot: snapshot, through: min(highest, windowEnd), last: last, more: highest > windowEnd}
}

// after adds to a coverage what the page gave up to an event, or all of it.
func (r reach) after(c eventsource.Coverage, last *eventsource.Event) eventsource.Coverage {
	position := r.through
	if last != nil && last.Position < r.last {
		position = last.Position
	}
	return c.(*coverage).with(step{position, r.snapshot})
}
