package protocol

import (
	"fmt"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Claimed is a token after a worker has claimed it: whoever had it is fenced off. ErrFenced when it has another epoch than the
// worker has seen, or its group wants a newer definition than the worker's, or has another sequencing.
func Claimed(t tokenstore.Token, c tokenstore.Claim, worker, definition int64) (tokenstore.Token, error) {
	if t.Epoch != c.Epoch || definition < t.Least || !tokenstore.SameSequencing(c.Sequencing, t.Sequencing) {
		return t, tokenstore.ErrFenced
	}
	t.Epoch, t.Version, t.Owner = t.Epoch+1, t.Version+1, worker
	return t, nil
}

// Advanced is a token after its owner has moved it: the fence. ErrFenced when it has another epoch or version than the owner
// believes.
func Advanced(t tokenstore.Token, a tokenstore.Advance) (tokenstore.Token, error) {
	if t.Epoch != a.Epoch || t.Version != a.Version {
		return t, tokenstore.ErrFenced
	}
	t.Version, t.Parts = t.Version+1, a.Parts
	if a.Release {
		t.Owner = 0
	}
	return t, nil
}

// Disowned is a token after it was taken from its owner.
func Disowned(t tokenstore.Token) tokenstore.Token {
	t.Epoch, t.Version, t.Owner = t.Epoch+1, t.Version+1, 0
	return t
}

// Halves are the two tokens that a split makes of one: each where the whole was, without an owner. A segment of a single slice
// has none.
func Halves(t tokenstore.Token) (low, high tokenstore.Token, err error) {
	a, b := t.Range().Split()
	if err := b.Valid(); err != nil {
		return low, high, fmt.Errorf("segment %s is a single slice of the hash space and cannot be split", t.Range())
	}
	half := func(s segment.Segment) tokenstore.Token {
		h := Disowned(t)
		h.Segment, h.Mask, h.Parts = s.ID, s.Mask, Within(t.Parts, s)
		return h
	}
	return half(a), half(b), nil
}

// Whole is the token that a merge makes of two halves: without an owner, and with a part for each half until they have met.
// It has the low half's id; its epoch and version are above those of both.
func Whole(low, high tokenstore.Token) tokenstore.Token {
	s := low.Range().Parent()
	t := low
	t.Segment, t.Mask = s.ID, s.Mask
	t.Parts = Joined(s, append(append([]progress.Part{}, low.Parts...), high.Parts...))
	t.Generation, t.Epoch, t.Version = max(low.Generation, high.Generation), max(low.Epoch, high.Epoch), max(low.Version, high.Version)
	return Disowned(t)
}

// FirstFailure is the failure that a merge keeps of its halves' two: the one at the event that
// comes first. Both are at the same event if a split has given its failure to both halves; then it
// is the one of the half that has tried more often.
func FirstFailure(low, high tokenstore.Failure) tokenstore.Failure {
	if high.Position < low.Position || high.Position == low.Position && high.Attempts > low.Attempts {
		return high
	}
	return low
}

// Rewind is what a reset makes of a group.
type Rewind struct {
	Tokens     []tokenstore.Token
	Boundaries []tokenstore.Boundary
	Total      int64 // positions to be handled again, an average over the hash space
}

// Reset moves the tokens of one group to the place whose progress is start, under a new generation. before are the
// boundaries of the replay that it is in the middle of; none when it is in none.
func Reset(n progress.Algebra, tokens []tokenstore.Token, before []tokenstore.Boundary, place progress.StartType, start progress.Progress) (Rewind, error) {
	bounds, err := Bound(n, tokens, before)
	if err != nil {
		return Rewind{}, err
	}
	r := Rewind{Boundaries: bounds}
	for i, t := range tokens {
		if t.Parts, err = Rewound(n, t, place, start); err != nil {
			return Rewind{}, err
		}
		t.Generation++
		r.Tokens = append(r.Tokens, Disowned(t))
		from := Lowest(t.Parts).Position
		for j := range bounds {
			if i == 0 || from < bounds[j].Start {
				bounds[j].Start = from
			}
		}
	}
	_, r.Total, _, err = Replayed(n, r.Tokens, bounds)
	return r, err
}

// Abandoned are the tokens of a group whose replay is given up: each at what its part of the hash space has handled ever,
// under a new generation.
func Abandoned(n progress.Algebra, tokens []tokenstore.Token, boundaries []tokenstore.Boundary) ([]tokenstore.Token, error) {
	after := make([]tokenstore.Token, len(tokens))
	for i, t := range tokens {
		parts, err := Restored(n, t, boundaries)
		if err != nil {
			return nil, fmt.Errorf("segment %s: %w", t.Range(), err)
		}
		t.Parts = parts
		t.Generation++
		after[i] = Disowned(t)
	}
	return after, nil
}

// Lowest is the progress of the part that is farthest behind.
func Lowest(parts []progress.Part) progress.Progress {
	low := parts[0].Progress
	for _, p := range parts[1:] {
		if p.Progress.Position < low.Position {
			low = p.Progress
		}
	}
	return low
}
