package worker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// Segments near the tail have few events each, so that a transaction costs more than what is done in it. Where the segments of a
// group write no rows in common, as its definition says, one transaction is made for all that wait.
//
// What must hold: all tokens move in it or none. Where it fails nothing is concluded about any segment: each goes on alone, with at
// least the events that it shared, by the same way as if it never had. So what holds one up, fences it off or fails in it does
// not do so to its neighbours for longer than one attempt.
const (
	// mostShared is how many segments share a batch: beyond it the transaction is no more what the time goes into.
	mostShared = 64
	// sharedTimeout is how long several segments wait for one handler call before each goes on alone.
	sharedTimeout = 5 * time.Second
)

// portion is a segment's part of a batch.
type portion struct {
	s       *segmentRun
	b       batch
	advance tokenstore.Advance
}

// shares reports whether the segment may be in a batch with others.
func (s *segmentRun) shares() bool { return s.group.shares && s.alone.Load() == 0 }

// goAlone keeps the segment from sharing batches until it has handled so many events more.
func (s *segmentRun) goAlone(events int) { s.alone.Store(max(s.alone.Load(), int64(events))) }

// gather takes what waits of a segment that was taken, and of others that may share a batch with it where it is near the tail. It
// waits for none, and is not larger than a batch of the first one alone. Segments that have nothing are given back.
func (l *life) gather(ctx context.Context, first *segmentRun, live bool) []portion {
	largest := l.maxBatchSize(first.group.name)
	events, bytes := first.limit(largest), l.batchBytes()
	share := live && first.shares()
	var portions []portion
	for s, taken := first, true; s != nil; s, taken = l.runnable.another(first.group), false {
		if taken || l.take(s) {
			b, again := l.next(s, min(events, s.limit(largest)), bytes)
			if len(b.events) == 0 {
				l.give(ctx, again, s)
			} else {
				portions = append(portions, s.portion(b))
				events, bytes = events-len(b.events), bytes-b.bytes
			}
		}
		if !share || events <= 0 || bytes <= 0 || len(portions) == mostShared {
			break
		}
	}
	return portions
}

func (s *segmentRun) portion(b batch) portion {
	advance := s.advance(b.after, false)
	advance.Recovers = advance.Recovers || s.recovers(b)
	advance.Unsynced = s.member.Behind()
	return portion{s, b, advance}
}

// joined is the batch of all portions: the events by position, but those of a segment in the order in which it has them.
func joined(portions []portion) batch {
	if len(portions) == 1 {
		return portions[0].b
	}
	var all batch
	rest := make([][]*eventsource.Event, len(portions))
	count := 0
	for i, p := range portions {
		rest[i] = p.b.events
		count += len(p.b.events)
		all.skipped += p.b.skipped
	}
	all.events = make([]*eventsource.Event, 0, count)
	for range count {
		lowest := -1
		for i, events := range rest {
			if len(events) > 0 && (lowest < 0 || events[0].Position < rest[lowest][0].Position) {
				lowest = i
			}
		}
		all.events = append(all.events, rest[lowest][0])
		rest[lowest] = rest[lowest][1:]
	}
	return all
}

// advances are the moves of the portions' tokens, in the order in which tokens are locked.
func advances(portions []portion) []tokenstore.Advance {
	moves := make([]tokenstore.Advance, len(portions))
	for i, p := range portions {
		moves[i] = p.advance
	}
	slices.SortFunc(moves, func(a, b tokenstore.Advance) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Segment, b.Segment))
	})
	return moves
}

func segmentsOf(portions []portion) []*segmentRun {
	segments := make([]*segmentRun, len(portions))
	for i, p := range portions {
		segments[i] = p.s
	}
	return segments
}

// part has the segments of a batch that did not commit go on, each alone. Where its outcome is unknown they are claimed again first.
func (l *life) part(ctx context.Context, portions []portion, err error) {
	kind, reason := l.classify(err)
	fenced := errors.Is(err, tokenstore.ErrFenced)
	unknown := !fenced && kind == tokenstore.InfrastructureFault && l.isLost(err) && !handler.NotCalled(err) && ctx.Err() == nil
	group := portions[0].s.group.name
	if unknown {
		l.log.Warn("a shared batch's outcome is unknown; claiming its segments again", "group", group, "segments", len(portions), "error", err)
	} else {
		l.log.Debug("the segments of a batch go on alone", "group", group, "segments", len(portions), "fenced", fenced, "reason", reason, "error", err)
	}
	for _, p := range portions {
		p.s.goAlone(len(p.b.events))
		if unknown {
			l.lose(p.s)
		}
	}
	l.give(ctx, !unknown, segmentsOf(portions)...)
}
