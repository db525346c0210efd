package segment

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

// Kind is what a step does.
type Kind string

const (
	Split Kind = "Split" // Whole becomes Low and High
	Merge Kind = "Merge" // Low and High become Whole
)

// Step is one split or one merge. Low has the id of Whole.
type Step struct {
	Kind             Kind
	Whole, Low, High Segment
}

// String says what the step does, for logs and events.
func (s Step) String() string {
	if s.Kind == Merge {
		return fmt.Sprintf("merge %s and %s into %s", s.Low, s.High, s.Whole)
	}
	return fmt.Sprintf("split %s into %s and %s", s.Whole, s.Low, s.High)
}

// Apply returns the partition after the step, ordered by id; current stays as it is. It is an error if a segment that
// the step takes away is not there.
func (s Step) Apply(current []Segment) ([]Segment, error) {
	gone, made := []Segment{s.Whole}, []Segment{s.Low, s.High}
	if s.Kind == Merge {
		gone, made = made, gone
	}
	next := make([]Segment, 0, len(current)+1)
	for _, c := range current {
		if !slices.Contains(gone, c) {
			next = append(next, c)
		}
	}
	if len(next) != len(current)-len(gone) {
		return nil, fmt.Errorf("%s: not all of %v are there", s, gone)
	}
	next = append(next, made...)
	slices.SortFunc(next, func(a, b Segment) int { return int(a.ID) - int(b.ID) })
	return next, nil
}

// Next returns the next step from the present partition to [Layout](want), or false if that is what it is: the first of [Steps].
func Next(current []Segment, want int) (Step, bool, error) {
	steps, err := Steps(current, want)
	if err != nil {
		return Step{}, false, err
	}
	for step := range steps {
		return step, true, nil
	}
	return Step{}, false, nil
}

// Steps returns the steps from the present partition to [Layout](want), in order; whoever leaves off in between goes on with those
// from the partition that there is then. The present partition may be any, in any order; if it is none, the error of
// [Partition] says why, and if want is out of range, the error names the bounds.
//
// They are as few as is possible: a partition is the leaves of a binary tree, a step adds
// or removes one inner node, and only those nodes are touched in which the two trees differ. Merges come first,
// smallest segments first and of those the highest id, so that there are never more segments than before and after;
// then splits, largest first and of those the lowest id. Between two layouts every partition on the way is a layout.
// All steps together take O(n log n) for n segments before or after. current is read when the steps are asked for.
func Steps(current []Segment, want int) (iter.Seq[Step], error) {
	target, err := layoutTree(want)
	if err != nil {
		return nil, err
	}
	if err := Partition(current); err != nil {
		return nil, fmt.Errorf("present segments: %w", err)
	}
	return func(yield func(Step) bool) {
		var l levels
		for _, s := range current {
			l.add(s)
		}
		if l.merge(target, yield) {
			l.split(target, yield)
		}
	}, nil
}

// levels are a partition's segments by size: the ids of those of depth d in the tree, whose mask is 2^d - 1.
type levels [depths][]uint32

const depths = 16 // MaxSlices is 2^15

func maskOf(depth int) uint32 { return 1<<depth - 1 }

func (l *levels) add(s Segment) {
	depth := bits.OnesCount32(s.Mask)
	l[depth] = append(l[depth], s.ID)
}

// merge gives the merges, and reports whether more steps are wanted. The smallest segment that has to go has a sibling of its own
// size: were that divided further, the pieces would be smaller and would have to go too. A merge only adds to the level above.
func (l *levels) merge(target tree, yield func(Step) bool) bool {
	for depth := depths - 1; depth > 0; depth-- {
		slices.Sort(l[depth])
		var kept []uint32
		for _, id := range slices.Backward(l[depth]) {
			high := Segment{id, maskOf(depth)}
			whole := high.Parent()
			switch {
			case target.inner(whole):
				kept = append(kept, id)
			case id > whole.Mask: // the low half, which comes later, goes with it
				if !yield(Step{Kind: Merge, Whole: whole, Low: high.Sibling(), High: high}) {
					return false
				}
				l.add(whole)
			}
		}
		l[depth] = kept
	}
	return true
}

// split gives the splits. A split only adds to the level below.
func (l *levels) split(target tree, yield func(Step) bool) {
	for depth := range depths - 1 {
		slices.Sort(l[depth])
		for _, id := range l[depth] {
			whole := Segment{id, maskOf(depth)}
			if !target.inner(whole) {
				continue
			}
			low, high := whole.Split()
			if !yield(Step{Kind: Split, Whole: whole, Low: low, High: high}) {
				return
			}
			l.add(low)
			l.add(high)
		}
	}
}
