package command

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/dev"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const databaseURLVariable = "SLUICE_DATABASE_URL"

// databaseFlags say which store a command is for.
type databaseFlags struct{ url, schema string }

func (f *databaseFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.url, "database-url", os.Getenv(databaseURLVariable), "the store, as postgres://user:password@host:port/database ("+databaseURLVariable+"); by default that of the sluice dev that runs in this folder")
	cmd.Flags().StringVar(&f.schema, "schema", postgres.DefaultSchema, "schema of Sluice's tables")
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

// open connects, and checks that the store can be used.
func (f *databaseFlags) open(ctx context.Context) (*pgxpool.Pool, error) {
	pool, err := f.connect(ctx)
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
