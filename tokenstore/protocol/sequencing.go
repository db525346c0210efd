package protocol

import (
	"fmt"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Resequenced is Reset for a group that has the sequencing named afterwards. Where that is another one, the segments hold other
// events than before, so that all go to one place: not beyond what all of the group has handled, since nobody can say which events
// of a segment the others had. The boundaries stay as they were made, by the former sequencing. A *tokenstore.NotDueError says that
// the group is in the middle of a replay which has changed its sequencing.
func Resequenced(n progress.Algebra, tokens []tokenstore.Token, before []tokenstore.Boundary, sequencing string, place progress.StartType,
	start progress.Progress) (Rewind, error) {
	was := tokens[0].Sequencing
	if len(before) > 0 && !tokenstore.SameSequencing(before[0].Sequencing, was) {
		return Rewind{}, &tokenstore.NotDueError{Reason: tokenstore.ReplayWaitsForOther, Message: "the replay that has changed the group's sequencing runs first"}
	}
	moves := !tokenstore.SameSequencing(was, sequencing)
	if moves && place != progress.Latest {
		var err error
		if start, err = floor(n, tokens, start); err != nil {
			return Rewind{}, err
		}
		place = progress.Earliest
	}
	r, err := Reset(n, tokens, before, place, start)
	if err != nil {
		return Rewind{}, err
	}
	for i := range r.Boundaries {
		r.Boundaries[i].Sequencing = was
	}
	for i := range r.Tokens {
		r.Tokens[i].Sequencing = sequencing
	}
	if moves {
		bounds, err := AnyHad(n, r.Boundaries, sequencing)
		if err != nil {
			return Rewind{}, err
		}
		_, r.Total, _, err = Replayed(n, r.Tokens, bounds)
		return r, err
	}
	return r, nil
}

// floor has been given what start and all the tokens have.
func floor(n progress.Algebra, tokens []tokenstore.Token, start progress.Progress) (progress.Progress, error) {
	for _, t := range tokens {
		for _, p := range t.Parts {
			var err error
			if start, err = n.Intersect(start, p.Progress); err != nil {
				return progress.Progress{}, fmt.Errorf("segment %s: %w", p.Segment, err)
			}
		}
	}
	return start, nil
}

// AnyHad returns boundaries that tokens of a sequencing can be compared with: those that are given where they were made under it,
// else one for all hashes with all that any of them has. Whoever has that has handled again all there is.
func AnyHad(n progress.Algebra, boundaries []tokenstore.Boundary, sequencing string) ([]tokenstore.Boundary, error) {
	return joinedFor(boundaries, sequencing, n.Union)
}

// AllHad is the same, but the one boundary has only what all of them have.
func AllHad(n progress.Algebra, boundaries []tokenstore.Boundary, sequencing string) ([]tokenstore.Boundary, error) {
	return joinedFor(boundaries, sequencing, n.Intersect)
}

func joinedFor(boundaries []tokenstore.Boundary, sequencing string, join func(a, b progress.Progress) (progress.Progress, error)) ([]tokenstore.Boundary, error) {
	if len(boundaries) == 0 || tokenstore.SameSequencing(boundaries[0].Sequencing, sequencing) {
		return boundaries, nil
	}
	one := boundaries[0]
	for _, b := range boundaries[1:] {
		var err error
		if one.Progress, err = join(one.Progress, b.Progress); err != nil {
			return nil, fmt.Errorf("segment %s: %w", b.Segment, err)
		}
	}
	one.Segment = segment.Root
	return []tokenstore.Boundary{one}, nil
}

// Abandoning is what giving up its replay makes of a group: the tokens that move, and whether it is given up then. It is, unless the
// replay has changed the group's sequencing and some of it had handled more than the rest. Then the tokens go to what all had
// handled: to pass over what only some had would lose events of the others, and nobody can say in which segments these lie now. The
// group handles them again, under the replay, until it has all that any had.
func Abandoning(n progress.Algebra, tokens []tokenstore.Token, boundaries []tokenstore.Boundary) (moved []tokenstore.Token, done bool, err error) {
	if len(tokens) == 0 {
		return nil, true, nil
	}
	low, err := AllHad(n, boundaries, tokens[0].Sequencing)
	if err != nil {
		return nil, false, err
	}
	after := make([]tokenstore.Token, len(tokens))
	for i, t := range tokens {
		back, err := Abandoned(n, tokens[i:i+1], low)
		if err != nil {
			return nil, false, err
		}
		has, err := hasAll(n, t.Parts, back[0].Parts)
		if err != nil {
			return nil, false, fmt.Errorf("segment %s: %w", t.Range(), err)
		}
		if after[i] = t; !has {
			after[i], moved = back[0], append(moved, back[0])
		}
	}
	high, err := AnyHad(n, boundaries, tokens[0].Sequencing)
	if err != nil {
		return nil, false, err
	}
	_, _, done, err = Replayed(n, after, high)
	return moved, done, err
}

// hasAll reports whether parts of a segment have been given all that other parts of it have.
func hasAll(n progress.Algebra, parts, others []progress.Part) (bool, error) {
	for _, p := range parts {
		for _, o := range others {
			if !p.Segment.Includes(o.Segment) && !o.Segment.Includes(p.Segment) {
				continue
			}
			if has, err := n.Contains(p.Progress, o.Progress); err != nil || !has {
				return false, err
			}
		}
	}
	return true, nil
}
