package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// delivered is told by the feed that a segment has got events.
func (l *life) delivered(key tokenstore.Key) {
	l.mu.Lock()
	s := l.segments[key]
	l.mu.Unlock()
	if s != nil {
		l.runnable.push(s)
	}
}

// execute runs batches until the queue is closed or a stand-in has its place. Then it calls ended.
// If a call hangs, another goroutine goes on in the place of this one, and calls ended instead.
func (l *life) execute(ctx context.Context, ended func()) {
	for {
		s, behind := l.runnable.pop()
		if s == nil {
			ended()
			return
		}
		begun := l.runnable.begin(s.group, behind)
		if behind {
			l.beginBacklog()
		}
		endExecution := func() (goesOn bool) {
			handed, counts := l.runnable.end(begun)
			if behind {
				l.endBacklog(time.Since(begun.began), counts)
			}
			return !handed
		}
		goOn := func() {
			if endExecution() {
				l.execute(ctx, ended)
			} else {
				ended()
			}
		}
		if l.take(s) && !l.step(ctx, s, !behind, goOn) {
			return
		}
		if !endExecution() {
			ended()
			return
		}
	}
}

// take makes a segment this executor's, if a batch of it may begin.
func (l *life) take(s *segmentRun) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.poked = s.Busy()
	return !l.settings.paused(s.group.name) && !time.Now().Before(s.notBefore) && l.trusts() && s.Begin()
}

// give ends what take began: segments are queued again, or released where that was asked for meanwhile.
func (l *life) give(ctx context.Context, again bool, segments ...*segmentRun) {
	var next, leaving []*segmentRun
	l.mu.Lock()
	for _, s := range segments {
		switch {
		case s.End():
			leaving = append(leaving, s)
		case again || s.poked:
			next = append(next, s)
		}
	}
	l.mu.Unlock()
	for _, s := range next {
		l.runnable.push(s)
	}
	l.release(ctx, leaving)
}

// step applies one batch of a segment that was taken, in which others may share, or of others where
// it has nothing, and gives them all back. It reports whether the caller goes on; else goOn does,
// in another goroutine.
func (l *life) step(ctx context.Context, first *segmentRun, live bool, goOn func()) bool {
	portions := l.gather(ctx, first, live)
	if len(portions) == 0 {
		return true
	}
	b := joined(portions)
	c := &call{segment: portions[0].s.Token.Segment, events: b.events, attempt: portions[0].s.attemptsAt(b.events[0].Position) + 1, began: time.Now()}
	finish := func(err error) { l.stepped(ctx, portions, b, c, live, err) }
	if err := l.mark(ctx, portions); err != nil {
		finish(err)
		return true
	}
	return l.apply(ctx, portions, c, finish, goOn)
}

// stepped takes note of what became of a batch.
func (l *life) stepped(ctx context.Context, portions []portion, b batch, c *call, live bool, err error) {
	took := time.Since(c.began)
	l.report(portions, b, took, err)
	switch {
	case err == nil:
		if live {
			l.committedLive()
		}
		l.settle(ctx, portions, len(b.events), took)
	case len(portions) > 1:
		l.part(ctx, portions, err)
	default:
		alone := portions[0].s // not the one that was taken first, where that had nothing
		l.give(ctx, l.failed(ctx, alone, b, c, err), alone)
	}
}

// next returns a segment's next batch; where that has no events, also whether to look for another one.
func (l *life) next(s *segmentRun, limit, bytes int) (b batch, again bool) {
	if l.letFill(s, limit) {
		return batch{}, false
	}
	b = assemble(s.member.Peek(), limit, bytes, s.group.handler.Wants, s.replay, s.isolated)
	if b.delivered == 0 && b.cut == 0 || len(b.events) > 0 {
		return b, false
	}
	s.parts = b.after // the token follows later, together with others
	s.member.Take(b.delivered, b.cut)
	l.metrics.skipped(s.group.name, b.skipped)
	return b, true
}

// settle takes note of a batch that has committed, and gives its segments back.
func (l *life) settle(ctx context.Context, portions []portion, events int, took time.Duration) {
	l.mu.Lock()
	for _, p := range portions {
		p.s.advanced(p.advance, p.b.after)
	}
	l.mu.Unlock()
	for _, p := range portions {
		p.s.member.Take(p.b.delivered, p.b.cut)
	}
	for _, p := range portions {
		l.succeeded(p, events, took)
	}
	l.committed(portions[0].s.group)
	l.give(ctx, true, segmentsOf(portions)...)
}

// batchBytes is the size at which a batch ends.
func (l *life) batchBytes() int { return int(l.options.Memory / 8) }

// letFill reports whether to leave a segment's events for a larger batch: it has a backlog, of which more is being read, and has not
// waited for longer than a batch may take. The next delivery, or the end of that time, brings the segment back.
func (l *life) letFill(s *segmentRun, limit int) bool {
	waiting, more := s.member.Waiting()
	first := s.filling == nil
	if !more || waiting == 0 || waiting >= limit || !first && !time.Now().Before(s.fillUntil) {
		if !first {
			s.filling.Stop()
			s.filling = nil
		}
		return false
	}
	if first {
		s.fillUntil = time.Now().Add(batchTime)
		s.filling = time.AfterFunc(batchTime, func() { l.runnable.push(s) })
	}
	return true
}

func (l *life) maxBatchSize(group string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.maxBatchSize(group)
}

// apply runs the handler within the group's time limit. It passes its error to finish: when that is
// nil, the handler's writes and the tokens' moves have committed. It reports whether the caller
// goes on; else goOn does, in another goroutine.
func (l *life) apply(ctx context.Context, portions []portion, c *call, finish finish, goOn func()) bool {
	if err := unreadable(c.events); err != nil {
		finish(err)
		return true
	}
	group := portions[0].s.group
	timeout := l.timeout(group.name)
	if len(portions) > 1 && (timeout == 0 || timeout > sharedTimeout) {
		timeout = sharedTimeout
	}
	cancel := context.CancelFunc(func() {})
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	calling := &portions[0].s.calling
	calling.Store(c)
	done := func(err error) {
		var abandoned *AbandonedError // says so itself
		if timeout > 0 && errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil && !errors.As(err, &abandoned) {
			err = fmt.Errorf("the time limit of %s is over: %w", timeout, err)
		}
		cancel()
		calling.Store(nil)
		finish(err)
	}
	return l.invoke(ctx, group, transaction{l.store, advances(portions), c}, c, done, goOn)
}

// transaction adds the fence to what a handler writes.
type transaction struct {
	store    tokenstore.Commits
	advances []tokenstore.Advance
	call     *call
}

var (
	_ handler.Transaction = transaction{}
	_ handler.Tracker     = transaction{}
)

// At implements handler.Tracker.
func (t transaction) At(index int) { t.call.at.Store(int32(index + 1)) }

func (t transaction) Pipeline(ctx context.Context, queue func(tokenstore.Statements) error) error {
	return t.store.Pipeline(ctx, t.advances, queue)
}

func (t transaction) Queue(ctx context.Context, queue func(tokenstore.Statements) error) error {
	return t.store.Queue(ctx, t.advances, queue)
}

func (t transaction) InTx(ctx context.Context, work func(tokenstore.Tx) error) error {
	return t.store.InTx(ctx, t.advances, work)
}

// succeeded clears what failed before and lets batches grow while they are quick: all events of the batch tell how quick, also those
// of others.
func (l *life) succeeded(p portion, all int, took time.Duration) {
	s, own := p.s, p.b.events
	s.size.committed(all, took, l.maxBatchSize(s.group.name))
	s.alone.Store(max(0, s.alone.Load()-int64(len(own))))
	s.passed(own)
	l.mu.Lock()
	s.fault, s.notBefore = nil, time.Time{}
	l.mu.Unlock()
	if s.repeats = 0; p.advance.Recovers {
		s.failure, s.marked = nil, nil
	}
	l.elsewhere.committed()
}
