// Package backend connects workers with PostgreSQL: it is where the runtime is wired to a database.
package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// Target is the way to a database, asked at every connect.
type Target = func(ctx context.Context) (postgres.Target, error)

// Postgres is a store, and a source beside it.
type Postgres struct {
	// Target is the way to the store.
	Target Target
	// Source returns the way to the database of a source that is not in the store's. It is not
	// called for other sources, and may be nil for those.
	Source func(definition.SourcePostgres) (Target, error)
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
	*postgres.Member

	control   *pgxpool.Pool // for the directory
	data      *pgxpool.Pool // for tokens, and for the source if it is in the store's database
	elsewhere *pgxpool.Pool // for a source in a database of its own; nil if there is none
	reading   *pgxpool.Pool // for pages of events
	batches   *pgxpool.Pool // for handlers

	directory *postgres.Directory
	store     *postgres.Store
	source    worker.Source
	pages     worker.Source
	close     func() error        // closes what the source has opened; nil for nothing
	log       *eventspostgres.Log // to notify readers of what a handler has appended
	events    handler.Events      // where SQL handlers have them from
}

// Join implements worker.Backend.
func (p Postgres) Join(ctx context.Context, needs worker.Needs) (worker.Connection, tokenstore.Session, error) {
	member, session, err := p.membership(needs).Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	c := &connection{Postgres: p, Member: member}
	if err := c.open(ctx, needs); err != nil {
		return nil, nil, errors.Join(err, c.Close(false), session.Close())
	}
	return c, session, nil
}

// membership is that of the store. Events are announced in the same database.
func (p Postgres) membership(needs worker.Needs) postgres.Membership {
	m := postgres.Membership{Options: postgres.Options{Target: p.Target, Application: "sluice", Keepalives: true}, Schema: p.Schema,
		Channels: map[string]tokenstore.SignalKind{eventspostgres.Channel(p.Schema): tokenstore.EventsAppended}}
	if p.Migrate {
		m.Prepare = func(ctx context.Context, conn *pgx.Conn) error {
			done, err := postgres.Migrate(ctx, conn, p.Schema)
			if err == nil && len(done) > 0 {
				needs.Log.Info("migrated the store", "schema", p.Schema, "steps", done)
			}
			return err
		}
	}
	return m
}

func (c *connection) open(ctx context.Context, needs worker.Needs) (err error) {
	from := c.Options() // where events are read
	if declared := needs.Definition.Source.Postgres; declared != nil {
		if from.Target, err = c.sourceTarget(*declared); err != nil {
			return err
		}
		from.MaxConns = sourceConnections
		if c.elsewhere, err = postgres.Open(from); err != nil {
			return err
		}
	}
	if err := c.openPools(needs, from); err != nil {
		return err
	}
	return c.openStores(ctx, needs, from)
}

// openPools makes pools that are large enough: nobody waits for a connection, stand-ins neither, and
// abandoned calls keep theirs.
func (c *connection) openPools(needs worker.Needs, from postgres.Options) (err error) {
	store := c.Options()
	for _, p := range []struct {
		pool     **pgxpool.Pool
		options  postgres.Options
		most     int
		settings map[string]string
	}{
		{&c.control, store, 3, nil},
		{&c.data, store, needs.Batches + 1, nil},
		{&c.reading, from, needs.Readers + 1, eventspostgres.PageSettings()},
		{&c.batches, store, needs.Batches + needs.Abandoned, nil},
	} {
		o := p.options
		o.MaxConns, o.Settings = int32(p.most), p.settings
		if *p.pool, err = postgres.Open(o); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) openStores(ctx context.Context, needs worker.Needs, from postgres.Options) error {
	c.directory = postgres.NewDirectory(c.control, c.Schema)
	c.store = postgres.NewStoreWithBatches(c.data, c.batches, c.Schema)
	c.log = eventspostgres.NewLog(c.control, c.Schema)
	c.store.OnAppend(c.log.Notify)
	if c.elsewhere != nil {
		c.openSeparate(needs, from)
		return nil
	}
	source := eventspostgres.Open(c.data, c.Schema, needs.Definition.Source)
	if err := source.Check(ctx); err != nil {
		return err
	}
	c.source = source
	pages := source
	if needs.WithoutPayload {
		pages = source.WithoutContents()
	}
	c.pages = pages.Through(c.reading).WithPageBytes(needs.PageBytes)
	declared := source.Declared(needs.Definition.Source)
	c.events = handler.Events{Join: eventspostgres.JoinEvents(c.Schema, declared),
		At: eventspostgres.EventsAt(c.Schema, declared), Table: needs.Definition.Source.Table}
	return nil
}

// Directory implements worker.Connection.
func (c *connection) Directory() worker.Directory { return c.directory }

// Store implements worker.Connection.
func (c *connection) Store() worker.Store { return c.store }

// Source implements worker.Connection.
func (c *connection) Source() worker.Source { return c.source }

// Pages implements worker.Connection.
func (c *connection) Pages() worker.Source { return c.pages }

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

// Close implements worker.Connection.
func (c *connection) Close(abandoned bool) (err error) {
	if c.log != nil {
		if err = c.log.Close(); err != nil { // it would only have woken readers up sooner
			err = fmt.Errorf("a last notification was not sent: %w", err)
		}
	}
	if c.close != nil {
		err = errors.Join(err, c.close())
	}
	for _, pool := range []*pgxpool.Pool{c.data, c.elsewhere, c.reading, c.batches, c.control} {
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
