package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// Schema of Sluice's tables in the benches' databases.
const Schema = postgres.DefaultSchema

// settings of the server: those of a small production server. Checkpoints are timed, so that none falls into one run and not
// into another because of what ran before.
var settings = map[string]string{
	"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
	"shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "30min", "max_connections": "200",
	"log_min_messages": "warning",
}

// Server is a PostgreSQL that a bench has for itself.
type Server struct {
	*localpostgres.Server
	dir string
}

// StartServer starts a server with new data, of the binaries that SLUICE_TEST_POSTGRES_BIN names or the machine has. Further
// settings, by name, may be nil.
func StartServer(ctx context.Context, further map[string]string) (*Server, error) {
	bin := os.Getenv("SLUICE_TEST_POSTGRES_BIN")
	if bin == "" {
		var err error
		if bin, err = localpostgres.Find(); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "sluice-bench-postgres-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the server runs as another user where this process is root
		return nil, err
	}
	set := maps.Clone(settings)
	maps.Copy(set, further)
	server, err := localpostgres.Start(ctx, localpostgres.Options{BinDir: bin, DataDir: filepath.Join(dir, "data"), Settings: set})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Server{server, dir}, nil
}

// Close stops the server and deletes its data.
func (s *Server) Close() error { return errors.Join(s.Stop(), os.RemoveAll(s.dir)) }

// NewDatabase makes a database with Sluice's schema and returns its URL and a pool for it.
func (s *Server) NewDatabase(ctx context.Context, name string) (url string, pool *pgxpool.Pool, err error) {
	url, pool, err = s.NewEmptyDatabase(ctx, name)
	if err != nil {
		return "", nil, err
	}
	err = pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		_, err := postgres.Migrate(ctx, conn.Conn(), Schema)
		return err
	})
	if err != nil {
		pool.Close()
		return "", nil, fmt.Errorf("migrating the database %s: %w", name, err)
	}
	return url, pool, nil
}

// NewEmptyDatabase makes a database and returns its URL and a pool for it.
func (s *Server) NewEmptyDatabase(ctx context.Context, name string) (url string, pool *pgxpool.Pool, err error) {
	admin, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", nil, err
	}
	_, err = admin.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	if err = errors.Join(err, admin.Close(ctx)); err != nil {
		return "", nil, fmt.Errorf("making the database %s: %w", name, err)
	}
	url = s.URL(name)
	target, err := access.FromURL(url)
	if err != nil {
		return "", nil, err
	}
	pool, err = postgres.Open(postgres.Options{Target: target, Application: "bench", MaxConns: 16})
	return url, pool, err
}
