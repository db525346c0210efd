package postgres

import (
	"slices"
	"sort"
)

// span is a range of positions, with both ends.
type span struct{ from, to int64 }

// ranges is a set of positions: spans that ascend, and do not touch one another. It is immutable.
type ranges []span

// upward is all positions from one on.
func upward(from int64) ranges { return ranges{{from, maxPosition}} }

const maxPosition = 1<<63 - 1

// through is all positions from 1 up to one.
func through(to int64) ranges {
	if to < 1 {
		return nil
	}
	return ranges{{1, to}}
}

// last is the highest position, 0 without any.
func (r ranges) last() int64 {
	if len(r) == 0 {
		return 0
	}
	return r[len(r)-1].to
}

// at is the index of the first span that ends at the position or above.
func (r ranges) at(position int64) int {
	return sort.Search(len(r), func(i int) bool { return r[i].to >= position })
}

func (r ranges) has(position int64) bool {
	i := r.at(position)
	return i < len(r) && r[i].from <= position
}

// add puts a span behind or onto the last one, whose start is not above its.
func (r ranges) add(s span) ranges {
	if n := len(r); n > 0 && (r[n-1].to == maxPosition || s.from <= r[n-1].to+1) {
		r[n-1].to = max(r[n-1].to, s.to)
		return r
	}
	return append(r, s)
}

func (r ranges) union(other ranges) ranges {
	if len(other) == 0 {
		return r
	}
	if len(r) == 0 {
		return other
	}
	both := make(ranges, 0, len(r)+len(other))
	for len(r) > 0 || len(other) > 0 {
		if len(other) == 0 || len(r) > 0 && r[0].from <= other[0].from {
			both, r = both.add(r[0]), r[1:]
		} else {
			both, other = both.add(other[0]), other[1:]
		}
	}
	return both
}

func (r ranges) meet(other ranges) (both ranges) {
	for len(r) > 0 && len(other) > 0 {
		if from, to := max(r[0].from, other[0].from), min(r[0].to, other[0].to); from <= to {
			both = append(both, span{from, to})
		}
		if r[0].to < other[0].to {
			r = r[1:]
		} else {
			other = other[1:]
		}
	}
	return both
}

// holes are the positions from 1 on that are not in the set, up to its last.
func (r ranges) holes() (holes ranges) {
	next := int64(1)
	for _, s := range r {
		if s.from > next {
			holes = append(holes, span{next, s.from - 1})
		}
		next = s.to + 1 // of the last one it is not used
	}
	return holes
}

// rest is all positions from 1 on that are not in the set.
func (r ranges) rest() ranges {
	if last := r.last(); last < maxPosition {
		return append(r.holes(), span{last + 1, maxPosition})
	}
	return r.holes()
}

// upTo is what the set has up to a position.
func (r ranges) upTo(position int64) ranges {
	i := r.at(position)
	cut := slices.Clip(r[:i])
	if i < len(r) && r[i].from <= position {
		cut = append(cut, span{r[i].from, position})
	}
	return cut
}

func (r ranges) contains(other ranges) bool {
	for _, s := range other {
		if i := r.at(s.from); i == len(r) || r[i].from > s.from || r[i].to < s.to {
			return false
		}
	}
	return true
}
