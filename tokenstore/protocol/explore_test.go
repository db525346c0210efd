package protocol_test

import (
	"fmt"
	"hash/fnv"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// check holds a state against what must always hold, and against the state before it.
func (s *state) check(before *state) error {
	var layout []segment.Segment
	for _, t := range s.tokens {
		layout = append(layout, t.Range())
		if t.Epoch < s.highest[t.Segment] {
			return fmt.Errorf("the epoch of segment %s goes back from %d to %d", t.Range(), s.highest[t.Segment], t.Epoch)
		}
		s.highest[t.Segment] = t.Epoch
		share := 0
		for _, p := range t.Parts {
			share += p.Segment.Share()
			if !t.Range().Includes(p.Segment) {
				return fmt.Errorf("part %s is none of segment %s", p.Segment, t.Range())
			}
		}
		if share != t.Range().Share() {
			return fmt.Errorf("the parts of segment %s are %d slices of it", t.Range(), share)
		}
		for _, old := range before.tokens {
			if old.Key != t.Key {
				continue
			}
			if t.Version < old.Version || t.Version == old.Version && (t.Epoch != old.Epoch || !slices.Equal(t.Parts, old.Parts)) {
				return fmt.Errorf("segment %s is written at version %d, and was at %d", t.Range(), t.Version, old.Version)
			}
		}
	}
	return partition(layout)
}

// partition is segment.Partition for few segments, quick enough to be asked in every state.
func partition(layout []segment.Segment) error {
	share := 0
	for i, s := range layout {
		share += s.Share()
		for _, other := range layout[:i] {
			if s.Includes(other) || other.Includes(s) {
				return fmt.Errorf("segments %s and %s overlap", s, other)
			}
		}
	}
	if share != segment.MaxSlices {
		return fmt.Errorf("%v are not all of the hash space", layout)
	}
	return nil
}

// quiescent states have nothing on its way that could still change the store.
func (s *state) quiescent() bool { return len(s.writes) == 0 && !s.resetting }

// finish has one worker claim everything and handle what is left: then all events are there, each once.
func (s *state) finish() error {
	s = s.clone()
	s.holdings, s.left = nil, budget{events: s.left.events, claims: len(s.tokens)}
	for i := range s.tokens {
		if err := s.claim(0, i, true); err != nil {
			return fmt.Errorf("nobody can claim %s any more", s.tokens[i].Range())
		}
	}
	for i := range s.holdings {
		if err := s.learn(i); err != nil {
			return err
		}
		for s.send(i, 1) == nil {
			if err := s.execute(0); err != nil {
				return err
			}
			if s.writes[0].outcome != protocol.Committed {
				return fmt.Errorf("the only worker is fenced off from %s", s.holdings[i].Token.Range())
			}
			if err := s.answer(0); err != nil {
				return err
			}
		}
		s.holdings[i].End() // of the send that found nothing
	}
	if s.applied != s.all() {
		return fmt.Errorf("in the end the events %04b are applied, of %04b", s.applied, s.all())
	}
	return nil
}

// happened counts what the exploration must have met to mean anything.
type happened map[string]int

func (h happened) note(kind string, before, after *state) {
	add := func(what string, is bool) {
		if is {
			h[what]++
		}
	}
	switch kind {
	case "write is carried out":
		for i, w := range before.writes {
			if w.with != nil && len(after.writes) == len(before.writes) && !w.done && after.writes[i].done {
				add("a shared batch is fenced", after.writes[i].outcome == protocol.Fenced)
				add("a shared batch commits", after.writes[i].outcome == protocol.Committed)
			}
		}
	case "write is answered":
		add("fenced", len(after.holdings) < len(before.holdings))
		add("release after a batch", len(after.writes) == len(before.writes))
	case "write: its connection is lost":
		add("unknown and committed", before.applied != 0)
	case "write is taken for failed":
		add("taken for failed, and committed", before.applied != 0)
	case "claim", "claim, the answer is lost":
		add("takeover of a busy segment", slices.ContainsFunc(before.writes, func(w write) bool { return !w.done }))
	case "merge":
		add("merge of unequal halves", len(after.tokens[0].Parts) > 1)
		add("merge in a replay", before.replaying)
	case "split":
		add("split of unmet halves", len(before.tokens[0].Parts) > 1)
		add("split in a replay", before.replaying)
	case "a reset begins":
		add("reset fences a batch", len(before.writes) > 0)
	case "the reset":
		add("second reset", before.tokens[0].Generation > 1)
	case "the replay is complete":
		add("replay complete", before.ever == before.all())
	case "the replay is abandoned":
		add("replay abandoned halfway", before.applied != before.ever)
	}
}

// visited is how a state was come to; the states on the way are made again when somebody asks for them.
type visited struct {
	from    *visited
	kind    string
	at, who int
}

func (v *visited) trace(first *state) string {
	var way []*visited
	for ; v.from != nil; v = v.from {
		way = append(way, v)
	}
	slices.Reverse(way)
	var names []string
	for _, v := range way {
		for _, p := range first.steps() {
			if p.kind == v.kind && p.at == v.at && p.who == v.who {
				names = append(names, p.describe(first))
				first = p.after
				break
			}
		}
	}
	return strings.Join(names, "\n  ")
}

// hashed keeps a set of a million keys small.
func hashed(key string) (h [16]byte) {
	f := fnv.New128a()
	f.Write([]byte(key))
	f.Sum(h[:0])
	return h
}

// explore walks through all interleavings, breadth first, so that what it finds is found by the shortest way.
func explore(first *state) (states int, met happened, err error) {
	type place struct {
		state *state
		how   *visited
	}
	met = happened{}
	seen := map[[16]byte]struct{}{hashed(first.key()): {}}
	for queue := []place{{first, &visited{}}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, step := range at.state.steps() {
			how := &visited{at.how, step.kind, step.at, step.who}
			if step.err != nil {
				return len(seen), met, fmt.Errorf("%w:\n  %s", step.err, how.trace(first))
			}
			key := hashed(step.after.key())
			met.note(step.kind, at.state, step.after)
			if _, known := seen[key]; known {
				continue
			}
			seen[key] = struct{}{}
			if step.after.quiescent() {
				if err := step.after.finish(); err != nil {
					return len(seen), met, fmt.Errorf("%w, after:\n  %s", err, how.trace(first))
				}
			}
			queue = append(queue, place{step.after, how})
		}
	}
	return len(seen), met, nil
}

// TestAllInterleavingsOfASmallWorld is the proof, as far as a small world goes, of what the package promises.
func TestAllInterleavingsOfASmallWorld(t *testing.T) {
	percent := debug.SetGCPercent(400)
	var mu sync.Mutex
	met := happened{}
	low, high := segment.Root.Split()
	worlds := map[string]*state{
		"claims and lost answers": start(budget{events: 3, claims: 3}, segment.Root),
		"failures":                start(budget{events: 3, claims: 2, reshapes: 1, failures: 1}, segment.Root),
		"splits":                  start(budget{events: 3, claims: 2, reshapes: 2}, segment.Root),
		"merges":                  start(budget{events: 2, claims: 2, reshapes: 2}, low, high),
		"merges after claims":     start(budget{claims: 3, reshapes: 2}, low, high),
		"replays":                 start(budget{events: 3, claims: 2, resets: 1}, segment.Root),
		"splits in replays":       start(budget{events: 2, claims: 2, resets: 1, reshapes: 1}, segment.Root),
		"merges in replays":       start(budget{events: 2, claims: 2, resets: 1, reshapes: 1}, low, high),
		"shared batches":          start(budget{events: 2, claims: 3, shared: true}, low, high),
		"shared and failing":      start(budget{events: 2, claims: 2, failures: 1, shared: true}, low, high),
		"two replays":             start(budget{events: 2, claims: 2, resets: 2}, segment.Root),
	}
	explored := 0
	for name, first := range worlds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			states, some, err := explore(first)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states", states)
			mu.Lock()
			defer mu.Unlock()
			explored++
			for what, n := range some {
				met[what] += n
			}
		})
	}
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		if explored == len(worlds) {
			met.need(t, "fenced", "unknown and committed", "takeover of a busy segment", "merge of unequal halves", "split of unmet halves", "split in a replay",
				"merge in a replay", "reset fences a batch", "replay complete", "replay abandoned halfway", "second reset", "release after a batch",
				"taken for failed, and committed", "a shared batch is fenced", "a shared batch commits")
		}
	})
}

// need fails where the exploration has not met what it is for.
func (h happened) need(t *testing.T, all ...string) {
	for _, what := range all {
		if h[what] == 0 {
			t.Errorf("vacuous: no state tells anything of: %s", what)
		}
	}
}
