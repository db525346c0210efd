package dev

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// ErrNoSourceURL says that a manifest's events are in a database that nobody has named.
var ErrNoSourceURL = errors.New("spec.source.postgres says that the events are in another database than the store:" +
	" set --source-url or SLUICE_SOURCE_URL to that database, as postgres://user:password@host:port/database")

// separateSource is a database with the events that is not the store's.
type separateSource struct {
	target access.Target
	pool   *pgxpool.Pool
	schema string // of Sluice's own event table there
	own    bool   // that is what the processor reads
}

func openSource(url string, declared definition.Source) (*separateSource, error) {
	target, err := access.SourceFromURL(url)
	if err != nil {
		return nil, fmt.Errorf("--source-url: %w", err)
	}
	pool, err := postgres.Open(postgres.Options{Target: target, Application: "sluice dev"})
	if err != nil {
		return nil, err
	}
	return &separateSource{target, pool, declared.Postgres.Schema, declared.Table == nil}, nil
}

// sameSource refuses a manifest whose events are elsewhere than those of the first one. The API
// server does so in a cluster.
func (r *runner) sameSource(declared definition.Source) error {
	same := (declared.Postgres != nil) == (r.source != nil)
	if same && r.source != nil {
		same = declared.Postgres.Schema == r.source.schema
	}
	if !same {
		return errors.New("spec.source.postgres is not added or taken away, and its schema does not change, while sluice dev runs: start it again")
	}
	return nil
}

// source is what declaring a processor needs of one.
type source interface {
	eventsource.Checker
	Start(ctx context.Context, at progress.StartPosition) (progress.Progress, error)
}

// openSource returns the source that a manifest declares.
func (r *runner) openSource(declared definition.Source) source {
	if r.source == nil {
		return eventspostgres.Open(r.pool, r.schema, declared)
	}
	return eventspostgres.OpenSeparate(r.source.pool, r.source.schema, declared)
}

// ofSource says of an error that it is the source's database's, if it has one.
func (r *runner) ofSource(err error) error {
	if err == nil || r.source == nil {
		return err
	}
	return fmt.Errorf("the source's database: %w", err)
}

// sourceTarget is the way to the source's database, for workers.
func (r *runner) sourceTarget(definition.SourcePostgres) (backend.Target, error) {
	if r.source == nil {
		return nil, ErrNoSourceURL
	}
	return r.source.target, nil
}

// events is where Sluice's own event table is that the processor reads, or would read.
func (r *runner) events() (*pgxpool.Pool, string) {
	if r.appendsToSource() {
		return r.source.pool, r.source.schema
	}
	return r.pool, r.schema
}

// appendsToSource reports whether Sluice's own event table is in a database that is not the
// store's.
func (r *runner) appendsToSource() bool { return r.source != nil && r.source.own }

// sourceURL is that of the source's database; empty if it is the store's.
func (r *runner) sourceURL() string {
	if r.source == nil {
		return ""
	}
	return r.options.SourceURL
}
