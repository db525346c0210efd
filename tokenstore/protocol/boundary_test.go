package protocol_test

import (
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

// letters is an algebra in which a progress is the set of events that have been given: a letter each.
type letters struct{}

func set(names string) progress.Progress {
	sorted := slices.Compact(slices.Sorted(slices.Values(strings.Split(names, ""))))
	return progress.Progress{Position: int64(len(sorted)), State: strings.Join(sorted, "")}
}

func (letters) Union(a, b progress.Progress) (progress.Progress, error) {
	return set(a.State + b.State), nil
}

func (letters) Intersect(a, b progress.Progress) (progress.Progress, error) {
	both := func(r rune) rune {
		if strings.ContainsRune(b.State, r) {
			return r
		}
		return -1
	}
	return set(strings.Map(both, a.State)), nil
}

func (letters) Contains(a, b progress.Progress) (bool, error) {
	return !strings.ContainsFunc(b.State, func(r rune) bool { return !strings.ContainsRune(a.State, r) }), nil
}

func (letters) Distance(from, to progress.Progress) (int64, error) {
	return max(to.Position-from.Position, 0), nil
}

const events = "abcdefgh" // an event of each of eight hashes: the i-th letter has the hash i

// model is one group: its tokens and boundaries, and what has really happened to each event.
type model struct {
	tokens  []tokenstore.Token
	bounds  []tokenstore.Boundary
	handled map[rune]bool // ever
}

func (m *model) layout() []segment.Segment {
	var all []segment.Segment
	for _, t := range m.tokens {
		all = append(all, t.Range())
	}
	return all
}

func (m *model) find(s segment.Segment) *tokenstore.Token {
	i := slices.IndexFunc(m.tokens, func(t tokenstore.Token) bool { return t.Range() == s })
	return &m.tokens[i]
}

// handle has a part take some events that it was not given, and checks that each is told for what it is.
func (m *model) handle(t *rapid.T) {
	token := &m.tokens[rapid.IntRange(0, len(m.tokens)-1).Draw(t, "token")]
	for i := range token.Parts {
		part := &token.Parts[i]
		for hash, name := range events {
			if !part.Segment.Contains(uint32(hash)) || strings.ContainsRune(part.Progress.State, name) || !rapid.Bool().Draw(t, "given") {
				continue
			}
			if again := m.covered(uint32(hash), name); again != m.handled[name] {
				t.Fatalf("event %c counts as handled again: %t, and had been handled: %t", name, again, m.handled[name])
			}
			m.handled[name] = true
			part.Progress = set(part.Progress.State + string(name))
		}
	}
	token.Parts = protocol.Joined(token.Range(), token.Parts)
}

func (m *model) covered(hash uint32, name rune) bool {
	for _, b := range m.bounds {
		if b.Segment.Contains(hash) {
			return strings.ContainsRune(b.Progress.State, name)
		}
	}
	return false
}

func (m *model) reset(t *rapid.T) {
	place := rapid.SampledFrom([]progress.StartType{progress.Earliest, progress.AtPosition}).Draw(t, "place")
	start := progress.Progress{}
	if place == progress.AtPosition {
		start = set(events[:rapid.IntRange(0, 4).Draw(t, "start")])
	}
	bounds, err := protocol.Bound(letters{}, m.tokens, m.bounds)
	if err != nil {
		t.Fatal(err)
	}
	m.bounds = bounds
	for i := range m.tokens {
		if m.tokens[i].Parts, err = protocol.Rewound(letters{}, m.tokens[i], place, start); err != nil {
			t.Fatal(err)
		}
	}
}

// finish ends a replay: by itself where all was handled again, else it is abandoned.
func (m *model) finish(t *rapid.T) {
	if len(m.bounds) == 0 {
		return
	}
	_, _, complete, err := protocol.Replayed(letters{}, m.tokens, m.bounds)
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.tokens {
		if complete {
			break
		}
		if m.tokens[i].Parts, err = protocol.Restored(letters{}, m.tokens[i], m.bounds); err != nil {
			t.Fatal(err)
		}
	}
	m.bounds = nil
}

// reshape splits or merges a token as the stores do.
func (m *model) reshape(t *rapid.T) {
	step, due, err := segment.Next(m.layout(), rapid.IntRange(1, 8).Draw(t, "segments"))
	if err != nil || !due {
		return
	}
	if step.Kind == segment.Split {
		whole := *m.find(step.Whole)
		low, high := step.Whole.Split()
		m.tokens = slices.DeleteFunc(m.tokens, func(t tokenstore.Token) bool { return t.Range() == step.Whole })
		for _, half := range []segment.Segment{low, high} {
			m.tokens = append(m.tokens, token(half, protocol.Within(whole.Parts, half)))
		}
		return
	}
	a, b := *m.find(step.Low), *m.find(step.Low.Sibling())
	m.tokens = slices.DeleteFunc(m.tokens, func(t tokenstore.Token) bool { return t.Range() == a.Range() || t.Range() == b.Range() })
	whole := step.Low.Parent()
	m.tokens = append(m.tokens, token(whole, protocol.Joined(whole, slices.Concat(a.Parts, b.Parts))))
}

func token(s segment.Segment, parts []progress.Part) tokenstore.Token {
	return tokenstore.Token{Key: tokenstore.Key{Group: "g", Segment: s.ID}, Mask: s.Mask, Parts: parts}
}

// check looks that nothing was forgotten: outside of a replay an event has been handled if and only if its token has it.
func (m *model) check(t *rapid.T) {
	for hash, name := range events {
		var given bool
		for _, token := range m.tokens {
			for _, part := range token.Parts {
				given = given || part.Segment.Contains(uint32(hash)) && strings.ContainsRune(part.Progress.State, name)
			}
		}
		if len(m.bounds) > 0 {
			given = given || m.covered(uint32(hash), name)
		}
		if given != m.handled[name] {
			t.Fatalf("event %c: given %t, handled %t: %s", name, given, m.handled[name], m)
		}
	}
}

func (m *model) String() string { return fmt.Sprintf("tokens %+v, boundaries %+v", m.tokens, m.bounds) }

// TestBoundariesTellWhatIsHandledAgain handles, resets, abandons, splits and merges at random.
func TestBoundariesTellWhatIsHandledAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{tokens: []tokenstore.Token{token(segment.Root, []progress.Part{{Segment: segment.Root}})}, handled: map[rune]bool{}}
		t.Repeat(map[string]func(*rapid.T){
			"handle": m.handle, "reset": m.reset, "finish": m.finish, "reshape": m.reshape, "": m.check,
		})
	})
}
