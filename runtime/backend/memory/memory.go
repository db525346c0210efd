// Package memory connects workers with a store and a log in memory: to run the whole engine in one
// process without a database, also under testing/synctest. Handlers are functions that get a
// *memory.Tx of tokenstore/memory.
package memory

import (
	"context"
	"errors"
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
	*store.Member
	backend *Backend

	mu      sync.Mutex
	lost    bool
	session tokenstore.Session
	cancel  func() // of the log's calls
}

// Join implements worker.Backend.
func (b *Backend) Join(context.Context, worker.Needs) (worker.Connection, tokenstore.Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return nil, nil, store.ErrLost
	}
	member, session := b.Database.Join()
	c := &connection{Member: member, backend: b}
	if b.connections == nil {
		b.connections = map[*connection]bool{}
	}
	b.connections[c] = true
	return c, c.open(session), nil
}

// open begins to use a session, and returns it as the worker has it.
func (c *connection) open(opened tokenstore.Session) tokenstore.Session {
	c.session, c.lost = opened, false
	c.cancel = c.backend.Log.OnAppend(func() { c.backend.Database.Announce(tokenstore.Signal{Kind: tokenstore.EventsAppended}) })
	return session{opened, c}
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
		c.session.Close() // it never fails
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

// Permits implements tokenstore.Limiter: any number of workers may read backlogs.
func (c *connection) Permits(int) tokenstore.Permits { return nil }

// Handlers implements worker.Connection.
func (c *connection) Handlers() handler.Env { return handler.Env{} }

// Check implements worker.Connection.
func (c *connection) Check(context.Context, handler.Checker) error {
	return errors.New("a store in memory has no statements")
}

// Rejoin implements tokenstore.Member.
func (c *connection) Rejoin(ctx context.Context) (tokenstore.Session, error) {
	c.backend.mu.Lock()
	dead := c.backend.dead
	c.backend.mu.Unlock()
	if dead {
		return nil, store.ErrLost
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	opened, err := c.Member.Rejoin(ctx)
	if err != nil {
		return nil, err
	}
	return c.open(opened), nil
}

// WatchPeers implements tokenstore.PeerWatcher.
func (c *connection) WatchPeers(ctx context.Context, processor string) (tokenstore.PeerWatch, error) {
	if err := c.reach(); err != nil {
		return nil, err
	}
	opened, err := c.Member.WatchPeers(ctx, processor)
	return watch{opened, c}, err
}

// Close implements worker.Connection.
func (c *connection) Close(bool) error {
	c.cut()
	c.backend.mu.Lock()
	defer c.backend.mu.Unlock()
	delete(c.backend.connections, c)
	return nil
}

// session is a session whose end is that of its connection.
type session struct {
	tokenstore.Session
	connection *connection
}

// Close implements tokenstore.Session.
func (s session) Close() error {
	s.connection.cut()
	return nil
}

// watch watches other sessions while its own connection is there.
type watch struct {
	tokenstore.PeerWatch
	connection *connection
}

// WaitSessionEnd implements tokenstore.PeerWatch.
func (w watch) WaitSessionEnd(ctx context.Context, incarnation int64) (bool, error) {
	if err := w.connection.reach(); err != nil {
		return false, err
	}
	return w.PeerWatch.WaitSessionEnd(ctx, incarnation)
}

// directory and tokens wait while their process is frozen, and fail while the connection is lost.
// That is so for what a worker needs to go on; what it only looks at is always there.
type directory struct {
	store.Directory
	connection *connection
}

// Heartbeat implements tokenstore.Directory.
func (d directory) Heartbeat(ctx context.Context, w tokenstore.Worker) (tokenstore.HeartbeatResponse, error) {
	if err := d.connection.reach(); err != nil {
		return tokenstore.HeartbeatResponse{}, err
	}
	return d.Directory.Heartbeat(ctx, w)
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
