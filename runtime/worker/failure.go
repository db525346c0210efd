package worker

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/failure"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// failing is what is known of a batch that did not commit.
type failing struct {
	fault   tokenstore.Fault
	events  int
	took    time.Duration
	culprit int    // index of the event that failed; below 0 where it is not known
	event   *event // the culprit, or the first of the batch
	unknown bool   // the batch may have committed
	stack   string // of a panic
}

// event is what is told of an event that fails.
type event struct {
	position int64
	mark     uint64
	kind     string
	stream   string
}

// failingOf describes a failed batch of a segment.
func (l *life) failingOf(s *segmentRun, b batch, c *call, err error) failing {
	kind, reason := l.classify(err)
	f := failing{events: len(b.events), took: time.Since(c.began), culprit: -1, unknown: l.mayHaveCommitted(err)}
	var abandoned *AbandonedError
	if index, known := handler.Culprit(err, b.events); known {
		f.culprit = index
	} else if at := int(c.at.Load()); errors.As(err, &abandoned) && at > 0 {
		f.culprit = at - 1
	}
	first := b.events[max(f.culprit, 0)]
	f.event = eventOf(first)
	var user *handler.UserError
	if errors.As(err, &user) {
		f.stack = user.Stack
	}
	details := l.showsDetails()
	f.fault = tokenstore.Fault{Kind: kind, Reason: reason, Message: handler.MessageOf(err, l.errors, details), SQL: handler.SQLErrorOf(err, l.errors, details),
		Segment: &s.Token.Segment, Since: time.Now(), Position: f.event.position, Type: f.event.kind, Stream: f.event.stream}
	return f
}

func eventOf(e *eventsource.Event) *event { return &event{e.Position, e.Mark, e.Type, e.StreamID} }

// mayHaveCommitted reports whether an error leaves open if its batch has committed. User's code that failed did so before a
// commit was sent, and an event that cannot be read never came to a handler.
func (l *life) mayHaveCommitted(err error) bool {
	var abandoned *AbandonedError
	if _, is := errors.AsType[*eventsource.UnreadableError](err); is {
		return false
	}
	return errors.As(err, &abandoned) || !handler.BeforeCommit(err) && l.errors.Lost(err)
}

// isLost reports whether an error tells that the batch's connection was lost.
func (l *life) isLost(err error) bool { return l.errors.Lost(err) && !handler.Elsewhere(err) }

// failed decides what happens after a batch that did not commit, and reports whether to go on at once.
func (l *life) failed(ctx context.Context, s *segmentRun, b batch, c *call, err error) (again bool) {
	s.goAlone(len(b.events))
	switch {
	// Users' code can return the same error.
	case errors.Is(err, tokenstore.ErrFenced) && !handler.BeforeCommit(err):
		l.metrics.fenced(s.group.name)
		l.log.Info("a batch was fenced off: its segment was claimed, split or merged meanwhile", "group", s.group.name, "segment", s.Token.Segment)
		l.lose(s)
		return false
	case ctx.Err() != nil: // this incarnation ends, and with it whatever is under way
		if l.mayHaveCommitted(err) {
			l.lose(s)
		} else {
			l.unmark(context.WithoutCancel(ctx), s)
		}
		return false
	}
	f := l.failingOf(s, b, c, err)
	if f.fault.Kind == tokenstore.InfrastructureFault && !f.unknown && l.isLost(err) && !handler.NotCalled(err) {
		f.unknown = true // it was lost before the commit: the segment is claimed again all the same, as it may be the event's doing
	}
	defer s.readAgain(b)
	return l.decide(ctx, s, f)
}

// decide carries out what the policy says about a failed batch of a segment, and reports whether to go on at once.
func (l *life) decide(ctx context.Context, s *segmentRun, f failing) (again bool) {
	initial, longest := l.backoffOf(s.group.name)
	d := failure.Decide(failure.Failed{Kind: f.fault.Kind, Events: f.events, Culprit: f.culprit, Unknown: f.unknown,
		TimedOut: f.fault.Reason == handler.ReasonTimedOut,
		Attempts: s.attemptsAt(f.event.position), Repeats: s.repeats}, failure.Policy{Initial: initial, Max: longest}, l.options.Random)
	switch d.Action {
	case failure.Count:
		s.repeats = 0
		s.size.failed(1)
		return l.count(ctx, s, f, d.Wait)
	case failure.Isolate:
		s.culprit = f.event.position
		l.search(s, f)
		return true
	case failure.Halve:
		s.size.failed(f.events)
		l.search(s, f)
		return true
	case failure.Single:
		s.size.timedOut(f.events, f.took)
		l.search(s, f)
		return true
	case failure.Reclaim:
		l.log.Warn("a batch's outcome is unknown; claiming the segment again", "group", s.group.name, "segment", s.Token.Segment,
			"position", f.event.position, "reason", f.fault.Reason, "wait", d.Wait.String(), "error", f.fault.Message)
		if f.fault.Kind != tokenstore.EventFault { // an event's attempts are counted later
			f.fault.Attempts = s.triesOf(f.fault) + 1
		}
		if was := s.fault; was != nil && was.Kind == f.fault.Kind {
			f.fault.Since = was.Since
		}
		l.remember(s, f, d.Wait)
		l.lose(s)
		return false
	case failure.Shrink:
		s.size.contended(f.events)
	case failure.Retry:
	}
	s.repeats++
	if f.fault.Kind == tokenstore.DefinitionFault {
		s.size.failed(1) // it goes on alone, also where others have come meanwhile
		l.speaksAgainst(s, 0, f.fault.Message)
	}
	l.unmark(ctx, s)
	f.fault.Attempts = s.triesOf(f.fault) + 1
	l.pause(s, f.fault, d.Wait)
	return false
}

// triesOf returns how often in a row the same kind of failure has stopped the segment at an event:
// no store counts those that are not the event's.
func (s *segmentRun) triesOf(f tokenstore.Fault) int {
	if s.fault == nil || s.fault.Kind != f.Kind || s.fault.Position != f.Position {
		return 0
	}
	return s.fault.Attempts
}

// search takes note that an event of a batch of several fails, for reports, while it is looked for.
func (l *life) search(s *segmentRun, f failing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.fault != nil && s.fault.Kind == f.fault.Kind {
		f.fault.Since = s.fault.Since
	}
	s.fault = &f.fault
}

// attemptsAt returns how many attempts have been counted at an event.
func (s *segmentRun) attemptsAt(position int64) int {
	if s.failure == nil || s.failure.Position != position {
		return 0
	}
	return s.failure.Attempts
}

// count stores an attempt at an event that was handled alone; its segment waits.
func (l *life) count(ctx context.Context, s *segmentRun, f failing, wait time.Duration) (again bool) {
	fault := f.fault
	fault.Attempts = s.attemptsAt(fault.Position) + 1
	failed := tokenstore.Failure{Key: s.key(), Position: fault.Position, EventMark: f.event.mark, Attempts: fault.Attempts, Message: fault.Message, Reason: fault.Reason,
		Type: fault.Type, Stream: fault.Stream, SQL: fault.SQL, Tried: s.triedAt(fault.Position, l.self.Incarnation)}
	switch err := l.store.Fail(ctx, s.Token.Epoch, s.Token.Version, failed, wait); {
	case errors.Is(err, tokenstore.ErrFenced):
		l.lose(s)
		return false
	case err != nil:
		l.log.Warn("it is not known whether an attempt has been stored", "group", s.group.name, "segment", s.Token.Segment, "error", err)
	}
	s.failure, s.marked = &failed, nil // to be counted on and cleared, also where it may have been stored
	l.metrics.attempt(s.group.name)
	l.speaksAgainst(s, fault.Position, fault.Message)
	about := []any{"group", s.group.name, "segment", s.Token.Segment, "position", fault.Position, "type", fault.Type, "stream", fault.Stream,
		"attempts", fault.Attempts, "retryIn", wait.Round(time.Millisecond).String(), "reason", fault.Reason, "error", fault.Message}
	if f.stack != "" {
		about = append(about, "stack", f.stack)
	}
	l.log.Error("an event fails; its segment waits", about...)
	l.pause(s, fault, wait)
	l.elsewhere.failed(s.key(), time.Now(), fault)
	if fault.Reason != reasonUnended {
		l.passOn(ctx, s)
	}
	return false
}

func (l *life) backoffOf(group string) (initial, longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.backoff(group)
}

// pause keeps a segment from running for a time, and says why.
func (l *life) pause(s *segmentRun, fault tokenstore.Fault, wait time.Duration) {
	l.mu.Lock()
	if was := s.fault; was != nil && was.Kind == fault.Kind && (fault.Kind != tokenstore.EventFault || was.Position == fault.Position || was.Attempts == 0) {
		fault.Since = was.Since
	}
	first := s.fault == nil || s.fault.Message != fault.Message
	s.fault, s.notBefore = &fault, time.Now().Add(wait)
	l.mu.Unlock()
	if first && fault.Kind != tokenstore.ContentionFault && fault.Kind != tokenstore.EventFault {
		l.log.Error("a segment waits", "group", s.group.name, "segment", s.Token.Segment, "kind", fault.Kind, "reason", fault.Reason, "error", fault.Message)
	}
	time.AfterFunc(wait, func() { l.runnable.push(s) })
}

// lose forgets a segment without touching its token, and has the control loop look who owns it now.
func (l *life) lose(s *segmentRun) {
	l.mu.Lock()
	s.Lose()
	if l.segments[s.key()] == s {
		delete(l.segments, s.key())
	}
	l.mu.Unlock()
	l.feed.Remove(s.member)
	l.look()
}

// lostBatch is a batch whose outcome was unknown, kept until its segment was claimed again.
type lostBatch struct {
	epoch, version int64 // of the token, as it was believed to be
	failing
	size    batchSize
	culprit int64
	repeats int
	wait    time.Duration
}

// remember keeps what is known of a batch whose outcome is unknown.
func (l *life) remember(s *segmentRun, f failing, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost[s.key()] = &lostBatch{epoch: s.Token.Epoch, version: s.Token.Version, failing: f, size: s.size, culprit: s.culprit, repeats: s.repeats, wait: wait}
}

// recall returns what is known of the last batch of a token, where that did not commit: the token has been claimed since, and
// nothing else has been done to it.
func (l *life) recall(t tokenstore.Token) *lostBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := l.lost[t.Key]
	delete(l.lost, t.Key)
	if lost == nil || t.Epoch != lost.epoch+1 || t.Version != lost.version+1 {
		return nil
	}
	return lost
}

// resume goes on with a segment that was claimed, from what is known of the last batch of it. A batch of this worker's whose
// outcome was unknown did not commit where lost is set. failed is what is stored.
func (l *life) resume(ctx context.Context, s *segmentRun, lost *lostBatch, failed *tokenstore.Failure) {
	s.marked = failed // the next batch clears it, whatever it says
	if failed != nil && failed.Attempts > 0 {
		s.failure = failed
		s.size.limit, s.inherited = 1, failed.Position
	}
	if lost != nil {
		s.size, s.culprit, s.repeats = lost.size, lost.culprit, lost.repeats+1
	}
	switch {
	case lost != nil && lost.fault.Kind == tokenstore.EventFault:
		lost.unknown = false
		s.repeats = 0
		l.decide(ctx, s, lost.failing)
	case s.suspicion != nil && failed != nil && failed.Calling && failed.Position == failed.Last: // it was alone, and did not end
		l.decide(ctx, s, l.unended(s, lost, *failed))
	case s.suspicion != nil && failed != nil && failed.Calling:
		s.unended = span{from: failed.Position, to: failed.Last}
		l.waitAfter(s, lost)
	case failed != nil && failed.Attempts > 0 && failed.Reason == reasonUnended:
		l.pause(s, faultOf(*failed), failed.RetryAt.Sub(l.storeClock.now()))
	default:
		l.waitAfter(s, lost)
	}
}

// waitAfter has a segment wait after a connection that was lost in a call of it.
func (l *life) waitAfter(s *segmentRun, lost *lostBatch) {
	if lost != nil {
		l.pause(s, lost.fault, lost.wait)
	}
}

// reasonUnended is the reason of an attempt that ended the worker's process, or its connection.
const reasonUnended = handler.ReasonUnended

// unended is the failure of a call that did not end: the mark of it was found.
func (l *life) unended(s *segmentRun, lost *lostBatch, mark tokenstore.Failure) failing {
	message := "the worker that called the handler with this event ended in the call, or lost its connection: look at its pod's last state and log"
	if lost != nil {
		message = "the connection was lost each time that the handler was called with this event: " + lost.fault.Message
	}
	f := failing{events: 1, event: &event{mark.Position, mark.EventMark, mark.Type, mark.Stream}}
	f.fault = tokenstore.Fault{Kind: tokenstore.EventFault, Reason: reasonUnended, Message: message, Segment: &s.Token.Segment, Since: time.Now(),
		Position: mark.Position, Type: mark.Type, Stream: mark.Stream}
	return f
}

// faultOf is what is reported of a failure that is stored.
func faultOf(f tokenstore.Failure) tokenstore.Fault {
	return tokenstore.Fault{Kind: tokenstore.EventFault, Reason: f.Reason, Message: f.Message, Segment: &f.Segment, Position: f.Position, Type: f.Type,
		Stream: f.Stream, Attempts: f.Attempts, SQL: f.SQL, Since: time.Now()}
}
