package postgres_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

type (
	pgxBatch = pgx.Batch
	pgxTx    = pgx.Tx
)

const nonce = "4e6f6e63-6520-4f66-2054-657374732121"

func declaredProcessor(t *testing.T) (*postgres.Directory, *pgxpool.Pool) {
	t.Helper()
	pool := migrated(t)
	d := postgres.NewDirectory(pool, postgres.DefaultSchema)
	declare(t, d, "one")
	return d, pool
}

func declare(t *testing.T, d *postgres.Directory, definition string) {
	t.Helper()
	err := d.DeclareProcessor(context.Background(), tokenstore.Processor{Name: processor, Definition: definition, Replicas: 3, Live: json.RawMessage(`{"a": 1}`)})
	if err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, d *postgres.Directory) tokenstore.View {
	t.Helper()
	v, err := d.View(context.Background(), processor)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func worker(incarnation int64) tokenstore.Worker {
	return tokenstore.Worker{Incarnation: incarnation, Nonce: nonce, Pod: "pod", Definition: "one", Handlers: []string{}, Version: "v", Protocol: 1, State: tokenstore.Active}
}

func optionsOf(pool *pgxpool.Pool) postgres.Options {
	return postgres.Options{Target: func(context.Context) (postgres.Target, error) {
		conn, err := pool.Acquire(context.Background())
		if err != nil {
			return postgres.Target{}, err
		}
		defer conn.Release()
		c := conn.Conn().Config()
		return postgres.Target{Host: c.Host, Port: c.Port, Database: c.Database, User: c.User}, nil
	}}
}

func register(t *testing.T, d *postgres.Directory, w tokenstore.Worker) {
	t.Helper()
	if err := d.Register(context.Background(), processor, w); err != nil {
		t.Fatal(err)
	}
}
