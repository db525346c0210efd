// Package replay carries out what the ledger asks for: it takes the groups of a replay back, sees how far they have come in
// handling their events again, and ends the replay.
//
// One worker of a processor does so at a time; which one follows from who is alive, and if two should believe that they are it,
// nothing goes wrong: each step is a transaction that checks what it rests on. A crash between any two steps leaves in the ledger
// where the next worker goes on.
//
// What must always hold:
//   - A reset handler's writes and the move of the tokens commit together, once for each replay.
//   - Nothing is reset while a live worker runs another definition than the one that the replay is bound to, nor are the groups'
//     segments claimed by older ones afterwards.
package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Runner carries the replays of one processor out. Step and Close must not run at once.
type Runner struct {
	Processor string
	Self      int64 // incarnation of the worker that it runs in
	Directory Directory
	Store     Store
	Source    eventsource.Source
	// Handlers of the groups, by name; nil for one that the program has not registered.
	Handlers map[string]handler.Handler
	// Paused reports whether no batch of a group may begin.
	Paused func(group string) bool
	// Timeout is the time limit of a group's reset, 0 for none.
	Timeout func(group string) time.Duration
	// Wake has Step called soon.
	Wake func()
	// Random returns numbers from 0 up to 1, for the share of chance in waits; rand.Float64 if it is nil.
	Random func() float64
	Log    *slog.Logger

	resets map[int64]*resetTries // by replay: of those whose reset has begun
	dead   []int64               // workers that have not ended by what they say, but do not live

	mu    sync.Mutex
	calls []*attempt // whose calls may run
}

// resetTries is how the tries of one reset go.
type resetTries struct {
	attempt   *attempt // that runs, or has ended and was not settled yet; nil for none
	waits     int      // tries in a row after which it has to wait
	notBefore time.Time
}

// Store is what a Runner needs of one.
type Store interface {
	tokenstore.Replays
	tokenstore.Resets
	tokenstore.Classifier
	// Tokens returns the tokens of the processor's groups.
	Tokens(ctx context.Context, processor string) ([]tokenstore.Token, error)
}

// Directory is what a Runner needs of one.
type Directory interface {
	tokenstore.Directory
	tokenstore.Evictor
}

// Waits between two tries of a reset.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Step does what is due, and returns when to look again at the latest; zero when nothing is under
// way. It does not wait for resets: these run on, and have it called again when they have ended.
func (r *Runner) Step(ctx context.Context) (time.Duration, error) {
	view, err := r.Directory.View(ctx, r.Processor)
	if errors.Is(err, tokenstore.ErrNoProcessor) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	replays, err := r.Store.Replays(ctx, r.Processor)
	if err != nil {
		return 0, err
	}
	r.dead = r.dead[:0]
	for _, w := range view.Workers {
		if !w.Alive {
			r.dead = append(r.dead, w.Incarnation)
		}
	}
	r.forget(replays)
	if leader(view) != r.Self {
		return 0, errors.Join(r.settleAll(ctx), r.cancelResets(ctx, replays))
	}
	due := decide(replays, situation{view: view, groups: r.groups(), paused: r.Paused, refused: func(place progress.StartPosition) (reason, problem string) {
		return r.refused(ctx, place)
	}})
	var again time.Duration
	var failed error
	for _, d := range due {
		soon, err := r.carryOut(ctx, d)
		if err != nil { // of this one: others go on
			failed = errors.Join(failed, err, r.Store.Explain(ctx, d.replay, tokenstore.ReplayWaitsForStore, "the replay cannot go on; it is tried again: "+err.Error()))
		}
		if soon > 0 && (again == 0 || soon < again) {
			again = soon
		}
	}
	return again, failed
}

// cancelResets ends those resets that nobody wants any more, whichever worker runs them: that one
// may hang.
func (r *Runner) cancelResets(ctx context.Context, replays []tokenstore.Replay) error {
	var failed error
	for _, replay := range replays {
		if replay.Phase == tokenstore.ReplayResetting && replay.State != tokenstore.ReplayWanted {
			failed = errors.Join(failed, r.cancel(ctx, replay))
		}
	}
	return failed
}

// forget stops the tries of resets that have ended, and forgets them.
func (r *Runner) forget(replays []tokenstore.Replay) {
	for _, number := range slices.Sorted(maps.Keys(r.resets)) {
		p := r.resets[number]
		if slices.ContainsFunc(replays, func(replay tokenstore.Replay) bool {
			return replay.Number == number && replay.Phase == tokenstore.ReplayResetting
		}) {
			continue
		}
		if p.attempt != nil {
			p.attempt.stop()
		}
		delete(r.resets, number)
	}
}

// settleAll settles what has ended of this worker's tries, where another worker carries replays out
// by now.
func (r *Runner) settleAll(ctx context.Context) error {
	var failed error
	for _, number := range slices.Sorted(maps.Keys(r.resets)) {
		p := r.resets[number]
		if p.attempt != nil && p.attempt.hasEnded() {
			_, err := r.settle(ctx, p)
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// Close stops what runs.
func (r *Runner) Close(ctx context.Context) error {
	var failed error
	for _, number := range slices.Sorted(maps.Keys(r.resets)) {
		p := r.resets[number]
		if p.attempt == nil {
			continue
		}
		p.attempt.stop()
		<-p.attempt.ended // at the latest, it is given up after a moment
		_, err := r.settle(ctx, p)
		failed = errors.Join(failed, err)
	}
	return failed
}

// groups says of each group whether it has a reset.
func (r *Runner) groups() map[string]bool {
	groups := map[string]bool{}
	for name, h := range r.Handlers {
		_, groups[name] = handler.ResetterOf(h)
	}
	return groups
}

const (
	// measureEvery is how often the progress of a replay is looked at.
	measureEvery = time.Second
	// waitEvery is how often a replay is looked at that waits for something.
	waitEvery = time.Second
)

func (r *Runner) carryOut(ctx context.Context, d decision) (time.Duration, error) {
	switch d.action {
	case explain:
		return waitEvery, r.Store.Explain(ctx, d.replay, d.reason, d.message)
	case cancel:
		return 0, r.cancel(ctx, d.replay)
	case begin:
		return r.begin(ctx, d.replay)
	case reset:
		return r.reset(ctx, d.replay)
	case measure:
		return r.measure(ctx, d.replay)
	case abandon:
		return r.abandon(ctx, d.replay)
	}
	return 0, fmt.Errorf("replay %s: no such action: %d", d.replay.ID, d.action)
}

// lookLimit bounds the search for the place of a replay.
const lookLimit = 30 * time.Second

// refused says why a replay cannot begin at a place; empty where it can.
func (r *Runner) refused(ctx context.Context, place progress.StartPosition) (reason, problem string) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	_, err := r.Source.Start(ctx, place)
	var none *eventsource.StartPositionError
	switch {
	case err == nil:
		return "", ""
	case errors.As(err, &none):
		return tokenstore.ReplayPlaceInvalid, none.Problem
	}
	return tokenstore.ReplayWaitsForStore, "the start position cannot be looked up; it is tried again: " + err.Error()
}

// cancel ends a replay before its reset has committed. If the reset commits at this moment, nothing
// happens.
func (r *Runner) cancel(ctx context.Context, replay tokenstore.Replay) error {
	r.Log.Info("cancelling a replay before its reset has committed", "replay", replay.ID)
	if p := r.resets[replay.Number]; p != nil && p.attempt != nil {
		p.attempt.stop()
	}
	_, err := r.Store.TerminateReset(ctx, replay)
	return errors.Join(r.Store.EndReset(ctx, replay, tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile, cancelledText), err)
}

const cancelledText = "cancelled before the reset had committed: nothing has happened"

// begin takes the groups from their owners and goes on to the reset.
func (r *Runner) begin(ctx context.Context, replay tokenstore.Replay) (time.Duration, error) {
	err := r.Store.BeginReset(ctx, r.Processor, replay)
	var wait *tokenstore.NotDueError
	switch {
	case errors.As(err, &wait) && wait.Reason == tokenstore.ReplayMoved:
		return waitEvery, nil
	case errors.As(err, &wait):
		return waitEvery, r.Store.Explain(ctx, replay, wait.Reason, wait.Message)
	case r.contended(err):
		return r.retryIn(1), nil
	case err != nil:
		return 0, err
	}
	r.Log.Info("resetting for a replay", "replay", replay.ID, "groups", replay.Groups, "from", replay.From)
	return r.reset(ctx, replay)
}

// reset begins a try of the reset when one is due, and settles it when it has ended.
func (r *Runner) reset(ctx context.Context, replay tokenstore.Replay) (time.Duration, error) {
	p := r.resets[replay.Number]
	if p == nil {
		p = &resetTries{}
		if r.resets == nil {
			r.resets = map[int64]*resetTries{}
		}
		r.resets[replay.Number] = p
	}
	switch {
	case p.attempt != nil && p.attempt.hasEnded():
		return r.settle(ctx, p)
	case p.attempt != nil:
		return waitEvery, nil
	}
	if wait := time.Until(p.notBefore); wait > 0 {
		return wait, nil
	}
	p.attempt = r.try(context.WithoutCancel(ctx), replay, p.waits+1) // Close ends it
	r.known(p.attempt)
	return waitEvery, nil
}

// settle takes note of how a try has ended. Where that cannot be written, it is settled again
// later.
func (r *Runner) settle(ctx context.Context, p *resetTries) (time.Duration, error) {
	a := p.attempt
	verdict := judge(a.outcome(), r.Store)
	wait, err := r.conclude(ctx, a, verdict, r.retryIn(p.waits+1))
	if err != nil {
		return 0, err
	}
	p.attempt = nil
	if p.waits = p.waits + 1; verdict.course == done {
		p.waits = 0
	}
	p.notBefore = time.Now().Add(wait)
	return wait, nil
}

// conclude writes to the ledger what follows from a try, and returns when to go on.
func (r *Runner) conclude(ctx context.Context, a *attempt, v verdict, backoff time.Duration) (time.Duration, error) {
	switch v.course {
	case done:
		return measureEvery / 4, nil
	case leave:
		return waitEvery, errors.Join(r.Store.UnmarkReset(ctx, a.replay, r.Self, 0, 0), r.bury(ctx))
	default:
	}
	attempts, failures := 0, 0
	if v.course == retry || v.course == fail {
		attempts = 1
	}
	if v.counts {
		failures = 1
		if _, err := r.Store.TerminateReset(ctx, a.replay); err != nil { // it may still work on what the handler sent
			return 0, err
		}
	}
	if err := r.Store.UnmarkReset(ctx, a.replay, r.Self, attempts, failures); err != nil {
		return 0, err
	}
	switch v.course {
	case cancelled:
		return 0, r.cancel(ctx, a.replay)
	case putOff:
		return waitEvery, r.Store.EndReset(ctx, a.replay, tokenstore.ReplayPending, v.reason, v.message)
	case lockBusy:
		return backoff, r.endBlockers(ctx, a, v)
	case fail:
		r.Log.Error("a reset failed; the groups go on where they were", "replay", a.replay.ID, "error", a.err, "stack", stackOf(a.err))
		return 0, r.Store.EndReset(ctx, a.replay, tokenstore.ReplayFailed, v.reason, v.message)
	default:
		r.Log.Warn("a reset failed; trying again", "replay", a.replay.ID, "in", backoff.String(), "error", a.err, "stack", stackOf(a.err))
		return backoff, r.Store.Explain(ctx, a.replay, v.reason, v.message)
	}
}

// bury ends the connections of dead workers: one that was frozen in the middle of a reset would keep its lock, and others from going on
// with it, for as long as a handler may take.
func (r *Runner) bury(ctx context.Context) error {
	if len(r.dead) == 0 {
		return nil
	}
	ended, err := r.Directory.Evict(ctx, r.dead)
	if ended > 0 {
		r.Log.Warn("ended the connections of dead workers, one of which may have been resetting", "workers", r.dead, "connections", ended)
	}
	return err
}

// endBlockers names who holds the locks, and ends workers among them: their batches are fenced off
// already.
func (r *Runner) endBlockers(ctx context.Context, a *attempt, v verdict) error {
	if a.try != nil {
		if err := a.try.Unblock(ctx); err != nil {
			return err
		}
	}
	if a.blockedBy != "" {
		v.message = a.blockedText()
	}
	return r.Store.Explain(ctx, a.replay, v.reason, v.message)
}

// contended reports whether an error tells of locks that somebody else has.
func (r *Runner) contended(err error) bool {
	kind, _ := handler.Classify(err, r.Store)
	return err != nil && kind == tokenstore.ContentionFault
}

// retryIn grows with the tries, with a share of chance so that a reset and what it meets do not keep step.
func (r *Runner) retryIn(tries int) time.Duration {
	wait := min(firstRetry<<min(tries-1, 10), lastRetry)
	random := rand.Float64
	if r.Random != nil {
		random = r.Random
	}
	return wait/2 + time.Duration(random()*float64(wait/2))
}

// measure looks how far a replay has come, and ends it where nothing is left.
func (r *Runner) measure(ctx context.Context, replay tokenstore.Replay) (time.Duration, error) {
	groups, err := r.Store.Replaying(ctx, r.Processor)
	if err != nil {
		return 0, err
	}
	tokens, err := r.Store.Tokens(ctx, r.Processor)
	if err != nil {
		return 0, err
	}
	var done, total int64
	all := true
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		if g.Number != replay.Number {
			continue
		}
		mine := of(name, tokens)
		if len(mine) == 0 { // taken out of the spec
			all = false
			continue
		}
		bounds, err := protocol.AnyHad(r.Source, g.Boundaries, mine[0].Sequencing)
		if err != nil {
			return 0, fmt.Errorf("group %s: %w", name, err)
		}
		d, t, complete, err := protocol.Replayed(r.Source, mine, bounds)
		if err != nil {
			return 0, fmt.Errorf("group %s: %w", name, err)
		}
		done, total, all = done+d, total+t, all && complete
	}
	if all && r.here(replay, groups) {
		r.Log.Info("a replay is complete", "replay", replay.ID)
		return 0, r.Store.Complete(ctx, replay)
	}
	return measureEvery / 4, r.Store.Record(ctx, replay, done, total)
}

// abandon moves the groups to where they were, and ends the replay.
func (r *Runner) abandon(ctx context.Context, replay tokenstore.Replay) (time.Duration, error) {
	if replay.Reason != tokenstore.ReplayAbandoning {
		r.Log.Warn("abandoning a replay: its groups' projections are incomplete", "replay", replay.ID, "groups", replay.Groups)
	}
	return measureEvery / 4, r.Store.Abandon(ctx, replay, r.Source)
}

// here reports whether all of the replay's groups were seen: one that was taken out of the spec waits for its return.
func (r *Runner) here(replay tokenstore.Replay, groups map[string]*tokenstore.Replaying) bool {
	return !slices.ContainsFunc(replay.Groups, func(name string) bool {
		g := groups[name]
		return g == nil || g.Number != replay.Number
	})
}

func of(group string, tokens []tokenstore.Token) []tokenstore.Token {
	var mine []tokenstore.Token
	for _, t := range tokens {
		if t.Group == group {
			mine = append(mine, t)
		}
	}
	return mine
}
