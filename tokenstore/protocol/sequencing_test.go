package protocol_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// hashes are those of the events by each of some sequencings.
var hashes = map[string][len(events)]uint32{
	"Stream/pg1":        {0, 1, 2, 3, 4, 5, 6, 7},
	"Property:a/pg1":    {1, 4, 7, 2, 5, 0, 3, 6},
	"Sequential/pg1":    {2, 2, 2, 2, 2, 2, 2, 2},
	"Metadata:b.c/java": {7, 7, 0, 0, 3, 3, 3, 1},
}

// resequencing is one group whose sequencing changes with resets. Unlike in model, parts are given pages: what is of other segments
// in them counts as given too.
type resequencing struct {
	sequencing string
	tokens     []tokenstore.Token
	bounds     []tokenstore.Boundary
	abandoned  bool // a replay is to be given up
	handled    map[rune]bool
}

func (m *resequencing) hash(sequencing string, name rune) uint32 {
	return hashes[sequencing][strings.IndexRune(events, name)]
}

// again reports whether the boundary of an event has it.
func (m *resequencing) again(name rune) bool {
	return slices.ContainsFunc(m.bounds, func(b tokenstore.Boundary) bool {
		return b.Segment.Contains(m.hash(b.Sequencing, name)) && strings.ContainsRune(b.Progress.State, name)
	})
}

// given reports whether the token of an event has it.
func (m *resequencing) given(name rune) bool {
	for _, t := range m.tokens {
		for _, p := range t.Parts {
			if p.Segment.Contains(m.hash(m.sequencing, name)) {
				return strings.ContainsRune(p.Progress.State, name)
			}
		}
	}
	return false
}

// handle has a token handle a page.
func (m *resequencing) handle(t *rapid.T) {
	token := &m.tokens[rapid.IntRange(0, len(m.tokens)-1).Draw(t, "token")]
	page := rapid.StringOfN(rapid.RuneFrom([]rune(events)), 0, len(events), -1).Draw(t, "page")
	for i := range token.Parts {
		part := &token.Parts[i]
		for _, name := range set(page).State {
			if !part.Segment.Contains(m.hash(m.sequencing, name)) || strings.ContainsRune(part.Progress.State, name) {
				continue
			}
			if again := m.again(name); again != m.handled[name] {
				t.Fatalf("event %c counts as handled again: %t, and had been handled: %t: %s", name, again, m.handled[name], m)
			}
			m.handled[name] = true
		}
		part.Progress = set(part.Progress.State + page)
	}
	token.Parts = protocol.Joined(token.Range(), token.Parts)
}

func (m *resequencing) reset(t *rapid.T) {
	if m.abandoned {
		return
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range hashes {
			if !yield(name) {
				return
			}
		}
	})
	sequencing := rapid.SampledFrom(names).Draw(t, "sequencing")
	place, start := progress.Earliest, progress.Progress{}
	if rapid.Bool().Draw(t, "position") {
		place, start = progress.AtPosition, set(events[:rapid.IntRange(0, 4).Draw(t, "start")])
	}
	r, err := protocol.Resequenced(letters{}, m.tokens, m.bounds, sequencing, place, start)
	var wait *tokenstore.NotDueError
	if moved := len(m.bounds) > 0 && m.bounds[0].Sequencing != m.sequencing; moved != errors.As(err, &wait) {
		t.Fatalf("in the middle of a replay that has changed the sequencing: %t, and the reset says %v", moved, err)
	}
	if wait != nil {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.sequencing, m.tokens, m.bounds = sequencing, r.Tokens, r.Boundaries
}

// finish ends a replay where all was handled again, or goes on with giving it up.
func (m *resequencing) finish(t *rapid.T) {
	if len(m.bounds) == 0 {
		return
	}
	bounds, err := protocol.AnyHad(letters{}, m.bounds, m.sequencing)
	if err != nil {
		t.Fatal(err)
	}
	_, _, complete, err := protocol.Replayed(letters{}, m.tokens, bounds)
	if err != nil {
		t.Fatal(err)
	}
	if !complete {
		moved, done, err := protocol.Abandoning(letters{}, m.tokens, m.bounds)
		if err != nil {
			t.Fatal(err)
		}
		if m.abandoned && len(moved) > 0 && m.bounds[0].Sequencing != m.sequencing {
			t.Fatalf("tokens move although they have moved before: %+v", moved)
		}
		for _, after := range moved {
			i := slices.IndexFunc(m.tokens, func(t tokenstore.Token) bool { return t.Range() == after.Range() })
			if m.tokens[i].Epoch >= after.Epoch || m.tokens[i].Generation >= after.Generation {
				t.Fatalf("the owner of %s is not fenced off", after.Range())
			}
			m.tokens[i] = after
		}
		m.abandoned = !done
		if !done {
			return
		}
	}
	m.bounds, m.abandoned = nil, false
}

func (m *resequencing) reshape(t *rapid.T) {
	all := model{tokens: m.tokens}
	all.reshape(t)
	m.tokens = all.tokens
	for i := range m.tokens {
		m.tokens[i].Sequencing = m.sequencing
	}
}

// check looks that no event is passed over that was not handled, and none forgotten that was.
func (m *resequencing) check(t *rapid.T) {
	for _, name := range events {
		if known := m.given(name) || m.again(name); known != m.handled[name] {
			t.Fatalf("event %c: known as handled %t, handled %t: %s", name, known, m.handled[name], m)
		}
	}
}

func (m *resequencing) String() string {
	return fmt.Sprintf("%s, tokens %+v, boundaries %+v", m.sequencing, m.tokens, m.bounds)
}

// TestSequencingsChangeWithResets handles, resets, abandons, splits and merges at random.
func TestSequencingsChangeWithResets(t *testing.T) {
	changed, abandoned := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		first := token(segment.Root, []progress.Part{{Segment: segment.Root}})
		first.Sequencing = "Stream/pg1"
		m := &resequencing{sequencing: first.Sequencing, tokens: []tokenstore.Token{first}, handled: map[rune]bool{}}
		t.Repeat(map[string]func(*rapid.T){
			"handle": m.handle, "reset": m.reset, "reshape": m.reshape, "": m.check,
			"finish": func(t *rapid.T) {
				changed += len(m.bounds)
				m.finish(t)
				if m.abandoned {
					abandoned++
				}
			},
		})
	})
	if changed == 0 || abandoned == 0 {
		t.Fatalf("%d replays ended, %d were being abandoned: nothing was tried", changed, abandoned)
	}
}
