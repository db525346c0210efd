package segment

import (
	"fmt"
	"math/bits"
)

const (
	// MaxSlices is the number of slices that the hash space is divided into: the lowest 15 bits of a hash. No
	// segment is smaller than a slice.
	MaxSlices = 1 << 15
	// MaxSegments is the largest number of segments that a group can have.
	MaxSegments = MaxSlices - 1
)

// Segment is the share of the hash space with hash & Mask == ID. Masks are 2^k-1 with k from 0 to 15, ids lie between
// 0 and the mask. The zero value is [Root].
type Segment struct{ ID, Mask uint32 }

// Root is the segment that contains every hash.
var Root = Segment{}

// Contains tells whether the segment is responsible for keys with this hash.
func (s Segment) Contains(hash uint32) bool { return hash&s.Mask == s.ID }

// Includes tells whether the segment is responsible for all keys that the other one is responsible for.
func (s Segment) Includes(other Segment) bool {
	return s.Mask&other.Mask == s.Mask && s.Contains(other.ID)
}

// Split returns the two halves of the segment; the low one keeps its id. A segment of a single slice (Mask =
// MaxSlices-1) has no halves: those of it that Split returns are not valid.
func (s Segment) Split() (low, high Segment) {
	mask := s.Mask<<1 | 1
	return Segment{s.ID, mask}, Segment{s.ID + s.Mask + 1, mask}
}

// Sibling returns the other half of the parent: the only segment that this one can be merged with. Root is its own
// sibling.
func (s Segment) Sibling() Segment { return Segment{s.ID ^ (s.Mask &^ (s.Mask >> 1)), s.Mask} }

// Pair returns the segment and its sibling, the one with the lower id first.
func (s Segment) Pair() (low, high Segment) {
	if other := s.Sibling(); other.ID < s.ID {
		return other, s
	}
	return s, s.Sibling()
}

// Parent returns the segment that the merge with the sibling gives. Root is its own parent.
func (s Segment) Parent() Segment {
	mask := s.Mask >> 1
	return Segment{s.ID & mask, mask}
}

// Share returns how many of the MaxSlices slices belong to the segment, 1 to MaxSlices.
func (s Segment) Share() int { return MaxSlices / (int(s.Mask) + 1) }

// Slice returns the slice that a hash lies in, 0 to MaxSlices-1.
func Slice(hash uint32) uint32 { return hash & (MaxSlices - 1) }

// Valid returns an error that says what is wrong with the id or the mask.
func (s Segment) Valid() error {
	if s.Mask >= MaxSlices || bits.OnesCount32(s.Mask+1) != 1 {
		return fmt.Errorf("segment %s: mask %d is not one of 0, 1, 3, 7, … %d", s, s.Mask, MaxSlices-1)
	}
	if s.ID > s.Mask {
		return fmt.Errorf("segment %s: id %d is greater than the mask %d", s, s.ID, s.Mask)
	}
	return nil
}

// String returns id and mask, as in 3/15.
func (s Segment) String() string { return fmt.Sprintf("%d/%d", s.ID, s.Mask) }
