package worker

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

const (
	// moveReplaying is the same in the middle of a replay, whose end waits for them.
	moveReplaying = 250 * time.Millisecond
	// moveEvery is how often tokens are brought up to date which only events have moved that nobody wants.
	moveEvery = 5 * time.Second
	// refreshAfter is when a token is written again although its position has not changed: its snapshot must not lie far back.
	refreshAfter = 5 * time.Minute
)

// release gives up segments of which no batch runs, together with what their tokens were behind.
func (l *life) release(ctx context.Context, segments []*segmentRun) {
	l.write(ctx, segments, true)
}

// write moves the tokens of segments of which no batch runs to what has been handled, all in one transaction, and releases
// them where that is asked for. Where one has moved on, each is written alone. Those that were released, or have moved on,
// are forgotten: their tokens tell who owns them.
func (l *life) write(ctx context.Context, segments []*segmentRun, release bool) {
	if len(segments) == 0 {
		return
	}
	advances := make([]tokenstore.Advance, len(segments))
	for i, s := range segments {
		advances[i] = s.advance(s.parts, release)
	}
	err := l.store.Advance(ctx, advances)
	switch {
	case err != nil && len(segments) > 1 && !l.errors.Lost(err):
		for _, s := range segments {
			l.write(ctx, []*segmentRun{s}, release)
		}
		return
	case err == nil && !release:
		l.mu.Lock()
		for i, s := range segments {
			if s.advanced(advances[i], s.parts); advances[i].Recovers {
				s.failure, s.marked, s.fault, s.notBefore = nil, nil, nil, time.Time{}
			}
		}
		l.mu.Unlock()
		return
	case err != nil && !errors.Is(err, tokenstore.ErrFenced):
		l.log.Warn("writing tokens of segments at rest", "segments", len(segments), "release", release, "error", err)
	}
	for _, s := range segments {
		l.lose(s)
	}
}

// moveIdle brings tokens up to date which only events have moved that nobody wants.
func (l *life) moveIdle(ctx context.Context) {
	resting := l.takeResting()
	var moved []*segmentRun
	for _, s := range resting {
		if b := assemble(s.member.Peek(), 1, l.batchBytes(), s.group.handler.Wants, s.replay, s.isolated); len(b.events) == 0 && b.delivered > 0 {
			s.parts = b.after
			s.member.Take(b.delivered, 0)
		}
		if s.behind() {
			moved = append(moved, s)
		}
	}
	l.write(ctx, moved, false)
	for _, s := range resting {
		l.endReplay(s)
		l.give(ctx, true, s)
	}
}

// takeResting takes the segments whose tokens have not been written for a while.
func (l *life) takeResting() []*segmentRun {
	l.mu.Lock()
	defer l.mu.Unlock()
	var resting []*segmentRun
	for _, s := range l.all() {
		if time.Since(s.moved) > s.moveEvery() && l.trusts() && s.Begin() {
			resting = append(resting, s)
		}
	}
	return resting
}

// moveEvery is how often the segment's token is brought up to date.
func (s *segmentRun) moveEvery() time.Duration {
	if s.replay != nil {
		return moveReplaying
	}
	return moveEvery
}

// behind reports whether the token is worth writing.
func (s *segmentRun) behind() bool {
	if s.parts == nil {
		return false
	}
	progress := s.parts.Progress(s.Token.Range())
	if len(progress) != len(s.Token.Parts) || time.Since(s.moved) > refreshAfter || s.isBeyondFailure(s.parts) {
		return true
	}
	for i, part := range progress {
		if part.Progress.Position != s.Token.Parts[i].Progress.Position {
			return true
		}
	}
	return false
}
