package worker

import (
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// replayed tells which events of a segment are handled again: those that had been handled when its group was reset. It is
// immutable.
type replayed struct {
	replay *eventsource.Replay
	by     segment.Sequencing // of the group before the reset: the parts are meant by its hashes
	moved  bool               // it is another one now, so that an event's hash has to be computed again
	parts  []feed.Part        // what had been handled
	places map[segment.Segment]int
	masks  []uint32
	ends   []progress.Part // whoever has all these handles nothing again any more
}

// marked returns an event as handlers are to get it. One that is handled again is a copy: others have the event too.
func (r *replayed) marked(e *eventsource.Event) *eventsource.Event {
	replay := r.mark(e)
	if replay == nil {
		return e
	}
	again := *e
	again.Replay = replay
	return &again
}

// mark returns the replay that an event is handled again by, or nil. Of events that every segment handled, those count that all
// of them had, as far as the segment goes.
func (r *replayed) mark(e *eventsource.Event) *eventsource.Replay {
	if r == nil {
		return nil
	}
	if r.by.Type == segment.Broadcast {
		if slices.ContainsFunc(r.parts, func(p feed.Part) bool { return !p.Coverage.Covers(e) }) {
			return nil
		}
		return r.replay
	}
	hash := e.Hash
	if r.moved {
		hash = r.by.Of(e.Fields())
	}
	for _, mask := range r.masks {
		if i, there := r.places[segment.Segment{ID: hash & mask, Mask: mask}]; there && r.parts[i].Coverage.Covers(e) {
			return r.replay
		}
	}
	return nil
}

func (r *replayed) add(part feed.Part) {
	r.places[part.Segment] = len(r.parts)
	r.parts = append(r.parts, part)
	if !slices.Contains(r.masks, part.Segment.Mask) {
		r.masks = append(r.masks, part.Segment.Mask)
	}
}

// boundaries are what groups had handled when they were reset. They are read after the claim: whoever resets a group again takes
// its segments away.
type boundaries struct {
	source eventsource.Source
	of     map[string]*tokenstore.Replaying
	moved  map[string]*replayed // of groups whose sequencing the replay has changed: the same for all of their segments
}

// around returns those of a token; nil outside of a replay.
func (b *boundaries) around(t tokenstore.Token) (*replayed, error) {
	r := b.of[t.Group]
	if r == nil {
		return nil, nil
	}
	if r.Boundaries[0].Sequencing != t.Sequencing {
		return b.beforeTheMove(r, t)
	}
	known, err := emptyOf(r)
	if err != nil {
		return nil, err
	}
	for _, bound := range r.Boundaries {
		if !bound.Segment.Includes(t.Range()) && !t.Range().Includes(bound.Segment) {
			continue
		}
		if err := b.add(known, r, bound); err != nil {
			return nil, err
		}
		known.ends = append(known.ends, bound.Part)
	}
	return known, nil
}

// beforeTheMove returns the boundaries of a group whose segments have been others since: all of them.
func (b *boundaries) beforeTheMove(r *tokenstore.Replaying, t tokenstore.Token) (*replayed, error) {
	if known := b.moved[t.Group]; known != nil {
		return known, nil
	}
	known, err := emptyOf(r)
	if err != nil {
		return nil, err
	}
	known.moved = true
	for _, bound := range r.Boundaries {
		if err := b.add(known, r, bound); err != nil {
			return nil, err
		}
	}
	highest, err := protocol.AnyHad(b.source, r.Boundaries, t.Sequencing)
	if err != nil {
		return nil, fmt.Errorf("the boundaries of replay %s: %w", r.ID, err)
	}
	known.ends = []progress.Part{highest[0].Part}
	if b.moved == nil {
		b.moved = map[string]*replayed{}
	}
	b.moved[t.Group] = known
	return known, nil
}

func emptyOf(r *tokenstore.Replaying) (*replayed, error) {
	by, err := segment.ParseSequencing(r.Boundaries[0].Sequencing)
	if err != nil {
		return nil, fmt.Errorf("the boundaries of replay %s: %w", r.ID, err)
	}
	return &replayed{replay: &eventsource.Replay{ID: r.ID, Context: r.Context}, by: by, places: map[segment.Segment]int{}}, nil
}

func (b *boundaries) add(known *replayed, r *tokenstore.Replaying, bound tokenstore.Boundary) error {
	coverage, err := b.source.Parse(bound.Progress)
	if err != nil {
		return fmt.Errorf("the boundary of replay %s at segment %s: %w", r.ID, bound.Segment, err)
	}
	known.add(feed.Part{Segment: bound.Segment, Coverage: coverage})
	return nil
}
