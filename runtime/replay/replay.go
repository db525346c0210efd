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
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Runner carries the replays of one processor out. Its methods must not run at once.
type Runner struct {
	Processor string
	Self      int64 // incarnation of the worker that it runs in
	Directory Directory
	Store     *postgres.Store
	Source    eventsource.Source
	// Handlers of the groups, by name; nil for one that the program has not registered.
	Handlers map[string]handler.Handler
	// Paused reports whether no batch of a group may begin.
	Paused func(group string) bool
	Log    *slog.Logger

	tries int     // resets in a row that could not get their locks
	dead  []int64 // workers that have not ended by what they say, but do not live
}

// Directory is what a Runner needs of one.
type Directory interface {
	tokenstore.Directory
	// TerminateBackends ends what connections are left of workers, and returns how many there were.
	TerminateBackends(ctx context.Context, workers []int64) (int, error)
}

// Waits between two tries of a reset that could not get its locks.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Step does what is due, and returns when to look again at the latest; zero when nothing is under way.
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
	if leader(view) != r.Self {
		return 0, nil
	}
	r.dead = r.dead[:0]
	for _, w := range view.Workers {
		if !w.Alive {
			r.dead = append(r.dead, w.Incarnation)
		}
	}
	var again time.Duration
	var unknown error
	refused := func(place tokenstore.Place) string {
		problem, err := r.refused(ctx, place)
		unknown = errors.Join(unknown, err)
		return problem
	}
	due := decide(replays, situation{view: view, groups: r.groups(), paused: r.Paused, refused: refused})
	if unknown != nil {
		return 0, unknown
	}
	for _, d := range due {
		soon, err := r.carryOut(ctx, d)
		if err != nil {
			return 0, err
		}
		if soon > 0 && (again == 0 || soon < again) {
			again = soon
		}
	}
	return again, nil
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
		r.Log.Info("cancelling a replay before its reset", "replay", d.replay.ID)
		return 0, r.Store.EndReset(ctx, d.replay, tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile, "cancelled before the reset: nothing has happened")
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

// refused says why a place is none to go back to.
func (r *Runner) refused(ctx context.Context, place tokenstore.Place) (problem string, err error) {
	_, err = r.Source.Start(ctx, place)
	var none *eventsource.PlaceError
	if errors.As(err, &none) {
		return none.Problem, nil
	}
	return "", err
}

// begin takes the groups from their owners and goes on to the reset.
func (r *Runner) begin(ctx context.Context, replay tokenstore.Replay) (time.Duration, error) {
	err := r.Store.BeginReset(ctx, r.Processor, replay)
	var wait *tokenstore.NotDueError
	switch {
	case errors.As(err, &wait) && wait.Reason == tokenstore.ReplayMoved:
		return waitEvery, nil
	case errors.As(err, &wait):
		return waitEvery, r.Store.Explain(ctx, replay, wait.Reason, wait.Message)
	case contended(err):
		return retryIn(1), nil
	case err != nil:
		return 0, err
	}
	r.Log.Info("resetting for a replay", "replay", replay.ID, "groups", replay.Groups, "from", replay.From)
	r.tries = 0
	return r.reset(ctx, replay)
}

// reset tries the reset once. Where it cannot get a lock, who holds that is written to the ledger and the next try is soon.
func (r *Runner) reset(ctx context.Context, replay tokenstore.Replay) (time.Duration, error) {
	start, err := r.Source.Start(ctx, replay.From)
	var place *eventsource.PlaceError
	if errors.As(err, &place) { // since it was asked first, events have been deleted
		return waitEvery, r.Store.EndReset(ctx, replay, tokenstore.ReplayPending, tokenstore.ReplayPlaceInvalid, place.Problem)
	}
	if err != nil {
		return 0, err
	}
	watch := &watch{runner: r, replay: replay}
	err = r.Store.Reset(ctx, r.Processor, replay, r.Source, start, func(pid uint32) { watch.begin(ctx, pid) },
		func(ctx context.Context, tx pgx.Tx) error { return r.runHandlers(ctx, tx, replay) })
	blockers := watch.end()
	var wait *tokenstore.NotDueError
	switch {
	case err == nil:
		r.tries = 0
		r.Log.Info("reset; handling events again", "replay", replay.ID, "groups", replay.Groups)
		return measureEvery / 4, nil
	case errors.As(err, &wait) && wait.Reason == tokenstore.ReplayMoved:
		return waitEvery, r.bury(ctx)
	case errors.As(err, &wait) && wait.Reason == tokenstore.ReplayCancelledMeanwhile:
		return 0, r.Store.EndReset(ctx, replay, tokenstore.ReplayCancelled, wait.Reason, "cancelled before the reset: nothing has happened")
	case errors.As(err, &wait):
		return waitEvery, r.Store.EndReset(ctx, replay, tokenstore.ReplayPending, wait.Reason, wait.Message)
	case contended(err):
		r.tries++
		return retryIn(r.tries), r.giveWay(ctx, replay, blockers)
	}
	if kind, reason := handler.Classify(err); kind != tokenstore.EventFault && kind != tokenstore.DefinitionFault {
		return 0, fmt.Errorf("resetting for replay %s (%s): %w", replay.ID, reason, err)
	}
	r.Log.Error("a reset failed; the groups go on where they were", "replay", replay.ID, "error", err)
	return 0, r.Store.EndReset(ctx, replay, tokenstore.ReplayFailed, tokenstore.ReplayResetHandlerFails, err.Error())
}

// bury ends the connections of dead workers: one that was frozen in the middle of a reset would keep its lock, and others from going on
// with it, for as long as a handler may take.
func (r *Runner) bury(ctx context.Context) error {
	if len(r.dead) == 0 {
		return nil
	}
	ended, err := r.Directory.TerminateBackends(ctx, r.dead)
	if ended > 0 {
		r.Log.Warn("ended the connections of dead workers, one of which may have been resetting", "workers", r.dead, "connections", ended)
	}
	return err
}

// runHandlers runs the reset handlers in the order of the groups' names.
func (r *Runner) runHandlers(ctx context.Context, tx pgx.Tx, replay tokenstore.Replay) error {
	for _, name := range slices.Sorted(slices.Values(replay.Groups)) {
		resetter, there := handler.ResetterOf(r.Handlers[name])
		if !there {
			continue // its spec says that it needs none
		}
		if err := resetter.Reset(ctx, tx, handler.Replay{ID: replay.ID, Context: replay.Context}); err != nil {
			return fmt.Errorf("group %s: %w", name, err)
		}
	}
	return nil
}

// giveWay names who holds the locks, and ends workers among them: their batches are fenced off already.
func (r *Runner) giveWay(ctx context.Context, replay tokenstore.Replay, blockers []postgres.Blocker) error {
	if err := r.Store.Unblock(ctx, blockers); err != nil {
		return err
	}
	return r.Store.Explain(ctx, replay, tokenstore.ReplayWaitsForLocks, blockedText(blockers))
}

// contended reports whether an error tells of locks that somebody else has.
func contended(err error) bool {
	kind, _ := handler.Classify(err)
	return err != nil && kind == tokenstore.ContentionFault
}

// retryIn grows with the tries, with a share of chance so that a reset and what it meets do not keep step.
func retryIn(tries int) time.Duration {
	wait := min(firstRetry<<min(tries-1, 10), lastRetry)
	return wait/2 + rand.N(wait/2)
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
	for name, g := range groups {
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
