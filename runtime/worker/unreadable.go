package worker

import (
	"errors"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// An event that cannot be read fails like one that a handler refuses: alone, by its position, and again and again until it is repaired or another definition reads it otherwise. No
// handler gets it. Its segment waits in front of it, or all of the group, where it is not known to which it belongs. Other events go on.

// eventUnreadable and eventsUnreadable are reasons of faults: of one event, and of all.
const (
	eventUnreadable  = "EventUnreadable"
	eventsUnreadable = "EventsUnreadable"
)

// unknownType reports whether it cannot be read whether a handler wants the event.
func unknownType(e *eventsource.Event) bool { return e.Unreadable.Lacks(eventsource.FieldType) }

// unreadable returns the error of a batch that is an event that cannot be read.
func unreadable(events []*eventsource.Event) error {
	for _, e := range events {
		if e.Unreadable != nil {
			return e.Unreadable
		}
	}
	return nil
}

// classify says what an error of a batch is evidence against.
func (l *life) classify(err error) (tokenstore.FaultKind, string) {
	if _, is := errors.AsType[*eventsource.UnreadableError](err); is {
		return tokenstore.EventFault, eventUnreadable
	}
	return handler.Classify(err, l.errors)
}

// ofTheTable reports whether an error says that the table of events, or its own database, cannot be
// read as it is, which reads report. The worker goes on meanwhile: it can be drained, and its groups
// be replayed.
func ofTheTable(err error) bool {
	_, invalid := errors.AsType[*eventsource.InvalidError](err)
	_, changed := errors.AsType[*eventsource.ChangedError](err)
	_, elsewhere := errors.AsType[*eventsource.DatabaseError](err)
	return invalid || changed || elsewhere
}

// readAgain has a segment's events read anew where the one that it waits for could not be.
func (s *segmentRun) readAgain(b batch) {
	if unreadable(b.events) != nil {
		s.member.ReadAgain()
	}
}

// readFailed is told by the feed how a read went. What was read before is forgotten only where the source says that it may be wrong.
func (l *life) readFailed(err error) {
	if err == nil {
		l.forgotten.Store(false)
		if l.unread.Swap(nil) != nil {
			l.log.Info("events can be read again")
			l.news.Store(true)
		}
		return
	}
	l.metrics.readErrors.Inc()
	fault := &tokenstore.Fault{Kind: tokenstore.InfrastructureFault, Reason: eventsUnreadable, Message: handler.Printable(err.Error()), Since: time.Now()}
	was := l.unread.Load()
	if was != nil {
		fault.Since = was.Since
	}
	l.unread.Store(fault)
	if was == nil || was.Message != fault.Message {
		l.log.Error("events cannot be read; trying again until they can", "error", err)
		l.news.Store(true)
	}
	// Once is enough until something is read again: a source that stays away must not have its
	// segments claimed for each try.
	if errors.Is(err, eventsource.ErrStale) && !l.forgotten.Swap(true) {
		l.severed.Store(true)
		l.look()
	}
}

// readShown is how long a read of events has to take until that is reported, as calls are. A page
// takes milliseconds.
const readShown = tokenstore.LongCall

// waitsToRead is what is reported of a read that has not come back; nil where each does. It is not
// ended, since it may be a large table that makes it slow.
func (l *life) waitsToRead(now time.Time) *tokenstore.Fault {
	since := l.feed.ReadingSince()
	if since.IsZero() || now.Sub(since) < readShown {
		return nil
	}
	which := "the database"
	if l.options.Definition.Source.Postgres != nil {
		which = "the database of spec.source"
	}
	return &tokenstore.Fault{Kind: tokenstore.InfrastructureFault, Reason: eventsUnreadable, Since: since,
		Message: which + " has not answered a read of events: look in its pg_stat_activity and pg_locks whether the read waits for a lock on the table of events, such as that of an ALTER TABLE or a VACUUM FULL"}
}
