package command

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/dev"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const (
	databaseURLVariable = "SLUICE_DATABASE_URL"
	sourceURLVariable   = "SLUICE_SOURCE_URL"
)

// databaseFlags say which store a command is for, and which database with events if that is another
// one.
type databaseFlags struct{ url, schema, source string }

func (f *databaseFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.url, "database-url", os.Getenv(databaseURLVariable), "the store, as postgres://user:password@host:port/database ("+databaseURLVariable+"); by default that of the sluice dev that runs in this folder")
	cmd.Flags().StringVar(&f.schema, "schema", postgres.DefaultSchema, "schema of Sluice's tables")
}

// addSource adds the flag for commands that use the events of a processor.
func (f *databaseFlags) addSource(cmd *cobra.Command, help string) {
	cmd.Flags().StringVar(&f.source, "source-url", os.Getenv(sourceURLVariable), help+" ("+sourceURLVariable+")")
}

// eventsTarget is the way to the database with the events: that of the source, if one is given, or
// the store's.
func (f *databaseFlags) eventsTarget() (access.Target, error) {
	url := f.source
	if url == "" && f.url == "" {
		var err error
		if url, err = dev.RunningSourceURL(""); err != nil {
			return nil, err
		}
	}
	if url == "" {
		return f.target()
	}
	return sourceTarget(url)
}

// targetOf is the way to the database with the table of a manifest's source.
func (f *databaseFlags) targetOf(source definition.Source) (access.Target, error) {
	switch {
	case source.Postgres == nil:
		return f.target()
	case f.source == "":
		return nil, &usageError{dev.ErrNoSourceURL}
	}
	return sourceTarget(f.source)
}

func sourceTarget(url string) (access.Target, error) {
	target, err := access.SourceFromURL(url)
	if err != nil {
		return nil, fmt.Errorf("--source-url: %w", err)
	}
	return target, nil
}

// target is the way to the store.
func (f *databaseFlags) target() (access.Target, error) {
	url := f.url
	if url == "" {
		var err error
		if url, err = dev.RunningURL(""); err != nil {
			return nil, &usageError{err}
		}
	}
	return access.FromURL(url)
}

// openEvents connects to the database with the events, and checks that it has Sluice's own table.
func (f *databaseFlags) openEvents(ctx context.Context) (*pgxpool.Pool, error) {
	target, err := f.eventsTarget()
	if err != nil {
		return nil, err
	}
	pool, err := connect(ctx, target)
	if err != nil {
		return nil, err
	}
	if err := f.checkTable(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

func (f *databaseFlags) connect(ctx context.Context) (*pgxpool.Pool, error) {
	target, err := f.target()
	if err != nil {
		return nil, err
	}
	return connect(ctx, target)
}

func connect(ctx context.Context, target access.Target) (*pgxpool.Pool, error) {
	pool, err := postgres.Open(postgres.Options{Target: target, Application: "sluice"})
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connecting to the database: %w", err)
	}
	if err := access.CheckEncoding(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// checkTable does not need the privileges of a worker: who appends may have few.
func (f *databaseFlags) checkTable(ctx context.Context, pool *pgxpool.Pool) error {
	var there bool
	err := pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'event')", f.schema).Scan(&there)
	if err != nil {
		return fmt.Errorf("looking for the event table: %w", err)
	}
	if !there {
		return errors.New("schema " + f.schema + " has no event table: run `sluice migrate` with this database, or correct --schema")
	}
	return nil
}
