package worker

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// segmentRun is a segment that this incarnation has claimed.
type segmentRun struct {
	group  *group
	member *feed.Member

	protocol.Holding      // under the life's lock
	poked            bool // something was delivered while a batch ran; under the life's lock

	claimed   time.Time
	inherited int64 // position of the event that had failed when it was claimed, 0 for none

	// Of whoever has it running; of the control loop when nobody has.
	parts     feed.Parts // handled so far, ahead of the token by events that nobody wants; nil before the first
	moved     time.Time  // when the token was written last
	size      batchSize
	alone     atomic.Int64        // how many events it has to handle before it may share a batch again; others may read it
	filling   *time.Timer         // there while the next batch waits until it is large enough
	fillUntil time.Time           // at the latest
	notBefore time.Time           // when the next batch may begin, after a failure
	repeats   int                 // failures in a row that counted no attempt
	failure   *tokenstore.Failure // stored, as far as is known: the event that it stands still at
	culprit   int64               // position of an event that fails and is to be handled alone; 0 for none
	suspicion *suspicion          // nil where it is not suspect
	unended   span                // events that were in a call which did not end
	marked    *tokenstore.Failure // the mark that is stored, as far as is known

	calling atomic.Pointer[call] // under way; others read it

	fault  *tokenstore.Fault // what it stands still for, for reports; under the life's lock
	replay *replayed         // what it had handled when it was reset; nil outside of a replay
}

func (s *segmentRun) key() tokenstore.Key { return s.Token.Key }

// advance returns the move of the token to parts; to where it is with nil.
func (s *segmentRun) advance(parts feed.Parts, release bool) tokenstore.Advance {
	progress := s.Token.Parts
	if parts != nil {
		progress = parts.Progress(s.Token.Range())
	}
	a := s.Advance(progress, release)
	a.Recovers = s.isBeyondFailure(parts)
	return a
}

// isBeyondFailure reports whether parts are beyond the event that a stored failure or mark is about: it was
// handled, nobody wants it any more, it was deleted, or it is not the segment's own after a split.
//
// Positions do not tell. The token may be above an event that is still to be handled, if the event's
// transaction committed after others.
func (s *segmentRun) isBeyondFailure(parts feed.Parts) bool {
	f := s.stored()
	return f != nil && parts != nil && parts.Cover(&eventsource.Event{Position: f.Position, Mark: f.EventMark})
}

// stored is the failure, or the mark, that is stored for the segment, as far as is known; nil for none.
func (s *segmentRun) stored() *tokenstore.Failure {
	if s.failure != nil {
		return s.failure
	}
	return s.marked
}

// recovers reports whether a batch that commits clears what is stored: the event is in it, or no attempt was counted.
func (s *segmentRun) recovers(b batch) bool {
	f := s.stored()
	return f != nil && (f.Attempts == 0 || slices.ContainsFunc(b.events, func(e *eventsource.Event) bool { return e.Position == f.Position }))
}

// advanced takes note of a committed move. The caller holds the life's lock.
func (s *segmentRun) advanced(a tokenstore.Advance, parts feed.Parts) {
	s.Settle(a, protocol.Committed)
	s.parts = parts
	s.moved = time.Now()
}

// batch is what is applied in one transaction.
type batch struct {
	events    []*eventsource.Event
	bytes     int // of the events
	skipped   int // events that the handler does not want
	delivered int // deliveries that the batch ends
	cut       int // events of the next delivery that it takes as well
	after     feed.Parts
}

// replayed is how many of the events are handled again.
func (b batch) replayed() int {
	count := 0
	for _, event := range b.events {
		if event.Replay != nil {
			count++
		}
	}
	return count
}

// assemble makes a batch of at most limit events that the handler wants out of what was delivered; it ends with the event with which it
// reaches a size in bytes. An event that has to be handled alone is a batch of its own. Without wanted events the batch covers
// all that was delivered.
func assemble(deliveries []*feed.Delivery, limit, bytes int, wants func(eventType string) bool, replay *replayed, alone func(*eventsource.Event) bool) batch {
	var b batch
	waiting := 0
	for _, d := range deliveries {
		waiting += len(d.Events)
	}
	for _, d := range deliveries {
		for i, event := range d.Events {
			if !wants(event.Type) && !unknownType(event) {
				b.skipped++
				continue
			}
			if n := len(b.events); n == limit || b.bytes >= bytes || n > 0 && (alone(event) || n == 1 && alone(b.events[0])) {
				if b.cut = i; i > 0 {
					b.after = d.Until(d.Events[i-1])
				}
				return b
			}
			if b.events == nil {
				b.events = make([]*eventsource.Event, 0, min(waiting, limit))
			}
			b.bytes += event.Size()
			b.events = append(b.events, replay.marked(event))
		}
		b.delivered++
		b.after = d.All()
	}
	return b
}
