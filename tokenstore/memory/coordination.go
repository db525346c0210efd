package memory

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// What a worker needs of a store beside its tokens and its directory: setups, signals, sessions that
// others watch, and the right to plan.

// coordination is the part of a Database for that.
type coordination struct {
	setups    map[setupKey]bool
	planning  map[string]bool // processors that a worker plans at the moment
	listeners map[*Listener]bool
	ended     chan struct{} // closed when a session ends
}

type setupKey struct{ processor, definition, group string }

func newCoordination() coordination {
	return coordination{setups: map[setupKey]bool{}, planning: map[string]bool{}, listeners: map[*Listener]bool{}, ended: make(chan struct{})}
}

// ErrLost is the error of a session whose connection was lost.
var ErrLost = errors.New("the connection to the store in memory was lost")

// ServerError implements tokenstore.Classifier: nothing here answers as a server does.
func (Store) ServerError(error) *tokenstore.ServerError { return nil }

// Lost implements tokenstore.Classifier.
func (Store) Lost(err error) bool { return errors.Is(err, ErrLost) }

// Signal is what a Listener hears.
type Signal struct {
	Processor string // something of it has changed; empty for all
	Live      bool   // a worker handles live events
	Appended  bool   // there are new events
}

// Listener hears what others announce. What is announced several times before it is heard is heard
// once.
type Listener struct {
	database *Database

	mu      sync.Mutex
	signals map[Signal]bool
	wake    chan struct{}
	closed  chan struct{}
}

// Listen returns a new listener.
func (d *Database) Listen() *Listener {
	l := &Listener{database: d, signals: map[Signal]bool{}, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.coordination.listeners[l] = true
	return l
}

// Next waits for a signal.
func (l *Listener) Next(ctx context.Context) (Signal, error) {
	for {
		l.mu.Lock()
		for s := range l.signals {
			delete(l.signals, s)
			l.mu.Unlock()
			return s, nil
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return Signal{}, ctx.Err()
		case <-l.closed:
			return Signal{}, ErrLost
		case <-l.wake:
		}
	}
}

// Close ends the listener. Whoever waits gets ErrLost.
func (l *Listener) Close() {
	l.database.mu.Lock()
	defer l.database.mu.Unlock()
	if l.database.coordination.listeners[l] {
		delete(l.database.coordination.listeners, l)
		close(l.closed)
	}
}

// Announce has all listeners hear a signal.
func (d *Database) Announce(s Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.announce(s)
}

// announce is Announce for those who hold the lock.
func (d *Database) announce(s Signal) {
	for l := range d.coordination.listeners {
		l.mu.Lock()
		l.signals[s] = true
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Wake implements tokenstore.Waker.
func (d Directory) Wake(_ context.Context, processor string) error {
	d.Announce(Signal{Processor: processor})
	return nil
}

// NotifyLiveEvents implements tokenstore.LiveNotifier.
func (d Directory) NotifyLiveEvents(context.Context) error {
	d.Announce(Signal{Live: true})
	return nil
}

// Evict implements tokenstore.Evictor. It returns 0: what has ended here leaves no connections.
func (Directory) Evict(context.Context, []int64) (int, error) { return 0, nil }

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

// SessionEnded waits until the session of an incarnation has ended, and reports whether it has:
// false when the limit is over.
func (d *Database) SessionEnded(ctx context.Context, incarnation int64, limit time.Duration) (bool, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		d.mu.Lock()
		held, ended := d.sessions[incarnation], d.coordination.ended
		d.mu.Unlock()
		if !held {
			return true, nil
		}
		select {
		case <-ended:
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, nil
		}
	}
}

// LockSession takes the session lock of an incarnation again after its connection was lost, and
// reports whether it did.
func (d *Database) LockSession(incarnation int64) (*Session, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sessions[incarnation] {
		return nil, false
	}
	d.sessions[incarnation] = true
	return &Session{d, incarnation}, true
}
