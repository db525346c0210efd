package postgres

import "github.com/sluice-project/sluice/segment"

// sliceFilter selects slices in the database: the slice s is wanted if bit s & mask of bits is set, counted as PostgreSQL's
// get_bit does, from the lowest bit of the first byte.
type sliceFilter struct {
	mask int32
	bits []byte
}

// everySlice wants them all.
var everySlice = sliceFilter{mask: 0, bits: []byte{1}}

// filterFor selects the slices of the segments. Where these are half of the space or more, it selects all: looking at each row
// then costs more than sending some in vain.
func filterFor(segments []segment.Segment) sliceFilter {
	share, mask := 0, uint32(0)
	for _, s := range segments {
		share += s.Share()
		mask = max(mask, s.Mask)
	}
	if len(segments) == 0 || share >= segment.MaxSlices/2 {
		return everySlice
	}
	f := sliceFilter{mask: int32(mask), bits: make([]byte, mask/8+1)}
	for _, s := range segments {
		for id := s.ID; id <= mask; id += s.Mask + 1 {
			f.bits[id/8] |= 1 << (id % 8)
		}
	}
	return f
}
