package replay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// watchEvery is how often a running reset is asked for whom it waits.
const watchEvery = 250 * time.Millisecond

// watch finds out who holds the locks that a reset waits for, while it waits: afterwards nobody can tell.
type watch struct {
	runner  *Runner
	replay  tokenstore.Replay
	stop    context.CancelFunc
	running sync.WaitGroup
	last    []postgres.Blocker // of the loop, until end
}

func (w *watch) begin(ctx context.Context, pid uint32) {
	ctx, w.stop = context.WithCancel(ctx)
	w.running.Go(func() { w.run(ctx, pid) })
}

// run looks until it is stopped, and shows in the ledger what it finds: the reset may wait for longer than a try.
func (w *watch) run(ctx context.Context, pid uint32) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		blockers, err := w.runner.Store.Blockers(ctx, pid)
		if err == nil && len(blockers) > 0 {
			w.last = blockers
			err = w.runner.Store.Explain(ctx, w.replay, tokenstore.ReplayWaitsForLocks, blockedText(blockers))
		}
		if err != nil && ctx.Err() == nil {
			w.runner.Log.Warn("cannot tell whom a reset waits for", "replay", w.replay.ID, "error", err)
		}
	}
}

// end stops the watch and returns who was met last.
func (w *watch) end() []postgres.Blocker {
	if w.stop == nil { // the transaction never began
		return nil
	}
	w.stop()
	w.running.Wait()
	return w.last
}

func blockedText(blockers []postgres.Blocker) string {
	if len(blockers) == 0 {
		return "the reset waits for locks that others hold; it is tried again"
	}
	b := blockers[0]
	text := fmt.Sprintf("the reset waits for locks held by pid %d, application %q, %s, whose transaction began at %s", b.PID, b.Application, b.State,
		b.Since.UTC().Format(time.TimeOnly))
	if more := len(blockers) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text + ": end it, or wait; the reset is tried again"
}
