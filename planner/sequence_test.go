package planner

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// sequence plays rollouts and scalings in a real store: pods come and go as a Deployment with maxSurge 1 and maxUnavailable 0
// has them, by the costs that the plan gives them. Each step is written down with who owns what, and which segments moved.
type sequence struct {
	*world
	planner *Planner
	text    strings.Builder
	pods    []*pod
	next    int64
	moved   map[tokenstore.Key]int // since the last title
}

type pod struct {
	worker tokenstore.Worker
	name   string
}

func newSequence(t *testing.T) *sequence {
	w, p := newWorld(t, 1)
	s := &sequence{world: w, planner: p, moved: map[tokenstore.Key]int{}}
	err := w.store.Declare(context.Background(), tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "mail", Segments: 4}, {Name: "view", Segments: 16}}, nil,
		func(string) (progress.Progress, error) { return progress.Progress{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sequence) want(definition string, replicas int) {
	s.t.Helper()
	err := s.directory.DeclareProcessor(context.Background(), tokenstore.Processor{Name: processor, Definition: definition, Replicas: replicas, Live: []byte("{}")})
	if err != nil {
		s.t.Fatal(err)
	}
}

// come starts a pod of a definition that shows nothing yet.
func (s *sequence) come(definition string) *pod {
	s.t.Helper()
	s.next++
	p := &pod{name: fmt.Sprintf("pod-%d", s.next), worker: tokenstore.Worker{Incarnation: s.next, Nonce: fmt.Sprintf("00000000-0000-4000-8000-%012d", s.next),
		Pod: fmt.Sprintf("pod-%d", s.next), Definition: definition, Handlers: []string{}, State: tokenstore.Active,
		Report: tokenstore.Report{Groups: map[string]tokenstore.GroupReport{"mail": {}, "view": {}}}}}
	if err := s.directory.Register(context.Background(), processor, p.worker); err != nil {
		s.t.Fatal(err)
	}
	s.beat(p.worker)
	s.pods = append(s.pods, p)
	return p
}

func (s *sequence) works(p *pod) {
	p.worker.Report.Proven, p.worker.Report.Idle = true, true
	s.beat(p.worker)
}

// settle plans and hands over until nothing changes.
func (s *sequence) settle(title string) {
	s.t.Helper()
	for round := 0; ; round++ {
		o := s.step(s.planner)
		for _, p := range s.pods {
			if err := s.release(p.worker.Incarnation); err != nil {
				s.t.Fatal(err)
			}
		}
		claimed := 0
		for _, p := range s.pods {
			before := s.owned(p)
			claimed += s.claim(p.worker.Incarnation)
			for key := range s.owned(p) {
				if !before[key] {
					s.moved[key]++
				}
			}
		}
		if len(o.Moves) == 0 && claimed == 0 {
			break
		}
		if round > 10 {
			s.t.Fatal("it does not settle")
		}
	}
	s.write(title)
}

func (s *sequence) owned(p *pod) map[tokenstore.Key]bool {
	s.t.Helper()
	tokens, err := s.store.Tokens(context.Background(), processor)
	if err != nil {
		s.t.Fatal(err)
	}
	owned := map[tokenstore.Key]bool{}
	for _, t := range tokens {
		if t.Owner == p.worker.Incarnation {
			owned[t.Key] = true
		}
	}
	return owned
}

func (s *sequence) write(title string) {
	fmt.Fprintf(&s.text, "# %s\n", title)
	for _, p := range s.pods {
		fmt.Fprintf(&s.text, "%-7s (%s)", p.name, p.worker.Definition)
		owned := s.owned(p)
		for _, group := range []string{"mail", "view"} {
			fmt.Fprintf(&s.text, "  %s:%s", group, ids(owned, group))
		}
		s.text.WriteString("\n")
	}
	fmt.Fprintf(&s.text, "moved: mail%s, view%s\n\n", ids(s.moved, "mail"), ids(s.moved, "view"))
	clear(s.moved)
}

// ids are the segments of a group, with how often they moved where that is not once.
func ids[V int | bool](of map[tokenstore.Key]V, group string) (text string) {
	for _, key := range slices.SortedFunc(maps.Keys(of), func(a, b tokenstore.Key) int { return int(a.Segment) - int(b.Segment) }) {
		if key.Group == group {
			text += fmt.Sprintf(" %d", key.Segment)
		}
		if n, counted := any(of[key]).(int); counted && n > 1 {
			text += fmt.Sprintf("(%d times)", n)
		}
	}
	return text
}

// cheapest is the pod that Kubernetes removes first.
func (s *sequence) cheapest(among []*pod) *pod {
	s.t.Helper()
	view, err := s.directory.View(context.Background(), processor)
	if err != nil {
		s.t.Fatal(err)
	}
	costs := map[int64]int{}
	for _, a := range view.Assignments {
		costs[a.Worker]++
	}
	return slices.MinFunc(among, func(a, b *pod) int { return costs[a.worker.Incarnation] - costs[b.worker.Incarnation] })
}

// drain drains a pod and ends it.
func (s *sequence) drain(p *pod) {
	s.t.Helper()
	for _, state := range []tokenstore.State{tokenstore.Draining, tokenstore.Ended} {
		if err := s.directory.SetState(context.Background(), p.worker.Incarnation, state); err != nil {
			s.t.Fatal(err)
		}
		if state == tokenstore.Draining {
			s.settle(p.name + " drains")
		}
	}
	s.pods = slices.DeleteFunc(s.pods, func(other *pod) bool { return other == p })
}

func (s *sequence) of(definition string) []*pod {
	return slices.DeleteFunc(slices.Clone(s.pods), func(p *pod) bool { return p.worker.Definition != definition })
}

// roll replaces the pods of one definition by those of another.
func (s *sequence) roll(from, to string, replicas int) {
	s.t.Helper()
	s.want(to, replicas)
	for len(s.of(from)) > 0 {
		if len(s.of(to)) < replicas {
			p := s.come(to)
			s.settle(p.name + " comes")
			s.works(p)
			s.settle(p.name + " has shown that it works")
		}
		if len(s.pods) > replicas || len(s.of(to)) == replicas {
			s.drain(s.cheapest(s.of(from)))
		}
	}
}

func (s *sequence) start(definition string, replicas int) {
	s.t.Helper()
	s.want(definition, replicas)
	for range replicas {
		s.works(s.come(definition))
	}
	s.settle(fmt.Sprintf("%d pods of definition %s", replicas, definition))
}

// scaleIn removes pods as the operator does: the plan does without them first.
func (s *sequence) scaleIn(definition string, replicas int) {
	s.t.Helper()
	s.want(definition, replicas)
	var names []string
	staying := slices.Clone(s.pods)
	for len(staying) > replicas {
		victim := s.cheapest(staying)
		names = append(names, victim.name)
		staying = slices.DeleteFunc(staying, func(p *pod) bool { return p == victim })
	}
	if err := s.directory.Leave(context.Background(), processor, names); err != nil {
		s.t.Fatal(err)
	}
	s.settle(fmt.Sprintf("to %d pods: %s leave", replicas, strings.Join(names, " and ")))
	for _, p := range slices.Clone(s.pods) {
		if slices.Contains(names, p.name) {
			if err := s.directory.SetState(context.Background(), p.worker.Incarnation, tokenstore.Ended); err != nil {
				s.t.Fatal(err)
			}
			s.pods = slices.DeleteFunc(s.pods, func(other *pod) bool { return other == p })
		}
	}
	s.settle("they are gone")
}

func TestSequences(t *testing.T) {
	for name, play := range map[string]func(*sequence){
		"rolling-update": func(s *sequence) {
			s.start("a", 3)
			total := map[tokenstore.Key]int{}
			s.roll("a", "b", 3)
			for _, p := range s.pods {
				for key := range s.owned(p) {
					total[key]++
				}
			}
			if len(total) != 20 {
				t.Errorf("%d of 20 segments are owned", len(total))
			}
			s.settle("the end")
		},
		"scaling": func(s *sequence) {
			s.start("a", 3)
			s.want("a", 5)
			s.works(s.come("a"))
			s.works(s.come("a"))
			s.settle("to 5 pods")
			s.scaleIn("a", 2)
			s.scaleIn("a", 1)
		},
		"a-version-that-dies-and-back": func(s *sequence) {
			s.start("a", 3)
			s.want("b", 3)
			for range quarantineDeaths {
				p := s.come("b")
				s.settle(p.name + " comes, and its process dies")
				s.die(p.worker.Incarnation)
				s.pods = slices.DeleteFunc(s.pods, func(other *pod) bool { return other == p })
				s.settle("its segments are taken over")
			}
			p := s.come("b")
			s.settle(p.name + " comes: its definition is in quarantine")
			s.want("a", 3)
			s.drain(p)
		},
		"an-old-pod-dies-in-a-rollout": func(s *sequence) {
			s.start("a", 3)
			s.want("b", 3)
			for i := range 3 {
				p := s.come("b")
				s.works(p)
				s.settle(p.name + " comes and works")
				if i == 0 {
					s.drain(s.cheapest(s.of("a")))
					dies := s.cheapest(s.of("a"))
					s.die(dies.worker.Incarnation)
					s.pods = slices.DeleteFunc(s.pods, func(other *pod) bool { return other == dies })
					s.settle(dies.name + " dies, with all its segments")
				}
			}
			s.drain(s.cheapest(s.of("a")))
		},
		"fewer-replicas-in-a-rollout": func(s *sequence) {
			s.start("a", 3)
			s.want("b", 3)
			p := s.come("b")
			s.works(p)
			s.settle(p.name + " comes and works")
			s.drain(s.cheapest(s.of("a")))
			s.roll("a", "b", 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSequence(t)
			s.planner.Now = func() time.Time { return time.Now().Add(time.Hour) } // what was taken over is not pinned
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
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(s.text.String(), "\n")); diff != "" {
				t.Errorf("%s (go test ./planner -update, if this is meant): %s", file, diff)
			}
		})
	}
}

// quarantineDeaths are as many deaths as put a definition into quarantine.
const quarantineDeaths = tokenstore.QuarantineAfter

// TestARollingUpdateMovesEachSegmentOnce counts over whole rollouts.
func TestARollingUpdateMovesEachSegmentOnce(t *testing.T) {
	for _, replicas := range []int{1, 2, 3, 4, 5} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			s := newSequence(t)
			s.start("a", replicas)
			if _, err := s.pool.Exec(context.Background(), `CREATE TABLE moves (group_name text, segment int);
				CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO moves VALUES (NEW.group_name, NEW.segment); RETURN NULL; END'`); err != nil {
				t.Fatal(err)
			}
			if _, err := s.pool.Exec(context.Background(), `CREATE TRIGGER note AFTER UPDATE ON sluice.token FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch) EXECUTE FUNCTION note()`); err != nil {
				t.Fatal(err)
			}
			s.roll("a", "b", replicas)
			var moves, segments int
			if err := s.pool.QueryRow(context.Background(), `SELECT count(*), count(DISTINCT (group_name, segment)) FROM moves`).Scan(&moves, &segments); err != nil {
				t.Fatal(err)
			}
			if moves != 20 || segments != 20 {
				t.Errorf("%d moves of %d segments; there are 20\n%s", moves, segments, s.text.String())
			}
		})
	}
}
