package assignment

import (
	"cmp"
	"slices"
)

// world is the plan in the making, in numbers: how many segments of which size of which group each taker gets. Which
// segments these are makes no difference until the end (see result), and numbers keep the work independent of how many
// segments there are.
type world struct {
	takers   []Member         // ordered by id; everything below that is indexed by member has their order
	old, new []int            // takers by definition
	ends     func(m int) bool // a taker that a rollout is about to remove
	present  map[int64]Member
	segments []Segment // ordered by group and id

	groups  []string
	classes []*class   // largest weight first, then by group
	byGroup [][]*class // the same of each group

	load   [][]int // slices of the hash space by group and member
	number [][]int // segments by group and member
	total  []int   // slices by member, over all groups
	sum    []int   // slices by group, over all segments
}

// class is the segments of one size of one group.
type class struct {
	group, weight int
	segments      []int // indexes into world.segments
	count         []int // by member: what it gets
	current       []int // by member: what it owns now
	pinned        []int // by member: how many of count it must keep
	pool          int   // segments that nobody has been given
}

func newWorld(members []Member, segments []Segment, policy Policy) *world {
	w := &world{present: map[int64]Member{}, segments: slices.Clone(segments)}
	slices.SortFunc(w.segments, func(a, b Segment) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Segment.ID, b.Segment.ID), cmp.Compare(a.Segment.Mask, b.Segment.Mask))
	})
	for _, m := range members {
		w.present[m.ID] = m
		if m.State == Active || m.State == Probation {
			w.takers = append(w.takers, m)
		}
	}
	slices.SortFunc(w.takers, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	index := make(map[int64]int, len(w.takers))
	for i, m := range w.takers {
		index[m.ID] = i
		if m.Definition < policy.Wanted {
			w.old = append(w.old, i)
		} else {
			w.new = append(w.new, i)
		}
	}
	rollsOut := slices.ContainsFunc(w.new, func(m int) bool { return w.takers[m].State == Active })
	w.ends = func(m int) bool { return rollsOut && w.takers[m].Definition < policy.Wanted }
	w.total = make([]int, len(w.takers))
	for i := range w.segments {
		w.add(i, index)
	}
	slices.SortStableFunc(w.classes, func(a, b *class) int { return cmp.Compare(b.weight, a.weight) })
	for _, classes := range w.byGroup {
		slices.SortStableFunc(classes, func(a, b *class) int { return cmp.Compare(b.weight, a.weight) })
	}
	w.settle()
	return w
}

// add enters the i-th segment, with its group and its class if they are new.
func (w *world) add(i int, index map[int64]int) {
	s := w.segments[i]
	if len(w.groups) == 0 || w.groups[len(w.groups)-1] != s.Group {
		w.groups = append(w.groups, s.Group)
		w.byGroup = append(w.byGroup, nil)
		w.load = append(w.load, make([]int, len(w.takers)))
		w.number = append(w.number, make([]int, len(w.takers)))
		w.sum = append(w.sum, 0)
	}
	g, weight := len(w.groups)-1, max(1, s.Segment.Share())
	at := slices.IndexFunc(w.byGroup[g], func(c *class) bool { return c.weight == weight })
	if at < 0 {
		n := len(w.takers)
		c := &class{group: g, weight: weight, count: make([]int, n), current: make([]int, n), pinned: make([]int, n)}
		at = len(w.byGroup[g])
		w.byGroup[g] = append(w.byGroup[g], c)
		w.classes = append(w.classes, c)
	}
	c := w.byGroup[g][at]
	c.segments = append(c.segments, i)
	w.sum[g] += weight
	m, owned := index[s.Current]
	if !owned {
		return
	}
	c.current[m]++
	if s.Pinned && !w.ends(m) {
		c.pinned[m]++
	}
}

// settle leaves with every taker what it owns, as far as it has room, pinned segments first; the rest is the pool.
func (w *world) settle() {
	for _, c := range w.classes {
		c.pool = len(c.segments)
	}
	for _, pinned := range []bool{true, false} {
		for _, c := range w.classes {
			for m := range w.takers {
				keep := c.current[m]
				if pinned {
					keep = c.pinned[m]
				}
				for c.count[m] < keep && w.room(c.group, m) {
					w.give(c, m)
				}
			}
		}
	}
	for _, c := range w.classes {
		for m := range w.takers {
			c.pinned[m] = min(c.pinned[m], c.count[m])
		}
	}
}

// room tells whether the member may get one more segment of the group.
func (w *world) room(group, m int) bool {
	return w.takers[m].State == Active || w.number[group][m] == 0
}

// give hands a segment of the pool to a member.
func (w *world) give(c *class, to int) {
	c.pool--
	w.change(c, to, 1)
}

// shift takes a segment from one member to another.
func (w *world) shift(c *class, from, to int) {
	w.change(c, from, -1)
	w.change(c, to, 1)
}

func (w *world) change(c *class, m, by int) {
	c.count[m] += by
	w.number[c.group][m] += by
	w.load[c.group][m] += by * c.weight
	w.total[m] += by * c.weight
}

// movable returns how many segments of the class the member could give away.
func (c *class) movable(m int) int { return c.count[m] - c.pinned[m] }

// holds tells whether any of the members has a segment.
func (w *world) holds(members []int) bool {
	return slices.ContainsFunc(members, func(m int) bool { return w.total[m] > 0 })
}

// least returns the member with the smallest load in the group that is acceptable; of equals the one with the
// smallest total, then with the lowest id. It returns -1 if none is.
func (w *world) least(group int, among []int, acceptable func(m int) bool) int {
	best := -1
	for _, m := range among {
		if !acceptable(m) {
			continue
		}
		if best < 0 || cmp.Or(
			cmp.Compare(w.load[group][m], w.load[group][best]),
			cmp.Compare(w.total[m], w.total[best]),
			cmp.Compare(m, best)) < 0 {
			best = m
		}
	}
	return best
}
