package postgres

import (
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
	// gaps are the positions asked for up to tail; above tail all are.
	gaps ranges
	tail int64
	// proved was known before the statement began.
	proved proved
	// whole says that all gaps are asked for. Only where positions are reserved are there others.
	whole bool
	asked time.Time
	// server is the one that answered.
	server string
}

// ask says what is to be read for coverages.
func ask(from []*gapped, proved proved, whole bool, now time.Time) question {
	meet := from[0].set
	for _, c := range from[1:] {
		meet = meet.meet(c.set)
	}
	q := question{from: from, gaps: meet.holes(), tail: meet.last(), proved: proved, whole: whole, asked: now}
	if !whole {
		young := meet.last()
		for _, c := range from {
			young = min(young, c.pace.old)
		}
		q.gaps = q.gaps.meet(upward(young + 1))
	}
	return q
}

// answer is what a page adds to the coverages that it was read for.
type answer struct {
	added ranges
	// upTo is the last position that the page may hold, so that no coverage gets too many gaps.
	upTo int64
	last int64
	old  time.Time // when all gaps were looked at; zero if not
	// server of the page.
	server string
}

// answered says what rows at the positions mean, which ascend and end at a limit where it is full.
//
// The statement saw every event at a settled position that it looked at: there is one, which is among the rows, or there never will be. At other positions
// without a row there may be one yet.
func (q question) answered(rows []int64, full bool) answer {
	looked := q.gaps.union(upward(q.tail + 1))
	var last int64
	if n := len(rows); n > 0 {
		last = rows[n-1]
	}
	if full {
		looked = looked.upTo(last)
	}
	var seen ranges
	for _, p := range rows {
		seen = seen.add(span{p, p})
	}
	a := answer{added: looked.meet(q.proved.settled).union(seen), upTo: maxPosition, last: last, server: q.server}
	if q.whole && !full {
		a.old = q.asked
	}
	for _, c := range q.from {
		if all := c.set.union(a.added); len(all) > mostGaps {
			a.upTo = min(a.upTo, max(c.Position(), all[mostGaps-1].to))
		}
	}
	if a.upTo < maxPosition {
		a.added = a.added.upTo(a.upTo)
		a.last = min(a.last, a.upTo)
	}
	return a
}

// stuck reports whether none of the coverages comes any farther by the page.
func (q question) stuck(a answer) bool {
	for _, c := range q.from {
		if !c.set.contains(a.added) {
			return false
		}
	}
	return a.upTo < maxPosition
}

// after adds to a coverage what the page gave up to the position.
func (a answer) after(c eventsource.Coverage, position int64) eventsource.Coverage {
	own, next := c.(*gapped), *c.(*gapped)
	added := a.added
	if position < a.last {
		added = added.upTo(position)
	} else if !a.old.IsZero() {
		next.pace = pace{a.old, own.Position()}
	}
	if !own.set.contains(added) {
		next.set, next.server = own.set.union(added), a.server
	}
	return &next
}
