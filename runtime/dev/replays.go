package dev

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// ledgerEvery is the time between two looks at the ledger of replays.
const ledgerEvery = 200 * time.Millisecond

// replays prints what happens to the processor's replays.
type replays struct {
	ledger  func(context.Context) ([]tokenstore.Replay, error)
	printer *printer

	mu        sync.Mutex
	printed   map[string]string // what was printed last, by id
	requested string            // id that the manifest asks for
}

// follow prints changes until the context ends.
func (r *replays) follow(ctx context.Context) {
	ticker := time.NewTicker(ledgerEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		ledger, err := r.ledger(ctx)
		if err != nil {
			continue // the worker reports that the database cannot be reached
		}
		r.mu.Lock()
		for _, replay := range ledger {
			r.print(replay)
		}
		r.mu.Unlock()
	}
}

// request is called before a manifest asks for a replay; the id may be empty. Replays that ended
// before dev began are not printed, unless they are what the manifest asks for: then nothing
// happens.
func (r *replays) request(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.printed != nil && id == r.requested {
		return nil
	}
	ledger, err := r.ledger(ctx)
	if err != nil {
		return fmt.Errorf("reading the ledger of replays: %w", err)
	}
	first := r.printed == nil
	if first {
		r.printed = map[string]string{}
	}
	for _, replay := range ledger {
		if first && replay.Phase.Ended() {
			r.printed[replay.ID], _ = replayText(replay)
		}
		r.print(replay)
		if replay.ID == id && replay.Phase.Ended() {
			r.printer.tell("replay "+id, fmt.Sprintf("has ended before (%s) and does not run again: choose another id to have events handled again", replay.Phase))
		}
	}
	r.requested = id
	return nil
}

// print prints a replay whose line has changed. The caller holds the lock.
func (r *replays) print(replay tokenstore.Replay) {
	text, bad := replayText(replay)
	if text == "" || text == r.printed[replay.ID] {
		return
	}
	r.printed[replay.ID] = text
	if bad {
		r.printer.fault("replay "+replay.ID, text)
	} else {
		r.printer.tell("replay "+replay.ID, text)
	}
}

// replayText is what there is to say of a replay, and whether somebody has to do something about
// it.
func replayText(r tokenstore.Replay) (text string, bad bool) {
	why := ""
	if r.Reason != "" {
		why = fmt.Sprintf("%s: %s", r.Reason, r.Message)
	}
	switch r.Phase {
	case tokenstore.ReplayPending, tokenstore.ReplayResetting:
		if slices.Contains([]string{tokenstore.ReplayNoReset, tokenstore.ReplayGroupMissing, tokenstore.ReplayPlaceInvalid}, r.Reason) {
			return "is refused: " + why, true
		}
		if why != "" {
			why = "waits: " + why
		}
		return why, false
	case tokenstore.ReplayRunning:
		text = "the reset is done, events are handled again"
		if quarter := 4 * r.Done / max(r.Total, 1); quarter > 0 {
			text = fmt.Sprintf("%d %% of %d positions are handled again", 25*quarter, r.Total)
		}
		if r.Reason == tokenstore.ReplayAbandoning {
			text += "; " + why
		}
		return text, false
	case tokenstore.ReplayComplete:
		text = "is complete"
		if r.ResetAt != nil && r.EndedAt != nil {
			text += ", in " + rounded(r.EndedAt.Sub(*r.ResetAt))
		}
		return text, false
	case tokenstore.ReplayFailed:
		return fmt.Sprintf("has failed: %s\ncorrect it, choose another id and save", why), true
	case tokenstore.ReplayCancelled, tokenstore.ReplayAbandoned, tokenstore.ReplaySuperseded:
	}
	text = fmt.Sprintf("has ended (%s)", r.Phase)
	if r.Message != "" {
		text += ": " + r.Message
	}
	return text, false
}
