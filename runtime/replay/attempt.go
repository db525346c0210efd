package replay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

const (
	// watchEvery is how often a running try is looked at.
	watchEvery = 250 * time.Millisecond
	// limitGrace is how long reset handlers may go on after their time limit.
	limitGrace = 5 * time.Second
	// stopGrace is how long they may go on when nobody waits for them any more.
	stopGrace = time.Second
	// askLimit bounds a question about a running try.
	askLimit = 2 * time.Second
)

// attempt is one try of a reset. The handlers are called in a goroutine of their own, which may
// never end: they may ignore their context. Whoever began it learns from ended when it has, or was
// given up.
type attempt struct {
	runner *Runner
	replay tokenstore.Replay
	limit  time.Duration // 0 for none
	nth    int           // of this worker's tries in a row, from 1
	cancel context.CancelFunc
	ended  chan struct{}

	// Of the goroutines that run it, until it has ended.
	err       error
	try       tokenstore.ResetTry // nil where its session could not be opened
	blockedBy string              // whom it was found to wait for last

	mu        sync.Mutex
	stopped   bool      // nobody waits for it any more
	called    bool      // the handlers have been called
	group     string    // whose handler was called last
	since     time.Time // the handlers run; zero while they do not
	number    int       // of the try, from 1
	failures  int       // before it
	abandoned bool      // the handlers run, though the attempt has ended
	running   bool      // the goroutine that calls them
}

func (r *Runner) try(ctx context.Context, replay tokenstore.Replay, nth int) *attempt {
	a := &attempt{runner: r, replay: replay, limit: r.limit(replay), nth: nth, ended: make(chan struct{}), running: true}
	ctx, a.cancel = context.WithCancel(ctx)
	go a.run(ctx)
	return a
}

// stop has it end soon, whatever its handlers do.
func (a *attempt) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	a.cancel()
}

// limit is the largest time limit of a replay's groups; 0 where one of them has none.
func (r *Runner) limit(replay tokenstore.Replay) time.Duration {
	var limit time.Duration
	for _, name := range replay.Groups {
		of := r.Timeout(name)
		if of == 0 {
			return 0
		}
		limit = max(limit, of)
	}
	return limit
}

func (a *attempt) hasEnded() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// run makes the try, and tells its runner when it has ended.
func (a *attempt) run(ctx context.Context) {
	defer a.runner.Wake()
	defer close(a.ended)
	defer a.cancel()
	try, err := a.runner.Store.TryReset(ctx)
	if err != nil {
		a.err = err
		a.returned()
		return
	}
	a.try = try
	result := make(chan error, 1)
	go a.call(ctx, result)
	a.err = a.watch(ctx, result)
}

// call carries the reset out. What it sends also tells of a panic, and of runtime.Goexit.
func (a *attempt) call(ctx context.Context, result chan<- error) {
	err, exited := error(nil), true
	defer func() {
		if p := recover(); p != nil {
			err = a.within(&panicError{p, string(debug.Stack())})
		}
		if exited && err == nil {
			err = a.within(errExited)
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
		defer cancel()
		a.try.Close(closing)
		a.returned()
		result <- err
	}()
	err = a.reset(ctx)
	exited = false
	if err == nil {
		a.runner.Log.Info("reset; handling events again", "replay", a.replay.ID, "groups", a.replay.Groups)
	}
}

func (a *attempt) returned() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running, a.since = false, time.Time{}
}

// within names the group whose handler was called last, if there are several.
func (a *attempt) within(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.group == "" || len(a.replay.Groups) == 1 { // who reads it knows which
		return err
	}
	return fmt.Errorf("group %s: %w", a.group, err)
}

func (a *attempt) reset(ctx context.Context) error {
	r := a.runner
	start, err := r.Source.Start(ctx, a.replay.From)
	if err != nil {
		return err
	}
	return a.try.Run(ctx, r.Processor, a.replay, r.Source, start, tokenstore.ResetRun{Limit: a.limit, Handlers: a.handlers})
}

// handlers marks the try in the ledger, and runs the reset handlers in the order of the groups'
// names.
func (a *attempt) handlers(ctx context.Context, tx tokenstore.Tx) error {
	r := a.runner
	attempts, failures, err := r.Store.MarkReset(ctx, a.replay, r.Self)
	if err != nil {
		return err
	}
	if failures >= mostFailures {
		return errWorkersEnded
	}
	a.begin(attempts+1, failures)
	defer a.finish()
	if a.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.limit)
		defer cancel()
	}
	for _, name := range slices.Sorted(slices.Values(a.replay.Groups)) {
		resetter, there := handler.ResetterOf(r.Handlers[name])
		if !there {
			continue // its spec says that it needs none
		}
		a.calls(name)
		if err := resetter.Reset(ctx, tx, handler.Replay{ID: a.replay.ID, Context: a.replay.Context}); err != nil {
			return a.within(overran(ctx, a.limit, err))
		}
	}
	return nil
}

func (a *attempt) begin(number, failures int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.called, a.since, a.number, a.failures = true, time.Now(), number, failures
}

func (a *attempt) calls(group string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.group = group
}

func (a *attempt) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.since = time.Time{}
}

// overdue reports whether the handlers have had their time and the grace after it.
func (a *attempt) overdue(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.limit > 0 && !a.since.IsZero() && now.Sub(a.since) > a.limit+limitGrace
}

// watch waits for the result, finds out meanwhile who holds the locks that the reset waits for, and
// gives a call up that does not end.
func (a *attempt) watch(ctx context.Context, result <-chan error) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	var giveUp <-chan time.Time
	stopped := ctx.Done()
	for {
		select {
		case err := <-result:
			return err
		case <-stopped:
			stopped, giveUp = nil, time.After(stopGrace)
			continue
		case <-giveUp:
			return a.abandon(errStopped)
		case now := <-ticker.C:
			if a.overdue(now) {
				return a.abandon(a.within(&timeLimitError{a.limit, errAbandoned}))
			}
		}
		if err := a.explain(ctx); err != nil && ctx.Err() == nil {
			a.runner.Log.Warn("cannot tell whom a reset waits for", "replay", a.replay.ID, "error", err)
		}
	}
}

// explain shows in the ledger whom the reset waits for, or that it has been running for long.
func (a *attempt) explain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	store := a.runner.Store
	by, err := a.try.BlockedBy(ctx)
	if err != nil {
		return err
	}
	if by != "" {
		a.blockedBy = by
		return store.Explain(ctx, a.replay, tokenstore.ReplayWaitsForLocks, a.blockedText())
	}
	a.mu.Lock()
	since := a.since
	a.mu.Unlock()
	if since.IsZero() || time.Since(since) < tokenstore.LongCall {
		return nil
	}
	return store.Explain(ctx, a.replay, tokenstore.ReplayResetRuns, fmt.Sprintf("the reset of %s has been running since %s (attempt %d, time limit %s)",
		named(a.replay.Groups), since.UTC().Format(time.RFC3339), a.tries(), limitText(a.limit)))
}

// tries is how often the reset has been tried, this time included: by this worker, or by others
// that have called its handlers.
func (a *attempt) tries() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(a.nth, a.number)
}

func (a *attempt) blockedText() string {
	return fmt.Sprintf("the reset of %s (attempt %d) waits for locks held by %s: end it, or wait; the reset is tried again",
		named(a.replay.Groups), a.tries(), a.blockedBy)
}

func limitText(limit time.Duration) string {
	if limit == 0 {
		return "none"
	}
	return limit.String()
}

// abandon goes on without a call that does not end: it can commit nothing any more, since its
// connection is closed.
func (a *attempt) abandon(why error) error {
	a.mu.Lock()
	a.abandoned = true
	a.mu.Unlock()
	closed := a.try.Abandon()
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	_, ended := a.runner.Store.TerminateReset(ctx, a.replay)
	return errors.Join(why, closed, ended)
}

// report is the call of this attempt, if it has been running for long.
func (a *attempt) report(now time.Time) (tokenstore.Call, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	running := now.Sub(a.since)
	if !a.running || a.since.IsZero() || running < tokenstore.LongCall && !a.abandoned {
		return tokenstore.Call{}, false
	}
	return tokenstore.Call{Kind: tokenstore.ResetCall, Replay: a.replay.ID, Attempt: a.number, Running: running.Seconds(), Abandoned: a.abandoned}, true
}

// outcome is what the attempt, which has ended, came to.
func (a *attempt) outcome() outcome {
	tries := a.tries()
	a.mu.Lock()
	defer a.mu.Unlock()
	o := outcome{groups: a.replay.Groups, err: a.err, called: a.called, failures: a.failures, tries: tries}
	if a.stopped && a.err != nil {
		o.err = errStopped
	}
	return o
}

// Calls returns, by group, the calls of reset handlers that have been running for long.
func (r *Runner) Calls() map[string][]tokenstore.Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := map[string][]tokenstore.Call{}
	now := time.Now()
	for _, a := range r.calls {
		call, long := a.report(now)
		if !long {
			continue
		}
		for _, group := range a.replay.Groups {
			calls[group] = append(calls[group], call)
		}
	}
	return calls
}

// known takes note of an attempt whose call is to be reported, and forgets those that have
// returned.
func (r *Runner) known(a *attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(slices.DeleteFunc(r.calls, func(a *attempt) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return !a.running
	}), a)
}
