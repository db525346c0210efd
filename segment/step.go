package segment

import (
	"fmt"
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

// Next returns the next step from the present partition to [Layout](want), or false if that is what it is. The
// present partition may be any, in any order; if it is none, the error of [Partition] says why, and if want is out of
// range, the error names the bounds.
//
// Following the steps takes as few of them as is possible: a partition is the leaves of a binary tree, a step adds
// or removes one inner node, and only those nodes are touched in which the two trees differ. Merges come first,
// smallest segments first and of those the highest id, so that there are never more segments than before and after;
// then splits, largest first and of those the lowest id. Between two layouts every partition on the way is a layout.
func Next(current []Segment, want int) (Step, bool, error) {
	target, err := layoutTree(want)
	if err != nil {
		return Step{}, false, err
	}
	if err := Partition(current); err != nil {
		return Step{}, false, fmt.Errorf("present segments: %w", err)
	}
	if high, ok := nextMerge(current, target); ok {
		return Step{Kind: Merge, Whole: high.Parent(), Low: high.Sibling(), High: high}, true, nil
	}
	if whole, ok := nextSplit(current, target); ok {
		low, high := whole.Split()
		return Step{Kind: Split, Whole: whole, Low: low, High: high}, true, nil
	}
	return Step{}, false, nil
}

// nextMerge returns the high half of the pair to be merged. The smallest segment that has to go has a sibling of its
// own size: were that divided further, the pieces would be smaller and would have to go too.
func nextMerge(current []Segment, target tree) (best Segment, found bool) {
	for _, s := range current {
		if s == Root || target.inner(s.Parent()) {
			continue
		}
		if !found || s.Mask > best.Mask || s.Mask == best.Mask && s.ID > best.ID {
			best, found = s, true
		}
	}
	return best, found
}

func nextSplit(current []Segment, target tree) (best Segment, found bool) {
	for _, s := range current {
		if !target.inner(s) {
			continue
		}
		if !found || s.Mask < best.Mask || s.Mask == best.Mask && s.ID < best.ID {
			best, found = s, true
		}
	}
	return best, found
}
