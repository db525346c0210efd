package assignment_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/assignment"
)

var steady = assignment.Policy{Wanted: 1, Replicas: 1}

func upTo(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i + 1
	}
	return numbers
}

// tinyWorld draws up to 4 members and up to 6 segments in one or more groups.
func tinyWorld(t *rapid.T, group func(string, int) []assignment.Segment) ([]assignment.Member, []assignment.Segment) {
	members := active(rapid.SampledFrom(upTo(4)).Draw(t, "members"))
	var segments []assignment.Segment
	for n := rapid.SampledFrom(upTo(6)).Draw(t, "segments"); n > 0; {
		size := rapid.SampledFrom(upTo(n)).Draw(t, "group")
		segments = append(segments, group(fmt.Sprint("g", n), size)...)
		n -= size
	}
	return members, owned(t, members, segments)
}

// eighths returns segments that are equal in all groups, however many a group has.
func eighths(group string, n int) []assignment.Segment {
	segments := equal(group, n)
	for i := range segments {
		segments[i].Segment.Mask = 7
	}
	return segments
}

func TestNoEvenAssignmentOfEqualSegmentsMovesFewer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, segments := tinyWorld(t, eighths)
		after := apply(segments, assignment.Plan(members, segments, steady))
		if why := uneven(members, after); why != "" {
			t.Fatalf("%v: %s", after, why)
		}
		if got, want := liveMoves(members, segments, after), fewestMoves(members, segments); got != want {
			t.Fatalf("%d moves, %d are enough: %v", got, want, after)
		}
	})
}

func TestSegmentsOfSeveralSizesEndEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, segments := tinyWorld(t, layout)
		after := apply(segments, assignment.Plan(members, segments, steady))
		if why := uneven(members, after); why != "" {
			t.Fatalf("%v: %s", after, why)
		}
		if oneGroup := segments[0].Group == segments[len(segments)-1].Group; !oneGroup {
			return
		}
		if got, fewest := liveMoves(members, segments, after), fewestMoves(members, segments); got > fewest+1 {
			t.Fatalf("%d moves, %d are enough: %v", got, fewest, after)
		}
	})
}

// anyWorld draws members in every state and groups of any size, some segments pinned.
func anyWorld(t *rapid.T) ([]assignment.Member, []assignment.Segment, assignment.Policy) {
	members := active(rapid.IntRange(0, 12).Draw(t, "members"))
	states := []assignment.State{assignment.Active, assignment.Active, assignment.Active, assignment.Probation, assignment.Draining, assignment.Quarantined}
	for i := range members {
		members[i].State = rapid.SampledFrom(states).Draw(t, "state")
		members[i].Definition = rapid.Int64Range(1, 2).Draw(t, "definition")
	}
	var segments []assignment.Segment
	for g := range rapid.IntRange(1, 4).Draw(t, "groups") {
		segments = append(segments, layout(fmt.Sprint("g", g), rapid.IntRange(1, 40).Draw(t, "segments"))...)
	}
	segments = owned(t, members, segments)
	for i := range segments {
		segments[i].Pinned = rapid.IntRange(0, 9).Draw(t, "pinned") == 0
	}
	policy := assignment.Policy{
		Wanted:   rapid.Int64Range(1, 3).Draw(t, "wanted"),
		Replicas: rapid.IntRange(0, 12).Draw(t, "replicas"),
	}
	return members, segments, policy
}

func TestEverySegmentHasOneTargetWhoMayTakeIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, segments, policy := anyWorld(t)
		policy.MaxMoves = rapid.IntRange(0, 5).Draw(t, "max moves")
		r := assignment.Plan(members, segments, policy)
		if len(r.Targets) != len(segments) {
			t.Fatalf("%d targets for %d segments", len(r.Targets), len(segments))
		}
		states, definitions, number, takers := map[int64]assignment.State{}, map[int64]int64{}, map[place]int{}, 0
		for _, m := range members {
			states[m.ID], definitions[m.ID] = m.State, m.Definition
			if m.State == assignment.Active {
				takers++
			}
		}
		optional := 0
		for _, s := range apply(segments, r) {
			number[place{s.Group, s.Current}]++
			switch state := states[s.Current]; {
			case s.Current == 0 && takers > 0:
				t.Fatalf("%v is unassigned, although there is an active member", s)
			case s.Current != 0 && state != assignment.Active && state != assignment.Probation:
				t.Fatalf("%v goes to a member that is %q", s, state)
			case state == assignment.Probation && number[place{s.Group, s.Current}] > 1:
				t.Fatalf("%v is more than one for a member on probation", s)
			}
		}
		rollsOut := slices.ContainsFunc(members, func(m assignment.Member) bool { return m.Definition >= policy.Wanted && m.State == assignment.Active })
		for i, s := range segments {
			if rollsOut && definitions[s.Current] < policy.Wanted {
				continue // its owner is about to end
			}
			if s.Pinned && states[s.Current] == assignment.Active && apply(segments, r)[i].Current != s.Current {
				t.Fatalf("%v is pinned and moved", s)
			}
		}
		for _, m := range r.Moves {
			if m.Reason == assignment.Balance || m.Reason == assignment.Rollout {
				optional++
			}
		}
		if policy.MaxMoves > 0 && optional > policy.MaxMoves {
			t.Fatalf("%d moves that could wait, at most %d are allowed", optional, policy.MaxMoves)
		}
	})
}

func TestAPlanAppliedIsAFixpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, segments, policy := anyWorld(t)
		after := apply(segments, assignment.Plan(members, segments, policy))
		if again := assignment.Plan(members, after, policy); len(again.Moves) != 0 {
			t.Fatalf("planning again moves %v", again.Moves)
		}
	})
}

func TestTheOrderOfTheArgumentsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, segments, policy := anyWorld(t)
		want := assignment.Plan(members, segments, policy)
		members, segments = rapid.Permutation(members).Draw(t, "members"), rapid.Permutation(segments).Draw(t, "segments")
		before := [2]any{slices.Clone(members), slices.Clone(segments)}
		if diff := cmp.Diff(want, assignment.Plan(members, segments, policy)); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(before, [2]any{members, segments}); diff != "" {
			t.Fatalf("the arguments were changed: %s", diff)
		}
	})
}

func TestPlansCutShortTakeNoMoreMovesInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := active(rapid.IntRange(2, 8).Draw(t, "members"))
		var segments []assignment.Segment
		for g := range rapid.IntRange(1, 3).Draw(t, "groups") {
			segments = append(segments, equal(fmt.Sprint("g", g), 16)...)
		}
		for i := range segments {
			segments[i].Current = rapid.Int64Range(1, int64(len(members))).Draw(t, "owner")
		}
		left := len(assignment.Plan(members, segments, steady).Moves)
		policy := steady
		policy.MaxMoves = rapid.IntRange(1, 5).Draw(t, "max moves")
		for left > 0 {
			r := assignment.Plan(members, segments, policy)
			if want := min(left, policy.MaxMoves); len(r.Moves) != want {
				t.Fatalf("%d moves, want %d of the %d that are left", len(r.Moves), want, left)
			}
			left -= len(r.Moves)
			segments = apply(segments, r)
		}
		if why := uneven(members, segments); why != "" {
			t.Fatal(why)
		}
	})
}

func TestScalingByOneMovesTheOptimum(t *testing.T) {
	for _, c := range []struct{ segments, from, to, moves int }{
		{120, 4, 5, 24}, {120, 7, 8, 15}, {120, 11, 12, 10}, {128, 4, 5, 25}, {16, 3, 4, 4}, {16, 16, 17, 0},
		{120, 5, 4, 0}, {120, 8, 7, 0}, {120, 12, 11, 0}, {16, 4, 3, 0},
	} {
		t.Run(fmt.Sprintf("%d segments from %d to %d members", c.segments, c.from, c.to), func(t *testing.T) {
			segments := equal("g", c.segments)
			segments = apply(segments, assignment.Plan(active(c.from), segments, steady))
			members := active(c.to)
			after := apply(segments, assignment.Plan(members, segments, steady))
			if got := liveMoves(members, segments, after); got != c.moves {
				t.Errorf("%d segments left a member that is there, want %d", got, c.moves)
			}
			if why := uneven(members, after); why != "" {
				t.Error(why)
			}
		})
	}
}

func TestRemaindersOfGroupsGoToDifferentMembers(t *testing.T) {
	segments := append(equal("a", 1), equal("b", 1)...)
	after := apply(segments, assignment.Plan(active(2), segments, steady))
	if after[0].Current == after[1].Current {
		t.Errorf("both segments on member %d", after[0].Current)
	}
}

func TestSplittingMovesNothing(t *testing.T) {
	members, segments := active(3), layout("g", 12)
	segments = apply(segments, assignment.Plan(members, segments, steady))
	owner := segments[7].Current
	low, high := segments[7].Segment.Split()
	segments[7].Segment = low
	segments = append(segments, assignment.Segment{Group: "g", Segment: high, Current: owner})
	if r := assignment.Plan(members, segments, steady); len(r.Moves) != 0 {
		t.Errorf("moves %v", r.Moves)
	}
}

func TestReasons(t *testing.T) {
	members := active(4)
	members[1].State, members[2].State, members[3].State = assignment.Draining, assignment.Quarantined, assignment.Probation
	segments := equal("g", 7)
	for i, owner := range []int64{0, 1, 2, 3, 4, 4, 99} {
		segments[i].Current = owner
	}
	want := []assignment.Target{
		{Group: "g", ID: 0, Worker: 1, Reason: assignment.New},
		{Group: "g", ID: 1, Worker: 1, Reason: assignment.Kept},
		{Group: "g", ID: 2, Worker: 1, Reason: assignment.Drained},
		{Group: "g", ID: 3, Worker: 1, Reason: assignment.Drained},
		{Group: "g", ID: 4, Worker: 4, Reason: assignment.Kept},
		{Group: "g", ID: 5, Worker: 1, Reason: assignment.OnProbation},
		{Group: "g", ID: 6, Worker: 1, Reason: assignment.Orphaned},
	}
	r := assignment.Plan(members, segments, steady)
	if diff := cmp.Diff(want, r.Targets); diff != "" {
		t.Error(diff)
	}
	if want := (assignment.Spread{Largest: 0.75, Smallest: 0.125, Mean: 0.4375}); r.Groups["g"] != want || r.Total != want {
		t.Errorf("spread %v and %v, want %v", r.Groups["g"], r.Total, want)
	}
}

func TestNobodyThere(t *testing.T) {
	segments := equal("g", 2)
	segments[1].Current = 7
	r := assignment.Plan(nil, segments, steady)
	want := []assignment.Target{
		{Group: "g", ID: 0, Reason: assignment.Unassignable},
		{Group: "g", ID: 1, Reason: assignment.Unassignable},
	}
	if diff := cmp.Diff(want, r.Unassigned); diff != "" || len(r.Moves) != 0 {
		t.Errorf("moves %v, unassigned %s", r.Moves, diff)
	}
}

func TestAPinnedSegmentWaits(t *testing.T) {
	segments := equal("g", 4)
	for i := range segments {
		segments[i].Current, segments[i].Pinned = 1, i != 2
	}
	r := assignment.Plan(active(2), segments, steady)
	if want := []assignment.Move{{Group: "g", ID: 2, From: 1, To: 2, Reason: assignment.Balance}}; !cmp.Equal(want, r.Moves) {
		t.Errorf("moves %v, want only segment 2", r.Moves)
	}
}

func BenchmarkPlan(b *testing.B) {
	var segments []assignment.Segment
	for g := range 10 {
		segments = append(segments, layout(fmt.Sprint("g", g), 1000)...)
	}
	settled := apply(segments, assignment.Plan(active(49), segments, steady))
	scrambled := slices.Clone(segments)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range scrambled {
		scrambled[i].Current = 1 + random.Int64N(50)
	}
	for name, c := range map[string]struct {
		segments []assignment.Segment
		policy   assignment.Policy
	}{
		"first":     {segments, steady},
		"scale out": {settled, steady},
		"scrambled": {scrambled, steady},
		"rollout":   {settled, assignment.Policy{Wanted: 2, Replicas: 49}},
	} {
		b.Run(name, func(b *testing.B) {
			members := active(50)
			members[49].Definition = 2
			for b.Loop() {
				assignment.Plan(members, c.segments, c.policy)
			}
		})
	}
}
