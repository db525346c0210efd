package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const processor = "test/default/payments"

// options for connections to a test database.
func options(t testing.TB, database string) postgres.Options {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return postgres.Options{Application: "test", Target: func(context.Context) (postgres.Target, error) {
		return postgres.Target{Host: u.Hostname(), Port: uint16(port), Database: u.Path[1:], User: u.User.Username()}, nil
	}}
}

// migrated returns a pool on a new database with the schema in it.
func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	ctx := context.Background()
	o := options(t, postgrestest.New(t))
	conn, err := postgres.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if done, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil || len(done) == 0 {
		t.Fatalf("migrating: %v, %v", done, err)
	}
	if done, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil || len(done) != 0 {
		t.Fatalf("migrating again: %v, %v", done, err)
	}
	pool, err := postgres.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func declared(t testing.TB, segments int) (*postgres.Store, *pgxpool.Pool) {
	t.Helper()
	pool := migrated(t)
	store := postgres.NewStore(pool, postgres.DefaultSchema)
	err := store.Declare(context.Background(), tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "view", Segments: segments}}, nil, fromTheStart)
	if err != nil {
		t.Fatal(err)
	}
	return store, pool
}

func fromTheStart(string) (progress.Progress, error) { return progress.Progress{}, nil }

func tokens(t testing.TB, s *postgres.Store) []tokenstore.Token {
	t.Helper()
	all, err := s.Tokens(context.Background(), processor)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func claim(t testing.TB, s *postgres.Store, worker int64, of ...tokenstore.Token) []tokenstore.Token {
	t.Helper()
	var claims []tokenstore.Claim
	for _, token := range of {
		claims = append(claims, tokenstore.Claim{Key: token.Key, Epoch: token.Epoch})
	}
	got, err := s.Claim(context.Background(), processor, worker, 1, claims)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func to(token tokenstore.Token, position int64) tokenstore.Advance {
	return tokenstore.Advance{Key: token.Key, Epoch: token.Epoch, Version: token.Version,
		Parts: []progress.Part{{Segment: token.Range(), Progress: progress.Progress{Position: position, State: "1:1:"}}}}
}

func TestABatchOfAFormerOwnerIsUndone(t *testing.T) {
	store, pool := declared(t, 1)
	ctx := context.Background()
	if _, err := pool.Exec(ctx, "CREATE TABLE applied (worker int)"); err != nil {
		t.Fatal(err)
	}
	old := claim(t, store, 1, tokens(t, store)...)[0]
	claim(t, store, 2, tokens(t, store)...)
	err := store.Pipeline(ctx, []tokenstore.Advance{to(old, 10)}, func(s tokenstore.Statements) error { s.(*pgxBatch).Queue("INSERT INTO applied VALUES (1)"); return nil })
	if !errors.Is(err, tokenstore.ErrFenced) {
		t.Fatalf("the former owner's batch: %v, want ErrFenced", err)
	}
	err = store.InPgx(ctx, []tokenstore.Advance{to(old, 10)}, func(tx pgxTx) error {
		_, err := tx.Exec(ctx, "INSERT INTO applied VALUES (1)")
		return err
	})
	if !errors.Is(err, tokenstore.ErrFenced) {
		t.Fatalf("the former owner's transaction: %v, want ErrFenced", err)
	}
	var n int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM applied").Scan(&n); err != nil || n != 0 {
		t.Fatalf("%d rows of the former owner, %v", n, err)
	}
}
