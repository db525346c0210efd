package segment

import (
	"fmt"
	"math/bits"
)

// Layout returns the partition into n segments, ordered by id. The ids are 0 to n-1, and no segment is larger than
// twice any other; with n a power of two all are equal. n goes from 1 to [MaxSegments].
//
// It is what splitting the largest segment with the lowest id gives, n-1 times from Root: with p the largest power of
// two that is not above n, the segments 0 to n-p-1 of the p equal ones are split.
func Layout(n int) ([]Segment, error) {
	tree, err := layoutTree(n)
	if err != nil {
		return nil, err
	}
	segments := make([]Segment, n)
	for i := range segments {
		id := uint32(i)
		segments[i] = Segment{id, tree.p - 1}
		if id >= tree.p || id < tree.split {
			segments[i].Mask = 2*tree.p - 1
		}
	}
	return segments, nil
}

// tree is a layout as a binary tree with the segments as leaves: all nodes above level p are inner nodes, and of
// those of level p the ones with an id below split.
type tree struct{ p, split uint32 }

func layoutTree(n int) (tree, error) {
	if n < 1 || n > MaxSegments {
		return tree{}, fmt.Errorf("segments: %d is out of range, choose 1 to %d", n, MaxSegments)
	}
	p := uint32(1) << (bits.Len(uint(n)) - 1)
	return tree{p: p, split: uint32(n) - p}, nil
}

// inner tells whether the layout divides s any further.
func (t tree) inner(s Segment) bool {
	size := s.Mask + 1
	return size < t.p || size == t.p && s.ID < t.split
}

// Partition returns nil if the segments cover the hash space exactly once, in whatever order. Else the error names a
// segment that is not valid, or a slice that is covered twice, or one that is not covered.
func Partition(segments []Segment) error {
	const nobody = -1
	var owner [MaxSlices]int32
	for slice := range owner {
		owner[slice] = nobody
	}
	for i, s := range segments {
		if err := s.Valid(); err != nil {
			return err
		}
		for slice := s.ID; slice < MaxSlices; slice += s.Mask + 1 {
			if owner[slice] != nobody {
				return fmt.Errorf("slice %d is covered twice: by segment %s and by segment %s", slice, segments[owner[slice]], s)
			}
			owner[slice] = int32(i)
		}
	}
	for slice, i := range owner {
		if i == nobody {
			return fmt.Errorf("slice %d is not covered by any of %d segments", slice, len(segments))
		}
	}
	return nil
}
