package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

const (
	// sourceConnections is how many connections a session has to one database with events: one
	// reads the lag, and one may look for where a group starts.
	sourceConnections = 2
	secretsEvery      = 20 * time.Second
)

// sources are the databases with events that the processors of a session use beside the store.
// Those that nobody uses any more have no connections: idle ones are closed after a while.
type sources struct {
	backend   Backend
	namespace string

	mu   sync.Mutex
	open map[string]*sourceDatabase // by how they are reached, as JSON
}

// source returns a source that a spec declares, in the database that it names.
func (s *sources) source(declared definition.Source) (backend.Source, error) {
	database, err := s.database(declared.Postgres.Database)
	if err != nil {
		return nil, err
	}
	return &separate{eventspostgres.OpenSeparate(database.pool, declared.Postgres.Schema, declared), database}, nil
}

func (s *sources) database(reached definition.Database) (*sourceDatabase, error) {
	key, err := json.Marshal(reached)
	if err != nil {
		return nil, fmt.Errorf("opening the source's database: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.open[string(key)]; known != nil {
		return known, nil
	}
	database := &sourceDatabase{access: &access{Backend: s.backend, namespace: s.namespace, use: definition.UseSource, database: reached}}
	options := database.access.options(database.access.target)
	options.MaxConns = sourceConnections
	if database.pool, err = postgres.Open(options); err != nil {
		return nil, fmt.Errorf("opening the source's database: %w", err)
	}
	if s.open == nil {
		s.open = map[string]*sourceDatabase{}
	}
	s.open[string(key)] = database
	return database, nil
}

func (s *sources) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, database := range s.open {
		database.pool.Close()
	}
}

// sourceDatabase is a database with events, by connections of the operator's own.
type sourceDatabase struct {
	access *access
	pool   *pgxpool.Pool

	mu       sync.Mutex
	looked   time.Time // when the Secrets were read last, for connections that are open
	unusable error     // what was wrong with them then
}

// renew looks whether the Secrets are those that the connections were opened with. If they are not,
// it closes the connections. Otherwise a Secret that was changed to something unusable would show
// at the next new connection only, such as that of a new pod.
func (d *sourceDatabase) renew(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.access.connected.Load()
	if last == nil || time.Since(d.looked) < cmp.Or(d.access.SecretsEvery, secretsEvery) {
		return d.unusable
	}
	found, err := d.access.find(ctx)
	var missing *connection.SecretNotFoundError
	var invalid *connection.InvalidError
	switch {
	case errors.As(err, &missing), errors.As(err, &invalid):
		d.unusable = err
	case err != nil: // of the API server, which says nothing about the Secrets
	default:
		d.unusable = nil
		if found.digest != last.digest {
			d.pool.Reset()
		}
	}
	d.looked = time.Now()
	return d.unusable
}

// failed says of an error that it is the source's database's. What was found in a database that
// answers is left as it is.
func (d *sourceDatabase) failed(err error) error {
	var unfit *eventsource.InvalidError
	var start *eventsource.StartPositionError
	if err == nil || errors.As(err, &unfit) || errors.As(err, &start) {
		return err
	}
	of := &backend.SourceError{Err: err}
	if last := d.access.connected.Load(); last != nil {
		of.Place = last.String()
	}
	return of
}

// separate is a source in a database of its own, whose errors say so.
type separate struct {
	*eventspostgres.Separate
	database *sourceDatabase
}

var _ backend.Source = (*separate)(nil)

func (s *separate) do(ctx context.Context, ask func() error) error {
	err := s.database.renew(ctx)
	if err == nil {
		err = ask()
	}
	return s.database.failed(err)
}

// Check implements eventsource.Checker.
func (s *separate) Check(ctx context.Context) error {
	return s.do(ctx, func() error { return s.Separate.Check(ctx) })
}

// Start implements eventsource.Source.
func (s *separate) Start(ctx context.Context, at progress.StartPosition) (start progress.Progress, err error) {
	err = s.do(ctx, func() (err error) {
		start, err = s.Separate.Start(ctx, at)
		return err
	})
	return start, err
}

// Waiting implements backend.Source.
func (s *separate) Waiting(ctx context.Context, after int64) (age time.Duration, waits bool, err error) {
	err = s.do(ctx, func() (err error) {
		age, waits, err = s.Separate.Waiting(ctx, after)
		return err
	})
	return age, waits, err
}
