package worker

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// TestPortionsAreJoinedByPosition draws batches of segments, some with an event that came late and stands behind higher ones.
func TestPortionsAreJoinedByPosition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		free := rapid.Permutation(slices.Collect(func(yield func(int64) bool) {
			for n := int64(1); n <= 40 && yield(n); n++ {
			}
		})).Draw(t, "positions")
		portions := make([]portion, rapid.IntRange(2, 5).Draw(t, "segments"))
		late, count := false, 0
		for i := range portions {
			n := rapid.IntRange(1, 8).Draw(t, "events")
			own := free[:n]
			free = free[n:]
			if rapid.Bool().Draw(t, "none is late") {
				slices.Sort(own)
			}
			late = late || !slices.IsSorted(own)
			for _, position := range own {
				portions[i].b.events = append(portions[i].b.events, &eventsource.Event{Position: position})
			}
			portions[i].b.skipped, count = i, count+n
		}
		all := joined(portions)
		if len(all.events) != count || all.skipped != len(portions)*(len(portions)-1)/2 {
			t.Fatalf("%d events, want %d; %d skipped", len(all.events), count, all.skipped)
		}
		byPosition := slices.IsSortedFunc(all.events, func(a, b *eventsource.Event) int { return int(a.Position - b.Position) })
		if !late && !byPosition {
			t.Fatal("not by position, although no event is late")
		}
		for i, p := range portions {
			own := slices.DeleteFunc(slices.Clone(all.events), func(e *eventsource.Event) bool { return !slices.Contains(p.b.events, e) })
			if !slices.Equal(own, p.b.events) {
				t.Fatalf("portion %d is not in its own order", i)
			}
		}
	})
}

// TestTokensOfASharedBatchMoveInTheOrderOfLocks has its first segment not be the lowest.
func TestTokensOfASharedBatchMoveInTheOrderOfLocks(t *testing.T) {
	var portions []portion
	for _, n := range []uint32{3, 0, 2} {
		s := &segmentRun{Holding: protocol.Hold(tokenstore.Token{Key: tokenstore.Key{Group: "view", Segment: n}})}
		portions = append(portions, portion{s: s, advance: s.advance(nil, false)})
	}
	var got []uint32
	for _, a := range advances(portions) {
		got = append(got, a.Segment)
	}
	if !slices.Equal(got, []uint32{0, 2, 3}) {
		t.Errorf("the tokens move in the order %d", got)
	}
}

// TestWhichSegmentsAreTakenAlong has a queue with segments that may share, and others.
func TestWhichSegmentsAreTakenAlong(t *testing.T) {
	view, other, separate := &group{shares: true}, &group{shares: true}, &group{}
	of := func(g *group, alone int) *segmentRun {
		s := segmentOf(t, endless{})
		s.group = g
		s.goAlone(alone)
		return s
	}
	failed, fits, also, foreign, undeclared := of(view, 1), of(view, 0), of(view, 0), of(other, 0), of(separate, 0)
	q := &runQueue{most: 1}
	for _, s := range []*segmentRun{failed, foreign, fits, undeclared, also} {
		q.push(s)
	}
	for i, want := range []*segmentRun{fits, also, nil} {
		if s := q.another(view); s != want {
			t.Errorf("taken along as number %d is %p, want %p", i, s, want)
		}
	}
	if s := q.another(separate); s != nil {
		t.Error("a segment of a group is taken along that does not share")
	}
	for _, want := range []*segmentRun{failed, foreign, undeclared} {
		if s, _ := q.pop(); s != want {
			t.Errorf("left is %p, want %p", s, want)
		}
	}
	q.push(fits)
	if s := q.another(view); s != fits {
		t.Error("a segment that was taken along cannot be queued again")
	}
	q.push(fits)
	q.close()
	if s := q.another(view); s != nil {
		t.Error("a closed queue gives a segment")
	}
}
