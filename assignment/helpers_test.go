package assignment_test

import (
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/segment"
)

// active returns members 1 to n of definition 1.
func active(n int) (members []assignment.Member) {
	for id := range n {
		members = append(members, assignment.Member{ID: int64(id + 1), Definition: 1, State: assignment.Active})
	}
	return members
}

// equal returns n unowned segments of one size.
func equal(group string, n int) (segments []assignment.Segment) {
	mask := uint32(1)
	for mask < uint32(n) {
		mask <<= 1
	}
	for id := range n {
		segments = append(segments, assignment.Segment{Group: group, Segment: segment.Segment{ID: uint32(id), Mask: mask - 1}})
	}
	return segments
}

// layout returns n unowned segments, of two sizes if n is no power of two.
func layout(group string, n int) (segments []assignment.Segment) {
	parts, err := segment.Layout(n)
	if err != nil {
		panic(err)
	}
	for _, s := range parts {
		segments = append(segments, assignment.Segment{Group: group, Segment: s})
	}
	return segments
}

// apply returns the segments as they are when the plan has been carried out.
func apply(segments []assignment.Segment, r assignment.Result) []assignment.Segment {
	type key struct {
		group string
		id    uint32
	}
	worker := map[key]int64{}
	for _, t := range r.Targets {
		worker[key{t.Group, t.ID}] = t.Worker
	}
	after := slices.Clone(segments)
	for i, s := range after {
		after[i].Current = worker[key{s.Group, s.Segment.ID}]
	}
	return after
}

// liveMoves counts the segments that are taken away from members that are present.
func liveMoves(members []assignment.Member, before, after []assignment.Segment) (n int) {
	for i, s := range before {
		present := slices.ContainsFunc(members, func(m assignment.Member) bool { return m.ID == s.Current })
		if present && after[i].Current != s.Current {
			n++
		}
	}
	return n
}

type place struct {
	group  string
	worker int64
}

// loads returns slices by group and worker, and over all groups (with group "").
func loads(segments []assignment.Segment) map[place]int {
	load := map[place]int{}
	for _, s := range segments {
		load[place{s.Group, s.Current}] += s.Segment.Share()
		load[place{"", s.Current}] += s.Segment.Share()
	}
	return load
}

// uneven returns why the segments are not spread evenly over the members, all of whom are active, or "". It follows
// the definition: it tries every single move.
func uneven(members []assignment.Member, segments []assignment.Segment) string {
	load := loads(segments)
	for _, s := range segments {
		for _, m := range members {
			a, b, w := load[place{s.Group, s.Current}], load[place{s.Group, m.ID}], s.Segment.Share()
			if b+w < a {
				return fmt.Sprintf("%s %s should go from %d (%d) to %d (%d)", s.Group, s.Segment, s.Current, a, m.ID, b)
			}
			if b+w == a && load[place{"", m.ID}]+w < load[place{"", s.Current}] && keepsGroupEven(members, segments, s, m.ID) {
				return fmt.Sprintf("%s %s should go from %d to %d for the sake of the totals", s.Group, s.Segment, s.Current, m.ID)
			}
		}
	}
	return ""
}

func keepsGroupEven(members []assignment.Member, segments []assignment.Segment, moved assignment.Segment, to int64) bool {
	var group []assignment.Segment
	for _, s := range segments {
		if s.Group != moved.Group {
			continue
		}
		if s == moved {
			s.Current = to
		}
		group = append(group, s)
	}
	load := loads(group)
	for _, s := range group {
		for _, m := range members {
			if load[place{s.Group, m.ID}]+s.Segment.Share() < load[place{s.Group, s.Current}] {
				return false
			}
		}
	}
	return true
}

// fewestMoves tries every assignment and returns the smallest number of live moves to one that is even.
func fewestMoves(members []assignment.Member, segments []assignment.Segment) int {
	best := len(segments) + 1
	trial := slices.Clone(segments)
	var try func(i int)
	try = func(i int) {
		if i < len(trial) {
			for _, m := range members {
				trial[i].Current = m.ID
				try(i + 1)
			}
			return
		}
		if n := liveMoves(members, segments, trial); n < best && uneven(members, trial) == "" {
			best = n
		}
	}
	try(0)
	return best
}

// owned draws present owners: members, somebody who is gone, or nobody.
func owned(t *rapid.T, members []assignment.Member, segments []assignment.Segment) []assignment.Segment {
	owners := []int64{0, 99}
	for _, m := range members {
		owners = append(owners, m.ID)
	}
	few := rapid.IntRange(1, len(owners)).Draw(t, "owners") // also draws uneven worlds
	segments = slices.Clone(segments)
	for i := range segments {
		segments[i].Current = owners[len(owners)-1-rapid.IntRange(0, few-1).Draw(t, "owner")]
	}
	return segments
}
