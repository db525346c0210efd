package segment_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/segment"
)

// anySegment draws a valid segment that is not smaller than a slice.
func anySegment(t *rapid.T, maxDepth int) segment.Segment {
	mask := uint32(1)<<rapid.IntRange(0, maxDepth).Draw(t, "depth") - 1
	return segment.Segment{ID: rapid.Uint32Range(0, mask).Draw(t, "id"), Mask: mask}
}

func TestSplitHalvesAreSiblingsAndShareTheHashesOfTheirParent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, hash := anySegment(t, 14), rapid.Uint32().Draw(t, "hash")
		low, high := s.Split()
		if low.ID != s.ID {
			t.Fatalf("low half of %s is %s, want the same id", s, low)
		}
		for _, half := range []segment.Segment{low, high} {
			if err := half.Valid(); err != nil {
				t.Fatal(err)
			}
			if half.Parent() != s || half.Share()*2 != s.Share() {
				t.Fatalf("half %s of %s has parent %s and share %d", half, s, half.Parent(), half.Share())
			}
		}
		if low.Sibling() != high || high.Sibling() != low {
			t.Fatalf("siblings of %s and %s are %s and %s", low, high, low.Sibling(), high.Sibling())
		}
		inHalves := 0
		for _, half := range []segment.Segment{low, high} {
			if half.Contains(hash) {
				inHalves++
			}
		}
		if want := map[bool]int{true: 1}[s.Contains(hash)]; inHalves != want {
			t.Fatalf("hash %d lies in %d halves of %s, want %d", hash, inHalves, s, want)
		}
		if s.Contains(hash) != s.Contains(segment.Slice(hash)) {
			t.Fatalf("%s contains hash %d but not its slice, or the other way round", s, hash)
		}
	})
}

func TestRoot(t *testing.T) {
	root := segment.Root
	if root.Parent() != root || root.Sibling() != root || root.Share() != segment.MaxSlices || !root.Contains(4294967295) {
		t.Fatalf("parent %s, sibling %s, share %d", root.Parent(), root.Sibling(), root.Share())
	}
}

func TestValid(t *testing.T) {
	for text, s := range map[string]segment.Segment{
		"":                                       {ID: 32767, Mask: 32767},
		"segment 3/2: mask 2 is not one of":      {ID: 3, Mask: 2},
		"mask 65535 is not one of":               {ID: 0, Mask: 65535},
		"mask 4294967295 is not one of":          {ID: 0, Mask: 4294967295},
		"segment 4/3: id 4 is greater than the ": {ID: 4, Mask: 3},
	} {
		err := s.Valid()
		if text == "" && err != nil || text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
			t.Errorf("%s: error %v, want %q", s, err, text)
		}
	}
}

func TestLayoutEqualsAxonsTables(t *testing.T) {
	for n, want := range map[int]string{
		1: "0/0",
		2: "0/1 1/1",
		3: "0/3 1/1 2/3",
		4: "0/3 1/3 2/3 3/3",
		5: "0/7 1/3 2/3 3/3 4/7",
		7: "0/7 1/7 2/7 3/3 4/7 5/7 6/7",
		9: "0/15 1/7 2/7 3/7 4/7 5/7 6/7 7/7 8/15",
	} {
		if diff := cmp.Diff(want, text(layout(t, n))); diff != "" {
			t.Errorf("layout of %d: %s", n, diff)
		}
	}
}

func TestLayoutIsAPartitionWithIDsFromZeroAndSharesWithinAFactorOfTwo(t *testing.T) {
	for _, n := range []int{1, 2, 3, 16, 120, 1023, 1024, 1025, 16384, 16385, 32766, 32767} {
		segments := layout(t, n)
		if len(segments) != n {
			t.Fatalf("layout of %d has %d segments", n, len(segments))
		}
		if err := segment.Partition(segments); err != nil {
			t.Fatalf("layout of %d: %v", n, err)
		}
		smallest, largest := segment.MaxSlices, 0
		for i, s := range segments {
			if s.ID != uint32(i) {
				t.Fatalf("layout of %d: segment %s at %d", n, s, i)
			}
			smallest, largest = min(smallest, s.Share()), max(largest, s.Share())
		}
		if largest > 2*smallest {
			t.Fatalf("layout of %d: shares from %d to %d", n, smallest, largest)
		}
	}
}

func TestLayoutOutOfRangeNamesTheBounds(t *testing.T) {
	for _, n := range []int{-1, 0, 32768} {
		if _, err := segment.Layout(n); err == nil || !strings.Contains(err.Error(), "choose 1 to 32767") {
			t.Errorf("layout of %d: %v", n, err)
		}
	}
}

func TestPartitionNamesTheSlice(t *testing.T) {
	for want, segments := range map[string][]segment.Segment{
		"":                                 {{ID: 3, Mask: 3}, {ID: 0, Mask: 1}, {ID: 1, Mask: 3}},
		"slice 0 is not covered by any of": {},
		"slice 1 is not covered by any of": {{ID: 3, Mask: 3}, {ID: 0, Mask: 1}},
		"slice 2 is covered twice: by segment 0/1 and by segment 2/3": {{ID: 0, Mask: 1}, {ID: 1, Mask: 1}, {ID: 2, Mask: 3}},
		"slice 0 is covered twice: by segment 0/0 and by segment 0/0": {{}, {}},
		"segment 0/2: mask 2": {{ID: 0, Mask: 2}},
	} {
		err := segment.Partition(segments)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", text(segments), err, want)
		}
	}
}

func layout(t interface{ Fatal(...any) }, n int) []segment.Segment {
	segments, err := segment.Layout(n)
	if err != nil {
		t.Fatal(err)
	}
	return segments
}

func text(segments []segment.Segment) string {
	texts := make([]string, len(segments))
	for i, s := range segments {
		texts[i] = s.String()
	}
	return strings.Join(texts, " ")
}
