package memory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
)

// tokens is a token store whose calls travel.
type tokens struct {
	store.Store
	connection *connection
}

// Groups implements tokenstore.Store.
func (t tokens) Groups(ctx context.Context, processor string) ([]tokenstore.Group, error) {
	return ask(ctx, t.connection, Call{"Groups", "", false}, func() ([]tokenstore.Group, error) { return t.Store.Groups(ctx, processor) })
}

// Tokens implements tokenstore.Store.
func (t tokens) Tokens(ctx context.Context, processor string) ([]tokenstore.Token, error) {
	return ask(ctx, t.connection, Call{"Tokens", "", false}, func() ([]tokenstore.Token, error) { return t.Store.Tokens(ctx, processor) })
}

// Failures implements tokenstore.Store.
func (t tokens) Failures(ctx context.Context, processor string) ([]tokenstore.Failure, error) {
	return ask(ctx, t.connection, Call{"Failures", "", false}, func() ([]tokenstore.Failure, error) { return t.Store.Failures(ctx, processor) })
}

// Attempts implements tokenstore.Store.
func (t tokens) Attempts(ctx context.Context, processor string) ([]tokenstore.Failure, error) {
	return ask(ctx, t.connection, Call{"Attempts", "", false}, func() ([]tokenstore.Failure, error) { return t.Store.Attempts(ctx, processor) })
}

// Claim implements tokenstore.Store.
func (t tokens) Claim(ctx context.Context, processor string, worker, definition int64, claims []tokenstore.Claim) ([]tokenstore.Token, error) {
	return ask(ctx, t.connection, Call{"Claim", fmt.Sprint(worker, " ", claims), true}, func() ([]tokenstore.Token, error) {
		return t.Store.Claim(ctx, processor, worker, definition, claims)
	})
}

// Fail implements tokenstore.Store.
func (t tokens) Fail(ctx context.Context, epoch, version int64, failure tokenstore.Failure, retryIn time.Duration) error {
	return t.connection.do(ctx, Call{"Fail", fmt.Sprint(failure.Key, " ", version), true}, func() error { return t.Store.Fail(ctx, epoch, version, failure, retryIn) })
}

// Mark implements tokenstore.Store.
func (t tokens) Mark(ctx context.Context, epoch, version int64, mark tokenstore.Failure) error {
	return t.connection.do(ctx, Call{"Mark", fmt.Sprint(mark.Key, " ", version), true}, func() error { return t.Store.Mark(ctx, epoch, version, mark) })
}

// Split implements tokenstore.Store.
func (t tokens) Split(ctx context.Context, group string, s segment.Segment) error {
	return t.connection.do(ctx, Call{"Split", fmt.Sprint(group, " ", s), true}, func() error { return t.Store.Split(ctx, group, s) })
}

// Merge implements tokenstore.Store.
func (t tokens) Merge(ctx context.Context, group string, half segment.Segment) error {
	return t.connection.do(ctx, Call{"Merge", fmt.Sprint(group, " ", half), true}, func() error { return t.Store.Merge(ctx, group, half) })
}

// Advance implements tokenstore.Store.
func (t tokens) Advance(ctx context.Context, advances []tokenstore.Advance) error {
	return t.commit(ctx, Call{"Advance", about(advances), true}, advances, func(tokenstore.Tx) error { return nil })
}

// InTx implements tokenstore.Commits.
func (t tokens) InTx(ctx context.Context, advances []tokenstore.Advance, work func(tokenstore.Tx) error) error {
	begin := t.connection.backend.delivery(Call{"Begin", about(advances), false})
	if err := t.connection.reach(ctx, begin.Request+begin.Answer); err != nil {
		return err
	}
	return t.commit(ctx, Call{"Commit", about(advances), true}, advances, work)
}

// Pipeline implements tokenstore.Commits.
func (t tokens) Pipeline(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return t.commit(ctx, Call{"Commit", about(advances), true}, advances, func(tx tokenstore.Tx) error { return queue(tx) })
}

// Queue implements tokenstore.Commits.
func (t tokens) Queue(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return t.Pipeline(ctx, advances, queue)
}

// commit does the work of a transaction and commits it.
func (t tokens) commit(ctx context.Context, call Call, advances []tokenstore.Advance, work func(tokenstore.Tx) error) error {
	delivery := t.connection.backend.delivery(call)
	if delivery.Loss == LateRequest {
		return t.commitLate(ctx, delivery, advances, work)
	}
	err := t.Store.InTx(ctx, advances, func(tx tokenstore.Tx) error {
		if err := work(tx); err != nil {
			return err
		}
		if err := t.connection.reach(ctx, delivery.Request); err != nil {
			return err
		}
		if delivery.Loss == LostRequest {
			return store.ErrLost
		}
		return nil
	})
	if lost := t.connection.reach(ctx, delivery.Answer); lost != nil && err == nil {
		return lost
	}
	if err == nil && delivery.Loss == LostAnswer {
		return store.ErrLost
	}
	return err
}

// commitLate does the work of a transaction, and commits it after the caller has been given up.
func (t tokens) commitLate(ctx context.Context, delivery Delivery, advances []tokenstore.Advance, work func(tokenstore.Tx) error) error {
	worked := make(chan error)
	go func() {
		_ = t.Store.InTx(context.WithoutCancel(ctx), advances, func(tx tokenstore.Tx) error {
			err := work(tx)
			worked <- err
			if err == nil {
				time.Sleep(delivery.Request + delivery.Late)
			}
			return err
		}) // nobody is there to hear how it ended
	}()
	if err := <-worked; err != nil {
		return err
	}
	if err := t.connection.reach(ctx, delivery.Request); err != nil {
		return err
	}
	return store.ErrLost
}

// about says what a transaction is about.
func about(advances []tokenstore.Advance) string {
	var b strings.Builder
	for _, a := range advances {
		fmt.Fprintf(&b, "%s/%d:%d.%d ", a.Group, a.Segment, a.Epoch, a.Version)
	}
	return b.String()
}

// RequestReplays implements tokenstore.Replays.
func (t tokens) RequestReplays(ctx context.Context, processor string, requests []tokenstore.ReplayRequest) error {
	return t.connection.do(ctx, Call{"RequestReplays", "", true}, func() error { return t.Store.RequestReplays(ctx, processor, requests) })
}

// Replays implements tokenstore.Replays.
func (t tokens) Replays(ctx context.Context, processor string) ([]tokenstore.Replay, error) {
	return ask(ctx, t.connection, Call{"Replays", "", false}, func() ([]tokenstore.Replay, error) { return t.Store.Replays(ctx, processor) })
}

// Replaying implements tokenstore.Resets.
func (t tokens) Replaying(ctx context.Context, processor string) (map[string]*tokenstore.Replaying, error) {
	return ask(ctx, t.connection, Call{"Replaying", "", false}, func() (map[string]*tokenstore.Replaying, error) { return t.Store.Replaying(ctx, processor) })
}

// MarkReset implements tokenstore.Resets.
func (t tokens) MarkReset(ctx context.Context, r tokenstore.Replay, worker int64) (attempts, failures int, err error) {
	err = t.connection.do(ctx, Call{"MarkReset", r.ID, true}, func() (err error) {
		attempts, failures, err = t.Store.MarkReset(ctx, r, worker)
		return err
	})
	return attempts, failures, err
}

// UnmarkReset implements tokenstore.Resets.
func (t tokens) UnmarkReset(ctx context.Context, r tokenstore.Replay, worker int64, attempts, failures int) error {
	return t.connection.do(ctx, Call{"UnmarkReset", r.ID, true}, func() error { return t.Store.UnmarkReset(ctx, r, worker, attempts, failures) })
}

// BeginReset implements tokenstore.Resets.
func (t tokens) BeginReset(ctx context.Context, processor string, r tokenstore.Replay) error {
	return t.connection.do(ctx, Call{"BeginReset", r.ID, true}, func() error { return t.Store.BeginReset(ctx, processor, r) })
}

// EndReset implements tokenstore.Resets.
func (t tokens) EndReset(ctx context.Context, r tokenstore.Replay, phase tokenstore.ReplayPhase, reason, message string) error {
	return t.connection.do(ctx, Call{"EndReset", r.ID, true}, func() error { return t.Store.EndReset(ctx, r, phase, reason, message) })
}

// Explain implements tokenstore.Resets.
func (t tokens) Explain(ctx context.Context, r tokenstore.Replay, reason, message string) error {
	return t.connection.do(ctx, Call{"Explain", r.ID, true}, func() error { return t.Store.Explain(ctx, r, reason, message) })
}

// Record implements tokenstore.Resets.
func (t tokens) Record(ctx context.Context, r tokenstore.Replay, done, total int64) error {
	return t.connection.do(ctx, Call{"Record", r.ID, true}, func() error { return t.Store.Record(ctx, r, done, total) })
}

// Complete implements tokenstore.Resets.
func (t tokens) Complete(ctx context.Context, r tokenstore.Replay) error {
	return t.connection.do(ctx, Call{"Complete", r.ID, true}, func() error { return t.Store.Complete(ctx, r) })
}

// Abandon implements tokenstore.Resets.
func (t tokens) Abandon(ctx context.Context, r tokenstore.Replay, n progress.Algebra) error {
	return t.connection.do(ctx, Call{"Abandon", r.ID, true}, func() error { return t.Store.Abandon(ctx, r, n) })
}

// TryReset implements tokenstore.Resets.
func (t tokens) TryReset(ctx context.Context) (tokenstore.ResetTry, error) {
	return ask(ctx, t.connection, Call{"TryReset", "", false}, func() (tokenstore.ResetTry, error) {
		try, err := t.Store.TryReset(ctx)
		return resetTry{try, t.connection}, err
	})
}

// resetTry is a try of a reset whose transaction travels.
type resetTry struct {
	tokenstore.ResetTry
	connection *connection
}

// Run implements tokenstore.ResetTry. The reset may commit although the worker does not learn of it.
func (r resetTry) Run(ctx context.Context, processor string, replay tokenstore.Replay, n progress.Algebra, start progress.Progress, run tokenstore.ResetRun) error {
	delivery := r.connection.backend.delivery(Call{"Reset", replay.ID, true})
	handlers := run.Handlers
	run.Handlers = func(ctx context.Context, tx tokenstore.Tx) error {
		if err := handlers(ctx, tx); err != nil {
			return err
		}
		if err := r.connection.reach(ctx, delivery.Request); err != nil {
			return err
		}
		if delivery.Loss == LostRequest {
			return store.ErrLost
		}
		return nil
	}
	err := r.ResetTry.Run(ctx, processor, replay, n, start, run)
	if lost := r.connection.reach(ctx, delivery.Answer); lost != nil && err == nil {
		return lost
	}
	if err == nil && delivery.Loss != NoLoss {
		return store.ErrLost
	}
	return err
}
