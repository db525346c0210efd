package assignment

import (
	"cmp"
	"slices"
)

// quota is the fair share of a member when the rollout is complete. All comparisons are multiplied out, so that
// shares which are no whole number of slices stay exact.
type quota struct {
	world    *world
	replicas int
	toCome   int // members of the wanted definition that are not active yet
	all      int // slices over all groups
}

// rollOut fills the members of the wanted definition up to their quota and takes as little as possible from the rest.
// What it does next depends only on who has what, so a plan cut short by MaxMoves is taken up where it ended.
func (w *world) rollOut(replicas int) {
	q := quota{world: w, replicas: max(replicas, len(w.new))}
	q.toCome = q.replicas
	for _, m := range w.new {
		if w.takers[m].State == Active {
			q.toCome--
		}
	}
	for _, sum := range w.sum {
		q.all += sum
	}
	q.placeOrphans()
	for q.fillOne() {
	}
}

// placeOrphans gives the pool to new members up to their quota, then to old ones, then to whoever has room.
func (q quota) placeOrphans() {
	w := q.world
	for _, c := range w.classes {
		for c.pool > 0 {
			room := func(m int) bool { return w.room(c.group, m) }
			to := w.least(c.group, w.new, func(m int) bool { return room(m) && q.wants(c, m) })
			if to < 0 {
				to = w.least(c.group, w.old, room)
			}
			if to < 0 {
				to = w.least(c.group, w.new, room)
			}
			if to < 0 {
				break
			}
			w.give(c, to)
		}
	}
}

// fits tells whether the member stays within its quota in the group with one more of the class.
func (q quota) fits(c *class, m int) bool {
	return (q.world.load[c.group][m]+c.weight)*q.replicas <= q.world.sum[c.group]
}

// wants is fits, or that the member is below its quota both in the group and over all: somebody has to take what is
// left over when shares are no whole number of segments.
func (q quota) wants(c *class, m int) bool {
	return q.fits(c, m) ||
		q.world.load[c.group][m]*q.replicas < q.world.sum[c.group] && q.world.total[m]*q.replicas < q.all
}

// fillOne takes segments from one old member for one new one, the emptiest that can take anything first.
func (q quota) fillOne() bool {
	w := q.world
	victims := slices.DeleteFunc(q.emptiestFirst(w.old), func(m int) bool { return w.total[m] == 0 })
	for _, m := range q.emptiestFirst(w.new) {
		if q.takeOver(m, victims) || q.takeOne(m, victims) {
			return true
		}
	}
	return false
}

func (q quota) emptiestFirst(members []int) []int {
	sorted := slices.Clone(members)
	slices.SortFunc(sorted, func(a, b int) int {
		return cmp.Or(cmp.Compare(q.world.total[a], q.world.total[b]), cmp.Compare(a, b))
	})
	return sorted
}

// takeOver takes all that an old member can give.
func (q quota) takeOver(m int, victims []int) bool {
	for _, victim := range victims {
		if !q.takesWhole(m, victim, len(victims)) {
			continue
		}
		for _, c := range q.world.classes {
			for c.movable(victim) > 0 {
				q.world.shift(c, victim, m)
			}
		}
		return true
	}
	return false
}

// takesWhole tells whether everything of the victim should go to the member: it has nothing yet, or there are more old
// members with segments than new ones that will take theirs; and neither in a group nor in total it would get a whole segment above
// its quota.
func (q quota) takesWhole(m, victim, victims int) bool {
	w := q.world
	if w.total[m] > 0 && victims <= q.toCome {
		return false
	}
	content, largest := 0, 0
	for g, classes := range w.byGroup {
		inGroup, number, smallest := 0, 0, 0
		for _, c := range classes { // largest first
			if n := c.movable(victim); n > 0 {
				inGroup, number, smallest = inGroup+n*c.weight, number+n, c.weight
				largest = max(largest, c.weight)
			}
		}
		if number == 0 {
			continue
		}
		if w.takers[m].State == Probation && w.number[g][m]+number > 1 {
			return false
		}
		if (w.load[g][m]+inGroup-smallest)*q.replicas >= w.sum[g] {
			return false
		}
		content += inGroup
	}
	return content > 0 && (w.total[m]+content-largest)*q.replicas < q.all
}

// takeOne takes a segment that fits into the quota; or, for a member that has nothing and whose quota is less than a
// segment, any.
func (q quota) takeOne(m int, victims []int) bool {
	w := q.world
	for _, must := range []bool{true, false} {
		for _, victim := range victims {
			for _, c := range w.classes {
				if c.movable(victim) == 0 || !w.room(c.group, m) {
					continue
				}
				if q.fits(c, m) || !must && w.total[m] == 0 {
					w.shift(c, victim, m)
					return true
				}
			}
		}
	}
	return false
}
