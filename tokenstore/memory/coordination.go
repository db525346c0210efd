package memory

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// coordination is the part of a Database by which workers agree on what only one of them may do.
type coordination struct {
	setups   map[setupKey]bool
	planning map[string]bool  // processors that a worker plans at the moment
	permits  map[int]*permits // that are held, by number
	ended    chan struct{}    // closed when a session ends
}

type setupKey struct{ processor, definition, group string }

func newCoordination() coordination {
	return coordination{setups: map[setupKey]bool{}, planning: map[string]bool{}, permits: map[int]*permits{}, ended: make(chan struct{})}
}

// ServerError implements tokenstore.Classifier: nothing here answers as a server does.
func (Store) ServerError(error) *tokenstore.ServerError { return nil }

// Lost implements tokenstore.Classifier.
func (Store) Lost(err error) bool { return errors.Is(err, ErrLost) }

// Wake implements tokenstore.Waker.
func (d Directory) Wake(_ context.Context, processor string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed(processor)
	return nil
}

// NotifyLiveEvents implements tokenstore.LiveNotifier.
func (d Directory) NotifyLiveEvents(context.Context) error {
	d.Announce(tokenstore.Signal{Kind: tokenstore.LiveEvents})
	return nil
}

// Evict implements tokenstore.Evictor. What is left of an incarnation here are its permits.
func (d Directory) Evict(_ context.Context, incarnations []int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := len(d.coordination.permits)
	maps.DeleteFunc(d.coordination.permits, func(_ int, p *permits) bool { return slices.Contains(incarnations, p.member.incarnation) })
	return before - len(d.coordination.permits), nil
}

// Probe implements tokenstore.Prober. It returns at once, as commits do.
func (Directory) Probe(context.Context, int64) error { return nil }

// PlannerLock implements tokenstore.Elector.
func (d Directory) PlannerLock(_ context.Context, processor string, plan func() error) (bool, error) {
	d.mu.Lock()
	if d.coordination.planning[processor] {
		d.mu.Unlock()
		return false, nil
	}
	d.coordination.planning[processor] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.coordination.planning, processor)
	}()
	return true, plan()
}

// SetupDone implements tokenstore.Setups.
func (d Directory) SetupDone(_ context.Context, processor, definition, group string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.coordination.setups[setupKey{processor, definition, group}], nil
}

// SetupOnce implements tokenstore.Setups. It only records that the setup has been run: there are no
// commands here.
func (d Directory) SetupOnce(_ context.Context, processor, definition, group, _ string, _ time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.coordination.setups[setupKey{processor, definition, group}] = true
	return nil
}
