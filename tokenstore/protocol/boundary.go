package protocol

import (
	"fmt"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// atom is a part of the hash space within which a token has one progress and its group one boundary.
type atom struct {
	segment  segment.Segment
	progress progress.Progress
	boundary tokenstore.Boundary
}

// atoms divides tokens of one group by the boundaries. Without boundaries there are none.
func atoms(tokens []tokenstore.Token, boundaries []tokenstore.Boundary) ([]atom, error) {
	parts, bounds := map[segment.Segment]progress.Progress{}, map[segment.Segment]tokenstore.Boundary{}
	for _, t := range tokens {
		for _, p := range t.Parts {
			parts[p.Segment] = p.Progress
		}
	}
	for _, b := range boundaries {
		bounds[b.Segment] = b
	}
	var all []atom
	share := 0
	for s, progress := range parts {
		if b, found := around(bounds, s); found {
			all = append(all, atom{s, progress, b})
			share += s.Share()
		}
	}
	for s, b := range bounds {
		if _, same := parts[s]; same {
			continue
		}
		if progress, found := around(parts, s); found {
			all = append(all, atom{s, progress, b})
			share += s.Share()
		}
	}
	if len(boundaries) > 0 && share != segment.MaxSlices {
		return nil, fmt.Errorf("%d tokens and %d boundaries do not cover the hash space exactly once, but %d of %d slices",
			len(tokens), len(boundaries), share, segment.MaxSlices)
	}
	return all, nil
}

// around finds the entry whose segment includes the one named.
func around[T any](entries map[segment.Segment]T, s segment.Segment) (T, bool) {
	for {
		if found, there := entries[s]; there {
			return found, true
		}
		if s == s.Parent() {
			var none T
			return none, false
		}
		s = s.Parent()
	}
}

// Bound returns the boundaries of a group that is reset: what it has handled ever. In the middle of a replay that is what it
// had handled before the first reset, and what it has come to since.
func Bound(n progress.Algebra, tokens []tokenstore.Token, before []tokenstore.Boundary) ([]tokenstore.Boundary, error) {
	var after []tokenstore.Boundary
	if len(before) == 0 {
		for _, t := range tokens {
			for _, p := range t.Parts {
				after = append(after, tokenstore.Boundary{Part: p})
			}
		}
		return after, nil
	}
	all, err := atoms(tokens, before)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		union, err := n.Union(a.boundary.Progress, a.progress)
		if err != nil {
			return nil, fmt.Errorf("segment %s: %w", a.segment, err)
		}
		after = append(after, tokenstore.Boundary{Part: progress.Part{Segment: a.segment, Progress: union}})
	}
	return after, nil
}

// Rewound returns the parts of a token that is reset to a place whose progress is start. A segment that has not come as far as
// a position or a time stays where it is: a reset skips nothing, but to Latest.
func Rewound(n progress.Algebra, t tokenstore.Token, place progress.StartType, start progress.Progress) ([]progress.Part, error) {
	if place == progress.Latest || place == progress.Earliest {
		return []progress.Part{{Segment: t.Range(), Progress: start}}, nil
	}
	parts := make([]progress.Part, len(t.Parts))
	for i, p := range t.Parts {
		back, err := n.Intersect(p.Progress, start)
		if err != nil {
			return nil, fmt.Errorf("segment %s: %w", p.Segment, err)
		}
		parts[i] = progress.Part{Segment: p.Segment, Progress: back}
	}
	return Joined(t.Range(), parts), nil
}

// Restored returns the parts of a token whose replay is abandoned: what it has handled ever.
func Restored(n progress.Algebra, t tokenstore.Token, boundaries []tokenstore.Boundary) ([]progress.Part, error) {
	var mine []tokenstore.Boundary
	for _, b := range boundaries {
		switch {
		case t.Range().Includes(b.Segment):
			mine = append(mine, b)
		case b.Segment.Includes(t.Range()):
			mine = append(mine, tokenstore.Boundary{Part: progress.Part{Segment: t.Range(), Progress: b.Progress}})
		}
	}
	var parts []progress.Part
	for _, b := range mine {
		for _, p := range t.Parts {
			within := b.Segment
			if b.Segment.Includes(p.Segment) {
				within = p.Segment
			} else if !p.Segment.Includes(b.Segment) {
				continue
			}
			union, err := n.Union(b.Progress, p.Progress)
			if err != nil {
				return nil, fmt.Errorf("part %s: %w", within, err)
			}
			parts = append(parts, progress.Part{Segment: within, Progress: union})
		}
	}
	return Joined(t.Range(), parts), nil
}

// Within returns the parts of a half of their segment.
func Within(parts []progress.Part, half segment.Segment) []progress.Part {
	var kept []progress.Part
	for _, p := range parts {
		switch {
		case p.Segment.Includes(half):
			kept = append(kept, progress.Part{Segment: half, Progress: p.Progress})
		case half.Includes(p.Segment):
			kept = append(kept, p)
		}
	}
	return kept
}

// Joined returns the parts of a segment: one where all have come equally far.
func Joined(whole segment.Segment, parts []progress.Part) []progress.Part {
	for _, p := range parts[1:] {
		if p.Progress != parts[0].Progress {
			return parts
		}
	}
	return []progress.Part{{Segment: whole, Progress: parts[0].Progress}}
}

// Replayed says how far a group has come in handling again what it had handled: done of total positions, an average over the
// hash space. It is complete when every part has what its boundary has.
func Replayed(n progress.Algebra, tokens []tokenstore.Token, boundaries []tokenstore.Boundary) (done, total int64, complete bool, err error) {
	all, err := atoms(tokens, boundaries)
	if err != nil {
		return 0, 0, false, err
	}
	complete = true
	var handled, wanted float64
	for _, a := range all {
		share := float64(a.segment.Share()) / segment.MaxSlices
		length := max(a.boundary.Progress.Position-a.boundary.Start, 0)
		wanted += share * float64(length)
		handled += share * float64(min(max(a.progress.Position-a.boundary.Start, 0), length))
		if complete {
			if complete, err = n.Contains(a.progress, a.boundary.Progress); err != nil {
				return 0, 0, false, fmt.Errorf("segment %s: %w", a.segment, err)
			}
		}
	}
	return int64(handled), int64(wanted), complete, nil
}
