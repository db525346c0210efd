package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// Waits after failures that are no evidence against an event.
const (
	contentionWait     = 20 * time.Millisecond
	infrastructureWait = 100 * time.Millisecond
	infrastructureMax  = 5 * time.Second
)

// failed decides what happens after a batch that did not commit, and reports whether to go on at once.
func (l *life) failed(ctx context.Context, s *segmentRun, b batch, err error) (again bool) {
	s.goAlone(len(b.events))
	if errors.Is(err, tokenstore.ErrFenced) {
		l.metrics.fenced(s.group.name)
		l.log.Info("a batch was fenced off: its segment was claimed, split or merged meanwhile", "group", s.group.name, "segment", s.Token.Segment)
		l.lose(s)
		return false
	}
	kind, reason := handler.Classify(err)
	fault := tokenstore.Fault{Kind: kind, Reason: reason, Message: err.Error(), Segment: &s.Token.Segment, Since: time.Now()}
	switch kind {
	case tokenstore.EventFault:
		return l.eventFailed(ctx, s, b, fault)
	case tokenstore.DefinitionFault:
		wait := s.wait
		wait.initial, wait.max = l.backoffOf(s.group.name)
		l.pause(s, fault, wait.next())
		s.wait = wait
		l.speaksAgainst(s, 0, fault.Message)
	case tokenstore.ContentionFault:
		s.size.contended(len(b.events))
		l.pause(s, fault, contentionWait+rand.N(contentionWait))
	default:
		if postgres.IsLost(err) && ctx.Err() == nil {
			l.log.Warn("a batch's outcome is unknown; claiming the segment again", "group", s.group.name, "segment", s.Token.Segment, "error", err)
			l.lose(s)
			return false
		}
		s.wait.initial, s.wait.max = infrastructureWait, infrastructureMax
		l.pause(s, fault, s.wait.next())
	}
	return false
}

// eventFailed looks for the event that fails by halving the batch; when it is alone, the attempt is stored and the segment
// waits.
func (l *life) eventFailed(ctx context.Context, s *segmentRun, b batch, fault tokenstore.Fault) (again bool) {
	if n := len(b.events); n > 1 {
		s.size.failed(n, fault.Reason != "HandlerTimedOut")
		return true
	}
	event := b.events[0]
	failure := tokenstore.Failure{Key: s.key(), Position: event.Position, Attempts: 1, Message: fault.Message}
	if s.failure != nil && s.failure.Position == event.Position {
		failure.Attempts = s.failure.Attempts + 1
	}
	wait := retryDelay(l, s.group.name, failure.Attempts)
	switch err := l.store.Fail(ctx, s.Token.Epoch, s.Token.Version, failure, wait); {
	case errors.Is(err, tokenstore.ErrFenced):
		l.lose(s)
		return false
	case err != nil:
		l.log.Warn("it is not known whether an attempt has been stored", "group", s.group.name, "segment", s.Token.Segment, "error", err)
	}
	s.failure = &failure // to be counted on and cleared, also where it may have been stored
	l.metrics.attempt(s.group.name)
	l.speaksAgainst(s, event.Position, fault.Message)
	fault.Position, fault.Attempts = event.Position, failure.Attempts
	l.log.Error("an event fails; its segment waits", "group", s.group.name, "segment", s.Token.Segment, "position", event.Position,
		"type", event.Type, "stream", event.StreamID, "attempts", failure.Attempts, "retryIn", wait, "error", fault.Message)
	l.pause(s, fault, wait)
	return false
}

// retryDelay is how long to wait after so many attempts.
func retryDelay(l *life, group string, attempts int) time.Duration {
	b := backoff{}
	b.initial, b.max = l.backoffOf(group)
	var wait time.Duration
	for range min(attempts, 40) {
		wait = b.next()
	}
	return wait
}

func (l *life) backoffOf(group string) (initial, longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.backoff(group)
}

// pause keeps a segment from running for a time, and says why.
func (l *life) pause(s *segmentRun, fault tokenstore.Fault, wait time.Duration) {
	l.mu.Lock()
	if s.fault != nil && s.fault.Kind == fault.Kind && s.fault.Position == fault.Position {
		fault.Since = s.fault.Since
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
