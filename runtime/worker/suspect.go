package worker

import (
	"context"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

// A segment is suspect if its token was claimed although its last owner had not released it, or if its last call ended with a
// lost connection: one of the events that were about to be handled may have ended the process or the connection. A suspect
// segment is handled alone, in small batches, and before each call a mark is committed that says which events it is for. A mark
// that the next such claim finds tells which call did not end. Other segments write nothing extra.

// largestSuspect is how many events a suspect segment's batch has at most.
const largestSuspect = 8

// suspicion is what a suspect segment has to go through.
type suspicion struct {
	// until is the position up to which there were events when it was claimed. The event that is
	// looked for is not above it. It may come after one that is, if the order of its stream is not
	// that of positions. Then the call that it ends has no mark, and the next owner finds it.
	until int64
	left  int // how many events the last owner's batch may have had that are not handled yet
	size  int // of the next batch, at most
}

// span is the events from one position to another that were in a call which did not end. They are
// handled one by one.
type span struct{ from, to int64 }

func (s span) has(position int64) bool { return s.from <= position && position <= s.to }

// suspect makes the segment suspect: the last owner's batch had as many events as a batch may have, at most.
func (s *segmentRun) suspect(until int64, largest int) {
	s.suspicion = &suspicion{until: until, left: largest, size: 1}
	s.goAlone(largest)
}

// limit is how many events the next batch may have.
func (s *segmentRun) limit(largest int) int {
	n := s.size.next(largest)
	if s.suspicion != nil {
		n = min(n, s.suspicion.size)
	}
	return n
}

// isolated reports whether an event has to be handled alone.
func (s *segmentRun) isolated(e *eventsource.Event) bool {
	return e.Unreadable != nil || e.Position == s.culprit || s.unended.has(e.Position)
}

// passed takes note of events that have been handled.
func (s *segmentRun) passed(events []*eventsource.Event) {
	last := events[len(events)-1].Position
	if s.culprit == last {
		s.culprit = 0
	}
	if s.suspicion == nil {
		return
	}
	s.suspicion.left -= len(events)
	s.suspicion.size = min(s.suspicion.size*2, largestSuspect)
	if s.suspicion.left <= 0 || last >= s.suspicion.until {
		s.suspicion = nil
		s.alone.Store(0)
	}
}

// mark commits, before a call for a suspect segment, which events it is for.
func (l *life) mark(ctx context.Context, portions []portion) error {
	s := portions[0].s
	if s.suspicion == nil {
		return nil
	}
	events := portions[0].b.events
	m := tokenstore.Failure{Key: s.key(), Calling: true, Position: events[0].Position, Last: events[0].Position, EventMark: events[0].Mark,
		Type: events[0].Type, Stream: events[0].StreamID}
	for _, e := range events {
		if m.Last = max(m.Last, e.Position); e.Position < m.Position {
			m.Position, m.EventMark = e.Position, e.Mark
		}
	}
	s.marked = &m
	portions[0].advance.Recovers = true
	return l.store.Mark(ctx, s.Token.Epoch, s.Token.Version, m)
}

// unmark says that a marked call has ended, where nothing else that is stored does.
func (l *life) unmark(ctx context.Context, s *segmentRun) {
	if s.marked == nil {
		return
	}
	m := *s.marked
	m.Calling = false
	if err := l.store.Mark(ctx, s.Token.Epoch, s.Token.Version, m); err != nil && ctx.Err() == nil {
		l.log.Warn("cannot say that a call has ended; it counts as one that has not if this worker ends now", "group", s.group.name, "segment", s.Token.Segment, "error", err)
	}
	s.marked = nil
}
