// Package postgres connects the operator with stores in PostgreSQL.
package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// application names the operator's connections in pg_stat_activity.
const application = "sluice-operator"

// Backend opens stores in PostgreSQL.
type Backend struct {
	// Secrets reads a namespace's Secrets.
	Secrets func(namespace string) connection.Secrets
	// AllowLoopback lets the operator connect to its own host.
	AllowLoopback bool
	// SecretsEvery is how often the Secrets of a source in a database of its own are read while it
	// is used, 20 s by default.
	SecretsEvery time.Duration
}

var _ backend.Backend = Backend{}

// Open implements backend.Backend.
func (b Backend) Open(namespace string, store definition.Store) backend.Access {
	return &access{Backend: b, namespace: namespace, use: definition.UseStore, database: store.Postgres.Database, schema: store.Postgres.Schema}
}

// access leads to a database by the Secrets of a namespace.
type access struct {
	Backend
	namespace string
	use       definition.DatabaseUse
	database  definition.Database
	schema    string // of Sluice's tables, in a store
	connected atomic.Pointer[place]
}

// place is a target with what its Secrets contained.
type place struct {
	access *access
	target postgres.Target
	digest string
}

// Find implements backend.Access.
func (a *access) Find(ctx context.Context) (backend.Place, error) {
	found, err := a.find(ctx)
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (a *access) find(ctx context.Context) (*place, error) {
	digest, secrets := sha256.New(), a.Secrets(a.namespace)
	target, err := connection.Target(ctx, a.use, a.database, func(ctx context.Context, name, key string) ([]byte, error) {
		value, err := secrets(ctx, name, key)
		fmt.Fprintf(digest, "%q %q %q\n", name, key, value)
		return value, err
	})
	if err != nil {
		return nil, err
	}
	return &place{a, target, hex.EncodeToString(digest.Sum(nil))}, nil
}

// Connected implements backend.Access.
func (a *access) Connected() backend.Place {
	if last := a.connected.Load(); last != nil {
		return last
	}
	return nil
}

// String implements backend.Place.
func (p *place) String() string {
	t := p.target
	return fmt.Sprintf("%s as %s", net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))+"/"+t.Database, t.User)
}

// Digest implements backend.Place.
func (p *place) Digest() string { return p.digest }

// Meta implements backend.Place.
func (p *place) Meta(ctx context.Context) (backend.Meta, error) {
	conn, err := postgres.Connect(ctx, p.access.options(func(context.Context) (postgres.Target, error) { return p.target, nil }))
	if err != nil {
		return backend.Meta{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) // which store it is, is known
	return metaOf(ctx, conn, p.access.schema)
}

func metaOf(ctx context.Context, conn postgres.Querier, schema string) (backend.Meta, error) {
	meta, err := postgres.Check(ctx, conn, schema)
	return backend.Meta{StoreID: meta.StoreID, Elsewhere: meta.Elsewhere}, err
}

func (a *access) options(target func(context.Context) (postgres.Target, error)) postgres.Options {
	return postgres.Options{Application: application, Keepalives: true, Dial: dialer(a.AllowLoopback), Target: target}
}

// target is that of the Secrets as they are now.
func (a *access) target(ctx context.Context) (postgres.Target, error) {
	found, err := a.find(ctx)
	if err != nil {
		return postgres.Target{}, err
	}
	a.connected.Store(found)
	return found.target, nil
}

// Connect implements backend.Access.
func (a *access) Connect(ctx context.Context) (backend.Connection, error) {
	options := a.options(a.target)
	session, err := postgres.OpenSession(ctx, options, postgres.Channel(a.schema))
	if err != nil {
		return nil, err
	}
	pool, err := postgres.Open(options)
	if err != nil {
		return nil, errors.Join(err, session.Close())
	}
	return &link{session: session, pool: pool, schema: a.schema, sources: sources{backend: a.Backend, namespace: a.namespace}}, nil
}

// link is an open connection. The session listens; everything else of the store goes over the pool.
type link struct {
	session *postgres.Session
	pool    *pgxpool.Pool
	schema  string
	sources sources
}

// HasTables implements backend.Connection.
func (l *link) HasTables(ctx context.Context) (bool, error) {
	have, err := postgres.SchemaVersion(ctx, l.session.Conn(), l.schema)
	return have > 0, err
}

// Migrate implements backend.Connection.
func (l *link) Migrate(ctx context.Context) ([]string, error) {
	return postgres.Migrate(ctx, l.session.Conn(), l.schema)
}

// Meta implements backend.Connection.
func (l *link) Meta(ctx context.Context) (backend.Meta, error) {
	return metaOf(ctx, l.pool, l.schema)
}

// Wait implements backend.Connection.
func (l *link) Wait(ctx context.Context) (string, error) {
	_, processor, err := l.session.Wait(ctx)
	return processor, err
}

// Directory implements backend.Connection.
func (l *link) Directory() backend.Directory { return postgres.NewDirectory(l.pool, l.schema) }

// Store implements backend.Connection.
func (l *link) Store() backend.Store { return postgres.NewStore(l.pool, l.schema) }

// Source implements backend.Connection.
func (l *link) Source(declared definition.Source) (backend.Source, error) {
	if declared.Postgres != nil {
		return l.sources.source(declared)
	}
	return eventspostgres.Open(l.pool, l.schema, declared), nil
}

// Close implements backend.Connection.
func (l *link) Close() error {
	l.sources.close()
	l.pool.Close()
	return l.session.Close()
}
