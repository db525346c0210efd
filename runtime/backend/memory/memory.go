// Package memory connects workers with a store and a log in memory: to run the whole engine in one
// process without a database, also under testing/synctest. Handlers are functions that get a
// *memory.Tx of tokenstore/memory.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/eventsource/memory"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
)

// Backend connects the incarnations of one pod's worker. The pod can be killed and stopped, its
// connections can be cut, and its calls take as long as its network says.
type Backend struct {
	Database *store.Database
	Log      *memory.Log
	// Network says what happens to each call; nil if all are answered at once.
	Network func(Call) Delivery

	mu          sync.Mutex
	connections []*connection
	dead        bool
	frozen      time.Time // until when
	partitioned time.Time // until when
}

var _ worker.Backend = (*Backend)(nil)

// connection is that of an incarnation.
type connection struct {
	*store.Member
	backend *Backend

	mu      sync.Mutex
	lost    bool
	session tokenstore.Session
	permits tokenstore.Permits // nil if there is no limit
	cancel  func()             // of the log's calls
}

// Join implements worker.Backend.
func (b *Backend) Join(ctx context.Context, _ worker.Needs) (worker.Connection, tokenstore.Session, error) {
	if err := b.travel(ctx, b.delivery(Call{Name: "Join", Writes: true}).Request); err != nil {
		return nil, nil, err
	}
	member, opened := b.Database.Join()
	c := &connection{Member: member, backend: b}
	b.mu.Lock()
	b.connections = append(b.connections, c)
	b.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.open(opened), nil
}

// open begins to use a session, and returns it as the worker has it. The caller holds the lock.
func (c *connection) open(opened *store.Session) tokenstore.Session {
	c.session, c.lost = opened, false
	c.cancel = c.backend.Log.OnAppend(func() { opened.Receive(tokenstore.Signal{Kind: tokenstore.EventsAppended}) })
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
	if c.lost {
		return
	}
	c.lost = true
	c.cancel()
	c.session.Close() // it never fails
	if c.permits != nil {
		c.permits.Close() // nor does this
	}
}

// Directory implements worker.Connection.
func (c *connection) Directory() worker.Directory {
	return directory{c.backend.Database.Directory(), c}
}

// Store implements worker.Connection.
func (c *connection) Store() worker.Store { return tokens{c.backend.Database.Store(), c} }

// Source implements worker.Connection.
func (c *connection) Source() worker.Source { return source{c.backend.Log.Source(), c} }

// Pages implements worker.Connection.
func (c *connection) Pages() worker.Source { return c.Source() }

// Permits implements tokenstore.Limiter.
func (c *connection) Permits(limit int) tokenstore.Permits {
	held := c.Member.Permits(limit)
	if held == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.permits = held
	return permits{held, c}
}

// Handlers implements worker.Connection.
func (c *connection) Handlers() handler.Env { return handler.Env{} }

// Check implements worker.Connection.
func (c *connection) Check(context.Context, handler.Checker) error {
	return errors.New("a store in memory has no statements")
}

// Rejoin implements tokenstore.Member.
func (c *connection) Rejoin(ctx context.Context) (tokenstore.Session, error) {
	if err := c.backend.travel(ctx, c.backend.delivery(Call{Name: "Rejoin", Writes: true}).Request); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	opened, err := c.Member.Rejoin(ctx)
	if err != nil {
		return nil, err
	}
	return c.open(opened.(*store.Session)), nil
}

// WatchPeers implements tokenstore.PeerWatcher.
func (c *connection) WatchPeers(ctx context.Context, processor string) (tokenstore.PeerWatch, error) {
	return ask(ctx, c, Call{Name: "WatchPeers"}, func() (tokenstore.PeerWatch, error) {
		opened, err := c.Member.WatchPeers(ctx, processor)
		return watch{opened, c}, err
	})
}

// Close implements worker.Connection.
func (c *connection) Close(bool) error {
	c.cut()
	c.backend.mu.Lock()
	defer c.backend.mu.Unlock()
	c.backend.connections = slices.DeleteFunc(c.backend.connections, func(o *connection) bool { return o == c })
	return nil
}

// session is a session whose end is that of its connection.
type session struct {
	tokenstore.Session
	connection *connection
}

// Next implements tokenstore.Session. Signals travel as answers do.
func (s session) Next(ctx context.Context) (tokenstore.Signal, error) {
	signal, err := s.Session.Next(ctx)
	if err != nil {
		return signal, err
	}
	delivery := s.connection.backend.delivery(Call{"Signal", fmt.Sprint(signal), false})
	return signal, s.connection.reach(ctx, delivery.Answer)
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
	ended, err := ask(ctx, w.connection, Call{Name: "WaitSessionEnd"}, func() (bool, error) {
		return w.PeerWatch.WaitSessionEnd(ctx, incarnation)
	})
	if ctx.Err() != nil {
		err = nil // nobody waits any more
	}
	return ended, err
}

// permits are permits whose calls travel. They are released when their connection is lost.
type permits struct {
	tokenstore.Permits
	connection *connection
}

// Acquire implements tokenstore.Permits.
func (p permits) Acquire(ctx context.Context) (bool, error) {
	return ask(ctx, p.connection, Call{Name: "Acquire"}, func() (bool, error) { return p.Permits.Acquire(ctx) })
}

// Release implements tokenstore.Permits.
func (p permits) Release(ctx context.Context) error {
	return p.connection.do(ctx, Call{Name: "Release"}, func() error { return p.Permits.Release(ctx) })
}
