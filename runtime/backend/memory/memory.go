// Package memory connects workers with a store and a log in memory: to run the whole engine in one
// process without a database, also under testing/synctest. Handlers are functions that get a
// *memory.Tx of tokenstore/memory.
package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-project/sluice/eventsource/memory"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
)

// Backend connects the incarnations of one pod's worker. The pod can be killed and stopped, and its
// connections can be cut.
type Backend struct {
	Database *store.Database
	Log      *memory.Log

	mu          sync.Mutex
	connections map[*connection]bool
	dead        bool
	frozen      time.Time // until when
	unanswered  int       // commits whose answers are lost
}

var _ worker.Backend = (*Backend)(nil)

// Kill cuts all connections and refuses new ones, as the end of the process does: its sessions end,
// and heartbeats, claims, adoptions, plans and commits fail.
func (b *Backend) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
	for c := range b.connections {
		c.cut()
	}
}

// Cut cuts all connections. Their workers may connect again.
func (b *Backend) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.connections {
		c.cut()
	}
}

// Freeze has heartbeats, claims, adoptions, plans and commits wait, as in a process that is stopped
// for a while. Sessions stay open meanwhile.
func (b *Backend) Freeze(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = time.Now().Add(d)
}

// LoseAnswers has the answers of the next n commits get lost: the worker does not know what has
// become of them.
func (b *Backend) LoseAnswers(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unanswered = n
}

// answers reports whether the answer of a commit arrives.
func (b *Backend) answers() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unanswered == 0 {
		return true
	}
	b.unanswered--
	return false
}

// connection is that of an incarnation.
type connection struct {
	backend     *Backend
	incarnation int64

	mu       sync.Mutex
	lost     bool
	session  *store.Session
	listener *store.Listener
	cancel   func() // of the log's calls
}

// Join implements worker.Backend.
func (b *Backend) Join(context.Context, worker.Needs) (worker.Connection, worker.Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return nil, nil, store.ErrLost
	}
	c := &connection{backend: b}
	c.open(b.Database.OpenSession())
	c.incarnation = c.session.Incarnation()
	if b.connections == nil {
		b.connections = map[*connection]bool{}
	}
	b.connections[c] = true
	return c, &listening{c, c.listener}, nil
}

func (c *connection) open(session *store.Session) {
	c.session, c.listener, c.lost = session, c.backend.Database.Listen(), false
	c.cancel = c.backend.Log.OnAppend(func() { c.backend.Database.Announce(store.Signal{Appended: true}) })
}

// cut ends the session: others see that it has ended.
func (c *connection) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
}

// end is cut for those who hold the lock.
func (c *connection) end() {
	if !c.lost {
		c.lost = true
		c.cancel()
		c.session.Close()
		c.listener.Close()
	}
}

// reach waits while the process is frozen, and fails while the connection is lost and once the
// process is dead.
func (c *connection) reach() error {
	c.backend.mu.Lock()
	wait := time.Until(c.backend.frozen)
	c.backend.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
	c.backend.mu.Lock()
	dead := c.backend.dead
	c.backend.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if dead || c.lost {
		return store.ErrLost
	}
	return nil
}

// Identity implements worker.Connection.
func (c *connection) Identity() worker.Identity {
	return worker.Identity{Incarnation: c.incarnation, Nonce: fmt.Sprint(c.incarnation), SessionLock: true}
}

// Directory implements worker.Connection.
func (c *connection) Directory() worker.Directory {
	return directory{c.backend.Database.Directory(), c}
}

// Store implements worker.Connection.
func (c *connection) Store() worker.Store { return tokens{c.backend.Database.Store(), c} }

// Source implements worker.Connection.
func (c *connection) Source() worker.Source { return c.backend.Log.Source() }

// Pages implements worker.Connection.
func (c *connection) Pages() worker.Source { return c.backend.Log.Source() }

// Permits implements worker.Connection: any number of workers may read backlogs.
func (c *connection) Permits() tokenstore.Permits { return nil }

// Handlers implements worker.Connection.
func (c *connection) Handlers() handler.Env { return handler.Env{} }

// Check implements worker.Connection.
func (c *connection) Check(context.Context, handler.Checker) error {
	return errors.New("a store in memory has no statements")
}

// Reconnect implements worker.Connection.
func (c *connection) Reconnect(context.Context) (worker.Session, error) {
	c.backend.mu.Lock()
	dead := c.backend.dead
	c.backend.mu.Unlock()
	if dead {
		return nil, store.ErrLost
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	session, locked := c.backend.Database.LockSession(c.incarnation)
	if !locked {
		return nil, fmt.Errorf("the session of incarnation %d is another connection's", c.incarnation)
	}
	c.open(session)
	return &listening{c, c.listener}, nil
}

// Watch implements worker.Connection.
func (c *connection) Watch(context.Context, string) (worker.Watch, error) { return watch{c}, c.reach() }

// Close implements worker.Connection.
func (c *connection) Close(bool) error {
	c.cut()
	c.backend.mu.Lock()
	defer c.backend.mu.Unlock()
	delete(c.backend.connections, c)
	return nil
}

// listening is a session.
type listening struct {
	connection *connection
	listener   *store.Listener
}

// Next implements worker.Session.
func (l *listening) Next(ctx context.Context) (worker.Signal, error) {
	s, err := l.listener.Next(ctx)
	switch {
	case err != nil:
		return worker.Signal{}, err
	case s.Appended:
		return worker.Signal{Kind: worker.EventsAppended}, nil
	case s.Live:
		return worker.Signal{Kind: worker.LiveEvents}, nil
	}
	return worker.Signal{Kind: worker.DirectoryChanged, Processor: s.Processor}, nil
}

// Close implements worker.Session.
func (l *listening) Close() error {
	l.connection.cut()
	return nil
}

// watch watches other sessions.
type watch struct{ connection *connection }

// Ended implements worker.Watch.
func (w watch) Ended(ctx context.Context, incarnation int64) (bool, error) {
	if err := w.connection.reach(); err != nil {
		return false, err
	}
	return w.connection.backend.Database.SessionEnded(ctx, incarnation, time.Second)
}

// Close implements worker.Watch.
func (watch) Close() error { return nil }

// directory and tokens wait while their process is frozen, and fail while the connection is lost.
// That is so for what a worker needs to go on; what it only looks at is always there.
type directory struct {
	store.Directory
	connection *connection
}

// Beat implements tokenstore.Directory.
func (d directory) Beat(ctx context.Context, w tokenstore.Worker) (tokenstore.Pulse, error) {
	if err := d.connection.reach(); err != nil {
		return tokenstore.Pulse{}, err
	}
	return d.Directory.Beat(ctx, w)
}

// SetState implements tokenstore.Directory.
func (d directory) SetState(ctx context.Context, incarnation int64, state tokenstore.State) error {
	if err := d.connection.reach(); err != nil {
		return err
	}
	return d.Directory.SetState(ctx, incarnation, state)
}

// Adopt implements tokenstore.Directory.
func (d directory) Adopt(ctx context.Context, name string, worker int64, orphans []tokenstore.Assignment) ([]tokenstore.Key, error) {
	if err := d.connection.reach(); err != nil {
		return nil, err
	}
	return d.Directory.Adopt(ctx, name, worker, orphans)
}

// PlannerLock implements tokenstore.Elector.
func (d directory) PlannerLock(ctx context.Context, processor string, plan func() error) (bool, error) {
	if err := d.connection.reach(); err != nil {
		return false, err
	}
	return d.Directory.PlannerLock(ctx, processor, plan)
}

type tokens struct {
	store.Store
	connection *connection
}

// Claim implements tokenstore.Store.
func (t tokens) Claim(ctx context.Context, processor string, worker, definition int64, claims []tokenstore.Claim) ([]tokenstore.Token, error) {
	if err := t.connection.reach(); err != nil {
		return nil, err
	}
	return t.Store.Claim(ctx, processor, worker, definition, claims)
}

// Advance implements tokenstore.Store.
func (t tokens) Advance(ctx context.Context, advances []tokenstore.Advance) error {
	if err := t.connection.reach(); err != nil {
		return err
	}
	return t.Store.Advance(ctx, advances)
}

// InTx implements tokenstore.Commits.
func (t tokens) InTx(ctx context.Context, advances []tokenstore.Advance, work func(tokenstore.Tx) error) error {
	if err := t.connection.reach(); err != nil {
		return err
	}
	err := t.Store.InTx(ctx, advances, func(tx tokenstore.Tx) error {
		if err := work(tx); err != nil {
			return err
		}
		if err := t.connection.reach(); err != nil { // much may have happened meanwhile
			return err
		}
		return ctx.Err()
	})
	if err == nil && !t.connection.backend.answers() {
		return store.ErrLost
	}
	return err
}

// Pipeline implements tokenstore.Commits.
func (t tokens) Pipeline(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return t.InTx(ctx, advances, func(tx tokenstore.Tx) error { return queue(tx) })
}

// Queue implements tokenstore.Commits.
func (t tokens) Queue(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return t.Pipeline(ctx, advances, queue)
}
