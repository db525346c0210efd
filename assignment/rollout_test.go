package assignment_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/assignment"
)

// rolling is a rolling update with a surge of one: again and again a new member comes, segments move, and the emptiest
// old member leaves.
type rolling struct {
	members  []assignment.Member
	segments []assignment.Segment
	policy   assignment.Policy
	moved    []int // how often, by segment
	show     func(what string, r assignment.Result)
}

func newRolling(replicas int, segments []assignment.Segment) *rolling {
	members := active(replicas)
	r := &rolling{members: members, policy: assignment.Policy{Wanted: 2, Replicas: replicas}, moved: make([]int, len(segments))}
	r.segments = apply(segments, assignment.Plan(members, segments, r.policy))
	return r
}

func (r *rolling) plan(what string) {
	result := assignment.Plan(r.members, r.segments, r.policy)
	after := apply(r.segments, result)
	for i := range after {
		if after[i].Current != r.segments[i].Current {
			r.moved[i]++
		}
	}
	r.segments = after
	if r.show != nil {
		r.show(what, result)
	}
}

// join adds a member of the wanted definition in each of the states, one after the other.
func (r *rolling) join(states ...assignment.State) {
	id := r.members[len(r.members)-1].ID + 1
	r.members = append(r.members, assignment.Member{ID: id, Definition: 2})
	for _, state := range states {
		r.members[len(r.members)-1].State = state
		r.plan(fmt.Sprintf("member %d comes, %s", id, state))
	}
}

// leave removes the old member with the fewest segments and returns how many it still had.
func (r *rolling) leave() (id int64, left int) {
	number := map[int64]int{}
	for _, s := range r.segments {
		number[s.Current]++
	}
	at := -1
	for i, m := range r.members {
		if m.Definition < 2 && (at < 0 || number[m.ID] < number[r.members[at].ID]) {
			at = i
		}
	}
	id = r.members[at].ID
	r.members = slices.Delete(r.members, at, at+1)
	r.plan(fmt.Sprintf("member %d leaves", id))
	return id, number[id]
}

func TestARollingUpdateMovesEachSegmentOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.SampledFrom(upTo(12)).Draw(t, "replicas")
		var segments []assignment.Segment
		for g := range rapid.IntRange(1, 3).Draw(t, "groups") {
			group := equal(fmt.Sprint("g", g), rapid.SampledFrom(upTo(40)).Draw(t, "segments"))
			for i := range group {
				group[i].Segment.Mask = 63
			}
			segments = append(segments, group...)
		}
		states := []assignment.State{assignment.Active}
		if rapid.Bool().Draw(t, "probation") {
			states = []assignment.State{assignment.Probation, assignment.Active}
		}
		checkRolling(t, newRolling(replicas, segments), states...)
	})
}

func TestARollingUpdateOf120Segments(t *testing.T) {
	for _, replicas := range []int{3, 6, 12} {
		t.Run(fmt.Sprintf("one group, %d members", replicas), func(t *testing.T) {
			checkRolling(t, newRolling(replicas, equal("g", 120)), assignment.Active)
		})
		t.Run(fmt.Sprintf("two groups, %d members", replicas), func(t *testing.T) {
			checkRolling(t, newRolling(replicas, append(equal("a", 60), equal("b", 60)...)), assignment.Active)
		})
		t.Run(fmt.Sprintf("of two sizes, %d members", replicas), func(t *testing.T) {
			checkRolling(t, newRolling(replicas, layout("g", 120)), assignment.Active)
		})
	}
}

func checkRolling(t interface{ Fatalf(string, ...any) }, r *rolling, states ...assignment.State) {
	for range r.policy.Replicas {
		r.join(states...)
		if id, left := r.leave(); left != 0 {
			t.Fatalf("member %d, the emptiest old one, still had %d segments", id, left)
		}
	}
	for i, n := range r.moved {
		if n != 1 {
			t.Fatalf("%v moved %d times", r.segments[i], n)
		}
	}
	if why := uneven(r.members, r.segments); why != "" {
		t.Fatalf("%s", why)
	}
}

// While old and new members are there, an old one only gains what nobody owns, and only if no new one has room.
func TestOldMembersShrinkDuringARollout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, segments, policy := anyWorld(t)
		definition, newThere := map[int64]int64{}, false
		for _, m := range members {
			definition[m.ID] = m.Definition
			newThere = newThere || m.Definition >= policy.Wanted && m.State == assignment.Active
		}
		for _, m := range assignment.Plan(members, segments, policy).Moves {
			toOld := newThere && definition[m.To] < policy.Wanted
			if toOld && (m.Reason == assignment.Balance || m.Reason == assignment.Rollout) {
				t.Fatalf("%+v lets an old member grow", m)
			}
		}
	})
}

func TestOrphansDuringARollout(t *testing.T) {
	segments := equal("g", 12) // 3 replicas: the new member has room for 4
	for i := range segments {
		segments[i].Current = []int64{1, 2, 99}[i%3]
	}
	members := append(active(2), assignment.Member{ID: 3, Definition: 2, State: assignment.Active})
	for name, c := range map[string]struct {
		state assignment.State
		gone  int // segments of another member that are orphans, too
		want  map[int64]int
	}{
		"go to the new member first":                      {assignment.Active, 0, map[int64]int{1: 4, 2: 4, 3: 4}},
		"beyond its quota to the old one":                 {assignment.Active, 2, map[int64]int{1: 4, 2: 4, 3: 4}},
		"on probation it gets one and the old ones share": {assignment.Probation, 0, map[int64]int{1: 6, 2: 5, 3: 1}},
		"in quarantine it gets none":                      {assignment.Quarantined, 0, map[int64]int{1: 6, 2: 6}},
	} {
		t.Run(name, func(t *testing.T) {
			members := slices.Clone(members)
			members[2].State = c.state
			segments := slices.Clone(segments)
			for i := 0; c.gone > 0; i++ {
				if segments[i].Current == 2 {
					segments[i].Current, c.gone = 98, c.gone-1
				}
			}
			got := map[int64]int{}
			for _, s := range apply(segments, assignment.Plan(members, segments, assignment.Policy{Wanted: 2, Replicas: 3})) {
				got[s.Current]++
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNewMembersAreEvenedOutWhenTheOldOnesHoldNothing(t *testing.T) {
	segments := equal("g", 4)
	for i := range segments {
		segments[i].Current = 2
	}
	members := active(3)
	members[1].Definition, members[2].Definition = 2, 2
	policy := assignment.Policy{Wanted: 2, Replicas: 2}
	after := apply(segments, assignment.Plan(members, segments, policy))
	if why := uneven(members[1:], after); why != "" {
		t.Error(why)
	}
	segments[0].Current = 1
	policy.MaxMoves = 1
	moves := assignment.Plan(members, segments, policy).Moves
	if len(moves) != 1 || moves[0].From != 1 || moves[0].Reason != assignment.Rollout {
		t.Errorf("moves %+v, although an old member still holds a segment", moves)
	}
}

func TestAnOldMemberKeepsNoPinnedSegmentsOnceANewOneIsActive(t *testing.T) {
	for state, want := range map[assignment.State]int{assignment.Active: 0, assignment.Probation: 4} {
		segments := equal("g", 4)
		for i := range segments {
			segments[i].Current, segments[i].Pinned = 1, true
		}
		members := append(active(1), assignment.Member{ID: 2, Definition: 2, State: state})
		left := 0
		for _, s := range apply(segments, assignment.Plan(members, segments, assignment.Policy{Wanted: 2, Replicas: 1})) {
			if s.Current == 1 {
				left++
			}
		}
		if left != want {
			t.Errorf("the new member is %s: the old one keeps %d pinned segments, want %d", state, left, want)
		}
	}
}
