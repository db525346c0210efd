package worker

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
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

// execute runs batches until the queue is closed.
func (l *life) execute(ctx context.Context) {
	for {
		s, behind := l.runnable.pop()
		if s == nil {
			return
		}
		if l.take(s) {
			again := l.step(ctx, s)
			l.give(ctx, s, again)
		}
		if behind {
			l.runnable.done()
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

// give ends what take began: the segment is queued again, or released where that was asked for meanwhile.
func (l *life) give(ctx context.Context, s *segmentRun, again bool) {
	l.mu.Lock()
	leaving := s.End()
	again = again || s.poked
	l.mu.Unlock()
	switch {
	case leaving:
		l.release(ctx, []*segmentRun{s})
	case again:
		l.runnable.push(s)
	}
}

// step applies one batch and reports whether there may be another one.
func (l *life) step(ctx context.Context, s *segmentRun) (again bool) {
	limit := s.size.next(l.maxBatchSize(s.group.name))
	if l.letFill(s, limit) {
		return false
	}
	b := assemble(s.member.Peek(), limit, l.batchBytes(), s.group.handler.Wants, s.replay)
	if b.delivered == 0 && b.cut == 0 && len(b.events) == 0 {
		return false
	}
	if len(b.events) == 0 { // the token follows later, together with others
		s.parts = b.after
		s.member.Take(b.delivered, b.cut)
		l.metrics.skipped(s.group.name, b.skipped)
		return true
	}
	began := time.Now()
	advance := s.advance(b.after, false)
	advance.Recovers = s.failure != nil
	advance.Unsynced = s.member.Behind()
	err := l.apply(ctx, s, b, advance)
	took := time.Since(began)
	l.report(s, b, took, err)
	if err != nil {
		return l.failed(ctx, s, b, err)
	}
	l.mu.Lock()
	s.advanced(advance, b.after)
	l.mu.Unlock()
	s.member.Take(b.delivered, b.cut)
	if s.group.spec.Go != nil {
		l.events.Notify() // the handler may have appended
	}
	l.succeeded(s, len(b.events), took)
	l.committed(s.group)
	return true
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

// apply runs the handler; when it returns nil, the handler's writes and the token's move have committed.
func (l *life) apply(ctx context.Context, s *segmentRun, b batch, advance tokenstore.Advance) error {
	ctx, cancel := context.WithTimeout(ctx, l.options.HandlerTimeout)
	defer cancel()
	return s.group.handler.Apply(ctx, transaction{l.store, advance}, b.events)
}

// transaction adds the fence to what a handler writes.
type transaction struct {
	store   *postgres.Store
	advance tokenstore.Advance
}

var _ handler.Transaction = transaction{}

func (t transaction) Pipeline(ctx context.Context, queue func(*pgx.Batch) error) error {
	return t.store.Pipeline(ctx, []tokenstore.Advance{t.advance}, queue)
}

func (t transaction) InTx(ctx context.Context, work func(pgx.Tx) error) error {
	return t.store.InTx(ctx, []tokenstore.Advance{t.advance}, work)
}

// succeeded clears what failed before and lets batches grow while they are quick.
func (l *life) succeeded(s *segmentRun, events int, took time.Duration) {
	s.size.committed(events, took, l.maxBatchSize(s.group.name))
	l.mu.Lock()
	s.fault, s.notBefore = nil, time.Time{}
	s.wait.reset()
	l.mu.Unlock()
	s.failure = nil
}
