package assignment

import (
	"cmp"
	"slices"

	"github.com/sluice-project/sluice/segment"
)

// result says which segments make up the numbers: an owner keeps its pinned ones, then those with the lowest ids; what is
// left goes, lowest id first, to the members that have too few, lowest id first.
func (w *world) result(maxMoves int) Result {
	worker := make([]int64, len(w.segments))
	for _, c := range w.classes {
		w.choose(c, worker)
	}
	r := Result{Targets: make([]Target, len(w.segments))}
	optional := 0
	for i, s := range w.segments {
		t := Target{s.Group, s.Segment.ID, worker[i], w.reason(s, worker[i])}
		if t.Reason == Balance || t.Reason == Rollout {
			if optional++; maxMoves > 0 && optional > maxMoves {
				t.Worker, t.Reason = s.Current, Kept
			}
		}
		r.Targets[i] = t
		switch t.Reason {
		case Kept:
		case Unassignable:
			r.Unassigned = append(r.Unassigned, t)
		default:
			r.Moves = append(r.Moves, Move{s.Group, s.Segment.ID, s.Current, t.Worker, t.Reason})
		}
	}
	w.figures(&r)
	return r
}

// choose fills in the workers of the class's segments.
func (w *world) choose(c *class, worker []int64) {
	owned := make(map[int64][]int, len(w.takers))
	for _, i := range c.segments {
		owned[w.segments[i].Current] = append(owned[w.segments[i].Current], i)
	}
	lacking := make([]int, len(w.takers))
	for m, taker := range w.takers {
		mine := owned[taker.ID]
		slices.SortStableFunc(mine, func(a, b int) int { return -cmp.Compare(rank(w.segments[a]), rank(w.segments[b])) })
		kept := min(len(mine), c.count[m])
		for _, i := range mine[:kept] {
			worker[i] = taker.ID
		}
		lacking[m] = c.count[m] - kept
	}
	to := 0
	for _, i := range c.segments {
		if worker[i] != 0 {
			continue
		}
		for to < len(lacking) && lacking[to] == 0 {
			to++
		}
		if to == len(lacking) {
			return
		}
		worker[i] = w.takers[to].ID
		lacking[to]--
	}
}

func rank(s Segment) int {
	if s.Pinned {
		return 1
	}
	return 0
}

func (w *world) reason(s Segment, worker int64) Reason {
	owner, present := w.present[s.Current]
	switch {
	case worker == 0:
		return Unassignable
	case worker == s.Current:
		return Kept
	case s.Current == 0:
		return New
	case !present:
		return Orphaned
	case owner.State == Probation:
		return OnProbation
	case owner.State != Active:
		return Drained
	case len(w.new) > 0 && slices.ContainsFunc(w.old, func(m int) bool { return w.takers[m].ID == s.Current }):
		return Rollout
	default:
		return Balance
	}
}

// figures adds how even the plan is, as it will be carried out.
func (w *world) figures(r *Result) {
	r.Groups = make(map[string]Spread, len(w.groups))
	total := make(map[int64]int, len(w.takers))
	load := make(map[int64]int, len(w.takers))
	for i, t := range r.Targets {
		weight := max(1, w.segments[i].Segment.Share())
		load[t.Worker] += weight
		total[t.Worker] += weight
		if i+1 == len(r.Targets) || r.Targets[i+1].Group != t.Group {
			r.Groups[t.Group] = w.spread(load)
			clear(load)
		}
	}
	r.Total = w.spread(total)
}

func (w *world) spread(load map[int64]int) (s Spread) {
	for i, m := range w.takers {
		share := float64(load[m.ID]) / segment.MaxSlices
		if i == 0 {
			s.Smallest = share
		}
		s.Largest, s.Smallest = max(s.Largest, share), min(s.Smallest, share)
		s.Mean += share / float64(len(w.takers))
	}
	return s
}
