// Package backend connects workers with PostgreSQL: it is where the runtime is wired to a database.
package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// Postgres is a store, and a source beside it.
type Postgres struct {
	// Target is the way to the server, asked at every connect.
	Target func(ctx context.Context) (postgres.Target, error)
	// Schema of Sluice's tables.
	Schema string
	// Migrate brings the schema up to date where the role may.
	Migrate bool
}

var _ worker.Backend = Postgres{}

// connection is that of an incarnation. Each pool has its own work, so that none waits for another:
// a heartbeat for a batch, a page for a hand-over.
type connection struct {
	Postgres
	identity    worker.Identity
	application string // of the connections

	control *pgxpool.Pool // for the directory
	data    *pgxpool.Pool // for tokens and the source
	reading *pgxpool.Pool // for pages of events
	batches *pgxpool.Pool // for handlers

	directory *postgres.Directory
	store     *postgres.Store
	source    *eventspostgres.Source
	pages     *eventspostgres.Source
	log       *eventspostgres.Log // to notify readers of what a handler has appended
	permits   tokenstore.Permits
	events    handler.Events // where SQL handlers have them from
}

// Join implements worker.Backend.
func (p Postgres) Join(ctx context.Context, needs worker.Needs) (worker.Connection, worker.Session, error) {
	session, err := p.openSession(ctx)
	if err != nil {
		return nil, nil, err
	}
	c := &connection{Postgres: p}
	if err := c.open(ctx, session, needs); err != nil {
		return nil, nil, errors.Join(err, c.Close(false), session.Close())
	}
	return c, p.listening(session), nil
}

func (c *connection) open(ctx context.Context, session *postgres.Session, needs worker.Needs) error {
	meta, err := c.checkStore(ctx, session, needs)
	if err != nil {
		return err
	}
	n, err := session.Incarnation(ctx, c.Schema)
	if err != nil {
		return err
	}
	locked, err := session.Lock(ctx, c.Schema, n)
	if err != nil {
		return err
	}
	c.identity = worker.Identity{Incarnation: n, Nonce: uuid.NewString(), SessionLock: locked}
	c.application = postgres.ApplicationOf(meta.Home, n, c.identity.Nonce)
	if err := c.openPools(needs); err != nil {
		return err
	}
	return c.openStores(ctx, needs)
}

func (c *connection) checkStore(ctx context.Context, session *postgres.Session, needs worker.Needs) (postgres.Meta, error) {
	if c.Migrate {
		done, err := postgres.Migrate(ctx, session.Conn(), c.Schema)
		if err != nil {
			return postgres.Meta{}, err
		}
		if len(done) > 0 {
			needs.Log.Info("migrated the store", "schema", c.Schema, "steps", done)
		}
	}
	return postgres.Check(ctx, session.Conn(), c.Schema)
}

// openPools makes pools that are large enough: nobody waits for a connection, stand-ins neither, and
// abandoned calls keep theirs.
func (c *connection) openPools(needs worker.Needs) (err error) {
	for _, p := range []struct {
		pool     **pgxpool.Pool
		most     int
		settings map[string]string
	}{
		{&c.control, 3, nil},
		{&c.data, needs.Batches + 1, nil},
		{&c.reading, needs.Readers + 1, eventspostgres.PageSettings()},
		{&c.batches, needs.Batches + needs.Abandoned, nil},
	} {
		o := c.options(c.application)
		o.MaxConns, o.Settings = int32(p.most), p.settings
		if *p.pool, err = postgres.Open(o); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) openStores(ctx context.Context, needs worker.Needs) error {
	c.directory = postgres.NewDirectory(c.control, c.Schema)
	c.store = postgres.NewStoreWithBatches(c.data, c.batches, c.Schema)
	c.log = eventspostgres.NewLog(c.control, c.Schema)
	c.store.OnAppend(c.log.Notify)
	source := eventspostgres.Open(c.data, c.Schema, needs.Definition.Source)
	if err := source.Check(ctx); err != nil {
		return err
	}
	c.source = source
	if c.identity.SessionLock && needs.CatchUpWorkers > 0 { // behind a pooler no lock is anybody's
		c.permits = postgres.NewPermits(c.options(c.application), c.Schema, needs.CatchUpWorkers)
	}
	pages := source
	if needs.WithoutPayload {
		pages = source.WithoutContents()
	}
	c.pages = pages.Through(c.reading).WithPageBytes(needs.PageBytes)
	declared := source.Declared(needs.Definition.Source)
	c.events = handler.Events{Join: eventspostgres.JoinEvents(c.Schema, declared), At: eventspostgres.EventsAt(c.Schema, declared), Table: needs.Definition.Source.Table}
	return nil
}

func (p Postgres) options(application string) postgres.Options {
	return postgres.Options{Target: p.Target, Application: application, Keepalives: true}
}

func (p Postgres) openSession(ctx context.Context) (*postgres.Session, error) {
	return postgres.OpenSession(ctx, p.options("sluice"), postgres.Channel(p.Schema), eventspostgres.Channel(p.Schema), postgres.LiveChannel(p.Schema))
}

// Identity implements worker.Connection.
func (c *connection) Identity() worker.Identity { return c.identity }

// Directory implements worker.Connection.
func (c *connection) Directory() worker.Directory { return c.directory }

// Store implements worker.Connection.
func (c *connection) Store() worker.Store { return c.store }

// Source implements worker.Connection.
func (c *connection) Source() worker.Source { return c.source }

// Pages implements worker.Connection.
func (c *connection) Pages() worker.Source { return c.pages }

// Permits implements worker.Connection.
func (c *connection) Permits() tokenstore.Permits { return c.permits }

// Handlers implements worker.Connection.
func (c *connection) Handlers() handler.Env { return handler.Env{Events: c.events} }

// Check implements worker.Connection. It waits for a lock no longer than a setup: somebody may be
// changing a table.
func (c *connection) Check(ctx context.Context, h handler.Checker) error {
	conn, err := c.data.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err == nil {
		err = h.Check(ctx, tx)
	}
	return errors.Join(err, tx.Rollback(ctx))
}

// Watch implements worker.Connection.
func (c *connection) Watch(ctx context.Context, processor string) (worker.Watch, error) {
	watch, err := postgres.OpenWatch(ctx, c.options(c.application), c.Schema, processor)
	if err != nil {
		return nil, err // not a nil *postgres.Watch, which is no nil Watch
	}
	return watch, nil
}

// Close implements worker.Connection.
func (c *connection) Close(abandoned bool) (err error) {
	if c.log != nil {
		if err = c.log.Close(); err != nil { // it would only have woken readers up sooner
			err = fmt.Errorf("a last notification was not sent: %w", err)
		}
	}
	for _, pool := range []*pgxpool.Pool{c.data, c.reading, c.batches, c.control} {
		switch {
		case pool == nil:
		case abandoned: // calls have connections, and closing waits for those
			go pool.Close()
		default:
			pool.Close()
		}
	}
	return err
}

// Waits between two tries to take the session lock back.
const (
	firstLockWait = 2 * time.Millisecond
	lastLockWait  = 50 * time.Millisecond
)

// Reconnect implements worker.Connection. The server may take a moment to let go of the lock of the
// connection that was lost.
func (c *connection) Reconnect(ctx context.Context) (worker.Session, error) {
	session, err := c.openSession(ctx)
	if err != nil {
		return nil, err
	}
	for wait := firstLockWait; c.identity.SessionLock; wait = min(2*wait, lastLockWait) {
		locked, err := session.Lock(ctx, c.Schema, c.identity.Incarnation)
		if err != nil {
			return nil, errors.Join(err, session.Close()) // it is of no use without the lock
		}
		if locked {
			break
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), session.Close())
		case <-time.After(wait):
		}
	}
	return c.listening(session), nil
}

// listening reads the channels that a session listens on.
type listening struct {
	*postgres.Session
	signals map[string]worker.SignalKind // by channel
}

func (p Postgres) listening(session *postgres.Session) *listening {
	return &listening{session, map[string]worker.SignalKind{postgres.Channel(p.Schema): worker.DirectoryChanged,
		eventspostgres.Channel(p.Schema): worker.EventsAppended, postgres.LiveChannel(p.Schema): worker.LiveEvents}}
}

// Next implements worker.Session.
func (l *listening) Next(ctx context.Context) (worker.Signal, error) {
	channel, payload, err := l.Wait(ctx)
	if err != nil {
		return worker.Signal{}, err
	}
	return worker.Signal{Kind: l.signals[channel], Processor: payload}, nil
}
