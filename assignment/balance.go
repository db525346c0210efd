package assignment

import (
	"cmp"
	"slices"
)

// place gives the pool to the members with the smallest shares, largest segments first.
func (w *world) place(among []int) {
	for _, c := range w.classes {
		for c.pool > 0 {
			to := w.least(c.group, among, func(m int) bool { return w.room(c.group, m) })
			if to < 0 {
				break
			}
			w.give(c, to)
		}
	}
}

// balance makes the members even in each group and over all groups with the fewest moves. It ends: every round that
// changes anything lowers the sum of the squared loads of a group; or leaves these and lowers that of the totals; or leaves
// both and saves a move.
func (w *world) balance(among []int) {
	for changed := true; changed; {
		changed = false
		for g := range w.groups {
			for w.evenGroup(g, among) {
				changed = true
			}
		}
		for w.evenTotals(among) {
			changed = true
		}
		for w.cancel(among) {
			changed = true
		}
	}
}

// evenGroup makes one move that makes the group more even: from the largest share that can give to the smallest, and
// the segment that brings the two closest to each other.
func (w *world) evenGroup(g int, among []int) bool {
	to := w.least(g, among, func(m int) bool { return w.room(g, m) })
	if to < 0 {
		return false
	}
	load := w.load[g]
	var best *class
	from := -1
	for _, m := range among {
		if from >= 0 && load[m] <= load[from] {
			continue
		}
		if c := w.leveller(g, m, load[m]-load[to]); c != nil {
			best, from = c, m
		}
	}
	if best == nil {
		return false
	}
	w.shift(best, from, to)
	return true
}

// leveller returns the class of which the member should give a segment to somebody whose load is smaller by gap, or
// nil if none makes the two more even.
func (w *world) leveller(g, m, gap int) (best *class) {
	for _, c := range w.byGroup[g] {
		if c.movable(m) == 0 || c.weight >= gap {
			continue
		}
		if best == nil || distance(2*c.weight, gap) < distance(2*best.weight, gap) {
			best = c
		}
	}
	return best
}

func distance(a, b int) int { return max(a-b, b-a) }

// evenTotals makes one move that makes the totals of two members more even while the group stays as even as it is.
func (w *world) evenTotals(among []int) bool {
	if len(w.groups) < 2 {
		return false
	}
	byTotal := slices.Clone(among)
	slices.SortFunc(byTotal, func(a, b int) int { return cmp.Or(cmp.Compare(w.total[a], w.total[b]), cmp.Compare(a, b)) })
	lowest := w.lowest(among)
	for i := len(byTotal) - 1; i > 0; i-- {
		for _, to := range byTotal[:i] {
			from := byTotal[i]
			for _, c := range w.classes {
				if w.total[from]-w.total[to] > c.weight && w.exchangeable(c, from, to, lowest[c.group]) {
					w.shift(c, from, to)
					return true
				}
			}
		}
	}
	return false
}

// exchangeable tells whether, by one segment of the class, two members would exchange their loads in the group, which
// leaves it as even as it is. That holds only if the receiver has nothing smaller that would be better off with
// the one whose load is lowest; pinned segments count here, so that a plan is a fixpoint whatever is pinned later.
func (w *world) exchangeable(c *class, from, to, lowest int) bool {
	load := w.load[c.group]
	if load[from]-load[to] != c.weight || c.movable(from) == 0 || !w.room(c.group, to) {
		return false
	}
	for _, other := range w.byGroup[c.group] {
		if other.count[to] > 0 && load[from]-lowest > other.weight {
			return false
		}
	}
	return true
}

// lowest returns, by group, the smallest load of a member that has room.
func (w *world) lowest(among []int) []int {
	lowest := make([]int, len(w.groups))
	for g := range lowest {
		if m := w.least(g, among, func(m int) bool { return w.room(g, m) }); m >= 0 {
			lowest[g] = w.load[g][m]
		}
	}
	return lowest
}
