package assignment_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/assignment"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// TestGolden plays sequences of events and compares who owns what after each, with all moves and their reasons.
func TestGolden(t *testing.T) {
	for name, play := range map[string]func(*story){
		"scale-one-group":       scaleOneGroup,
		"scale-two-groups":      scaleTwoGroups,
		"scale-uneven-segments": scaleUnevenSegments,
		"crash-and-quarantine":  crashAndQuarantine,
		"rollout":               rollout,
		"rollout-on-probation":  rolloutOnProbation,
	} {
		t.Run(name, func(t *testing.T) {
			s := &story{}
			play(s)
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(s.text.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := diff.Diff(strings.Split(string(want), "\n"), strings.Split(s.text.String(), "\n")); d != "" {
				t.Errorf("%s (go test ./assignment -update, if this is meant): %s", file, d)
			}
		})
	}
}

func scaleOneGroup(s *story) {
	s.segments = equal("view", 16)
	for _, n := range []int{3, 4, 5, 4, 2, 0, 1} {
		s.members = active(n)
		s.plan(fmt.Sprintf("%d members", n))
	}
}

func scaleTwoGroups(s *story) {
	s.segments = append(equal("mail", 4), equal("view", 8)...)
	for _, n := range []int{3, 5, 2} {
		s.members = active(n)
		s.plan(fmt.Sprintf("%d members", n))
	}
}

func scaleUnevenSegments(s *story) {
	s.segments = layout("view", 12)
	for _, n := range []int{3, 4, 3} {
		s.members = active(n)
		s.plan(fmt.Sprintf("%d members", n))
	}
}

func crashAndQuarantine(s *story) {
	s.members, s.segments = active(3), equal("view", 8)
	s.plan("3 members")
	s.members = append(s.members[:1:1], s.members[2], assignment.Member{ID: 4, Definition: 1, State: assignment.Active})
	for i := range s.segments {
		s.segments[i].Pinned = s.segments[i].Current == 2
	}
	s.plan("member 2 crashes, its container comes back as member 4")
	s.members[2].State = assignment.Quarantined
	s.plan("member 4 is put in quarantine")
	s.members[0].State = assignment.Draining
	s.plan("member 1 drains")
}

func rollout(s *story) {
	r := newRolling(3, append(equal("mail", 2), equal("view", 8)...))
	s.follow(r)
	for range 3 {
		r.join(assignment.Active)
		r.leave()
	}
}

func rolloutOnProbation(s *story) {
	r := newRolling(2, equal("view", 8))
	s.follow(r)
	for range 2 {
		r.join(assignment.Probation, assignment.Active)
		r.leave()
	}
}

// story writes down what happens so that a reader can follow it.
type story struct {
	members  []assignment.Member
	segments []assignment.Segment
	text     strings.Builder
}

func (s *story) follow(r *rolling) {
	r.show = func(what string, result assignment.Result) {
		s.members, s.segments = r.members, r.segments
		s.write(what, result)
	}
	r.plan(fmt.Sprintf("%d members of definition 1", len(r.members)))
}

func (s *story) plan(what string) {
	result := assignment.Plan(s.members, s.segments, steady)
	s.segments = apply(s.segments, result)
	s.write(what, result)
}

func (s *story) write(what string, r assignment.Result) {
	fmt.Fprintf(&s.text, "# %s\n", what)
	for _, group := range slices.Sorted(maps.Keys(r.Groups)) {
		for _, m := range s.members {
			fmt.Fprintf(&s.text, "%-5s member %d (definition %d, %s):%s\n", group, m.ID, m.Definition, m.State, owns(r.Targets, group, m.ID))
		}
		if nobody := owns(r.Targets, group, 0); nobody != "" {
			fmt.Fprintf(&s.text, "%-5s nobody:%s\n", group, nobody)
		}
	}
	moves := slices.SortedStableFunc(slices.Values(r.Moves), func(a, b assignment.Move) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	fmt.Fprintf(&s.text, "moves: %d\n", len(moves))
	for i, m := range moves {
		if i == 0 || m.Group != moves[i-1].Group || m.From != moves[i-1].From || m.To != moves[i-1].To || m.Reason != moves[i-1].Reason {
			if i > 0 {
				s.text.WriteString("\n")
			}
			fmt.Fprintf(&s.text, "  %-5s %d -> %d %-8s", m.Group, m.From, m.To, m.Reason)
		}
		fmt.Fprintf(&s.text, " %d", m.ID)
	}
	if len(moves) > 0 {
		s.text.WriteString("\n")
	}
	s.text.WriteString("\n")
}

func owns(targets []assignment.Target, group string, worker int64) (ids string) {
	for _, t := range targets {
		if t.Group == group && t.Worker == worker {
			ids += fmt.Sprintf(" %d", t.ID)
		}
	}
	return ids
}
