package postgres

import (
	"maps"
	"slices"
)

// fence proves which positions nobody can fill any more.
//
// A transaction that takes a number from the sequence holds a lock on it from before it takes it until after its end is visible to new
// snapshots; the lock stays through savepoints and when the transaction is prepared. So whoever took a number up to a mark, and has not ended, is among the holders
// that are looked up after the mark was read. When all of those have ended, positions up to the mark are settled: a statement that
// begins now sees the events at them, and where it sees none, there will never be one.
//
// The positions between two marks are a slice, with those holders that may have taken one of them. A holder did not if it has been still,
// doing nothing at all, since before the lower mark was read: so somebody who keeps a transaction open does not keep others' positions from being settled.
// The zero value knows nothing. All is in memory: whoever begins anew has everything to prove, and it is as true.
type fence struct {
	slices []slice // ascending, without gaps between them
	last   holders // of the round before
	older  holders // of the one before that
}

// slice is the positions above those of the one before and up to through. It is settled when nobody is open.
type slice struct {
	through int64
	open    map[string]bool
}

// holders are transactions that hold the lock, by their virtual ids, which a server gives only once.
type holders map[string]stillness

// stillness says what a transaction does.
type stillness struct {
	// since is the same as before only where the transaction has done nothing in between; empty if that is not known.
	since string
	// prepared is a transaction of no session. It may have had another id before it was prepared: PostgreSQL 15 lets it keep its id, but that is
	// promised nowhere.
	prepared bool
}

// mostSlices is how many are told apart. Beyond, neighbours are settled together.
const mostSlices = 512

// note takes one round: a mark, which is the sequence's last number, and who held its lock when
// that had been read. It reports whether the sequence has gone back from the mark before, as
// numbers are then given out again.
func (f *fence) note(mark int64, now holders) (before int64, back bool) {
	if n := len(f.slices); n > 0 {
		before = f.slices[n-1].through
	}
	if mark < before {
		return before, true
	}
	for _, s := range f.slices {
		f.drop(s.open, now)
	}
	if mark > before {
		f.slices = append(f.slices, slice{mark, f.taking(now)})
	}
	f.join()
	f.older, f.last = f.last, now
	return before, false
}

// drop removes those who have ended. One that is not there any more may have been prepared, and then it is there by a new id.
func (f *fence) drop(open map[string]bool, now holders) {
	gone := false
	for id := range open {
		if _, there := now[id]; !there {
			delete(open, id)
			gone = gone || !f.last[id].prepared
		}
	}
	if !gone {
		return
	}
	for id, h := range now {
		if _, known := f.last[id]; h.prepared && !known {
			open[id] = true
		}
	}
}

// taking is who may have taken a number since the mark before this round's. The round before the last one had looked before it read
// that mark.
func (f *fence) taking(now holders) map[string]bool {
	open := map[string]bool{}
	for id, h := range now {
		if was, there := f.older[id]; h.since == "" || !there || was != h {
			open[id] = true
		}
	}
	return open
}

// join makes one slice of neighbours that wait for the same holders; and of any two while there are too many, which waits for both's.
func (f *fence) join() {
	joined := f.slices[:0]
	for _, s := range f.slices {
		if n := len(joined); n > 0 && maps.Equal(joined[n-1].open, s.open) {
			joined[n-1].through = s.through
		} else {
			joined = append(joined, s)
		}
	}
	for len(joined) > mostSlices { // the first one is mostly settled, and large
		maps.Copy(joined[2].open, joined[1].open)
		joined = slices.Delete(joined, 1, 2)
	}
	f.slices = joined
}

// settled are the positions that nobody can fill any more.
func (f *fence) settled() (settled ranges) {
	above := int64(0)
	for _, s := range f.slices {
		if len(s.open) == 0 {
			settled = settled.add(span{above + 1, s.through})
		}
		above = s.through
	}
	return settled
}
