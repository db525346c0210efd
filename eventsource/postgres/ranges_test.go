package postgres

import (
	"testing"

	"pgregory.net/rapid"
)

// setOf draws a set of positions up to lastPosition.
func setOf(t *rapid.T, name string) (set ranges) {
	for p := int64(1); p <= lastPosition; p++ {
		if rapid.Bool().Draw(t, name) {
			set = set.add(span{p, p})
		}
	}
	return set
}

// Sets do what those of mathematics do, position by position, and never touch what they are made of.
func TestRangesAreSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := setOf(t, "a"), setOf(t, "b")
		through := rapid.Int64Range(0, lastPosition+1).Draw(t, "up to")
		textA, textB := writeRuns(a), writeRuns(b)
		union, meet, holes, rest, prefix := a.union(b), a.meet(b), a.holes(), a.rest(), a.upTo(through)
		contained := true
		for p := int64(1); p <= lastPosition+2; p++ {
			inA, inB := a.has(p), b.has(p)
			contained = contained && (inA || !inB)
			for what, right := range map[string]bool{
				"union": union.has(p) == (inA || inB), "meet": meet.has(p) == (inA && inB), "rest": rest.has(p) == !inA,
				"holes": holes.has(p) == (!inA && p < a.last()), "prefix": prefix.has(p) == (inA && p <= through),
			} {
				if !right {
					t.Fatalf("%s of %v and %v is wrong at %d", what, a, b, p)
				}
			}
		}
		if a.contains(b) != contained {
			t.Fatalf("%v contains %v: %t", a, b, !contained)
		}
		for what, set := range map[string]ranges{"union": union, "meet": meet, "holes": holes, "rest": rest, "prefix": prefix} {
			for i, s := range set {
				if s.from > s.to || i > 0 && set[i-1].to+1 >= s.from {
					t.Fatalf("%s %v is not in its one form", what, set)
				}
			}
		}
		if writeRuns(a) != textA || writeRuns(b) != textB {
			t.Fatal("a set was changed")
		}
	})
}
