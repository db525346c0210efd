package postgres

import (
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
)

// mostGaps is how many a coverage may have for positions above its own to be added: 8,192, a token of about 16 KB. At the limit events wait
// until gaps are filled or proved dead, those in the gaps excepted.
const mostGaps = 8192

// proved are the positions that nobody can fill any more, by a server.
type proved struct {
	settled ranges
	server  string
}

// question is what a read asks a table for: what some of the coverages lack.
type question struct {
	from []*gapped
	// covered is what all of the coverages have.
	covered ranges
	// gaps are the positions asked for up to tail; above tail all are.
	gaps ranges
	tail int64
	// held are the events that are not asked for, as those that they wait for come later.
	held []link
	// proved was known before the statement began.
	proved proved
	// whole says that all gaps are asked for, but for those of events that wait. Only where positions are reserved are there others.
	whole bool
	asked time.Time
	// server is the one that answered.
	server string
}

// ask says what is to be read for coverages, in a page with a limit.
func ask(from []*gapped, proved proved, whole bool, now time.Time, limit int) question {
	meet := from[0].set
	for _, c := range from[1:] {
		meet = meet.meet(c.set)
	}
	q := question{from: from, covered: meet, proved: proved, whole: whole, asked: now}
	held, wanted := waiting(from, meet, limit)
	q.held = held
	known := meet.union(positions(held))
	q.gaps, q.tail = known.holes(), known.last()
	if !whole {
		young := meet.last()
		for _, c := range from {
			young = min(young, c.pace.old)
		}
		q.gaps = q.gaps.meet(wanted.union(upward(young + 1)))
	}
	return q
}

// answer is what a page adds to the coverages that it was read for.
type answer struct {
	given []int   // the events to be given, in the order of their streams: indexes of the page's rows
	at    []int64 // their positions
	// plain says that positions ascend.
	plain bool
	held  []link // the events that have to wait
	// empty are the positions without an event, of all that was looked at; gone are those of them that some wait for: it was deleted.
	empty, gone ranges
	// dead are the positions at which there is no event and will be none.
	dead  ranges
	added ranges // dead, and those of all events given
	// upTo is the last position that the page may hold, so that no coverage gets too many gaps.
	upTo int64
	old  time.Time // when all gaps were looked at; zero if not
	// server of the page.
	server string
}

// answered says what rows mean, which ascend by position and end at a limit where the page is full.
func (q question) answered(rows []link, full bool) answer {
	end := int64(maxPosition)
	if n := len(rows); full && n > 0 {
		end = rows[n-1].position
	}
	upTo := int64(maxPosition)
	for {
		a := q.answeredUpTo(rows, end)
		a.upTo = upTo
		if q.whole && !full {
			a.old = q.asked
		}
		limit := int64(maxPosition)
		for _, c := range q.from {
			if all := c.set.union(a.added); len(all) > mostGaps {
				limit = min(limit, max(c.Position(), all[mostGaps-1].to))
			}
		}
		if limit >= end {
			return a
		}
		end, upTo = limit, limit
		for len(rows) > 0 && rows[len(rows)-1].position > end {
			rows = rows[:len(rows)-1]
		}
	}
}

// answeredUpTo says what rows mean that are all up to a position.
//
// The statement saw every event at a settled position that it looked at: there is one, which is among the rows, or there never will be. At other positions
// without a row there may be one yet.
func (q question) answeredUpTo(rows []link, end int64) answer {
	looked, seen := q.gaps.union(upward(q.tail+1)).upTo(end), positions(rows)
	a := answer{server: q.server, plain: true}
	a.given, a.held = arrange(rows, q.covered)
	a.at = make([]int64, len(a.given))
	for i, g := range a.given {
		a.at[i] = rows[g].position
		a.plain = a.plain && (i == 0 || a.at[i] > a.at[i-1])
	}
	a.empty = looked.meet(seen.rest())
	a.dead, a.gone = a.empty.meet(q.proved.settled), a.empty.meet(befores(q.held))
	a.added = a.dead.union(positionsOf(a.at))
	return a
}

// stuck reports whether none of the coverages comes any farther by the page.
func (q question) stuck(a answer, full bool) bool {
	for _, c := range q.from {
		if !c.set.contains(a.added) || !slices.Equal(c.holding(a), c.held) {
			return false
		}
	}
	return a.upTo < maxPosition || full && len(a.held) > 0
}

// another reports whether there may be events to be given which this page did not ask for, as they waited for some of it.
func (q question) another(a answer) bool {
	return len(a.held) > 0 || len(a.gone) > 0 || slices.ContainsFunc(q.held, func(r link) bool { return a.added.has(r.before) })
}

// after adds to a coverage what the page gave up to an event, in the order in which it gave them, or
// all of it.
func (a answer) after(c eventsource.Coverage, last *eventsource.Event) eventsource.Coverage {
	position := int64(maxPosition)
	if last != nil {
		position = last.Position
	}
	own, next := c.(*gapped), *c.(*gapped)
	added := a.added
	if n := a.through(position); n < len(a.at) {
		added = a.dead.upTo(position).union(positionsOf(a.at[:n]))
	} else if !a.old.IsZero() {
		next.pace = pace{a.old, own.Position()}
	}
	if !own.set.contains(added) {
		next.set, next.server = own.set.union(added), a.server
	}
	next.held = next.holding(a)
	return &next
}

// through is how many of the events are given up to the one at the position; where there is none at it, up to the first above it.
func (a answer) through(position int64) int {
	if a.plain {
		n, there := slices.BinarySearch(a.at, position)
		if there {
			n++
		}
		return n
	}
	if i := slices.Index(a.at, position); i >= 0 {
		return i + 1
	}
	if i := slices.IndexFunc(a.at, func(at int64) bool { return at > position }); i >= 0 {
		return i
	}
	return len(a.at)
}
