package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/segment"
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
	err := store.Declare(context.Background(), processor, []tokenstore.Group{{Name: "view", Segments: segments}}, nil, fromTheStart)
	if err != nil {
		t.Fatal(err)
	}
	return store, pool
}

func fromTheStart(string) (tokenstore.Progress, error) { return tokenstore.Progress{}, nil }

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
		Parts: []tokenstore.Part{{Segment: token.Range(), Progress: tokenstore.Progress{Position: position, Snapshot: "1:1:"}}}}
}

func TestOfTwoClaimsOfOneEpochOneWins(t *testing.T) {
	store, _ := declared(t, 4)
	all := tokens(t, store)
	if len(all) != 4 {
		t.Fatalf("%d tokens, want 4", len(all))
	}
	if got := claim(t, store, 1, all...); len(got) != 4 || got[0].Owner != 1 || got[0].Epoch != all[0].Epoch+1 {
		t.Fatalf("first claim: %+v", got)
	}
	if got := claim(t, store, 2, all...); len(got) != 0 {
		t.Fatalf("second claim of the same epochs: %+v", got)
	}
}

func TestABatchOfAFormerOwnerIsUndone(t *testing.T) {
	store, pool := declared(t, 1)
	ctx := context.Background()
	if _, err := pool.Exec(ctx, "CREATE TABLE applied (worker int)"); err != nil {
		t.Fatal(err)
	}
	old := claim(t, store, 1, tokens(t, store)...)[0]
	claim(t, store, 2, tokens(t, store)...)
	err := store.Pipeline(ctx, []tokenstore.Advance{to(old, 10)}, func(b *pgxBatch) error { b.Queue("INSERT INTO applied VALUES (1)"); return nil })
	if !errors.Is(err, tokenstore.ErrFenced) {
		t.Fatalf("the former owner's batch: %v, want ErrFenced", err)
	}
	err = store.InTx(ctx, []tokenstore.Advance{to(old, 10)}, func(tx pgxTx) error {
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

func TestABatchSentTwiceIsAppliedOnce(t *testing.T) {
	store, _ := declared(t, 1)
	token := claim(t, store, 1, tokens(t, store)...)[0]
	if err := store.Advance(context.Background(), []tokenstore.Advance{to(token, 10)}); err != nil {
		t.Fatal(err)
	}
	if err := store.Advance(context.Background(), []tokenstore.Advance{to(token, 10)}); !errors.Is(err, tokenstore.ErrFenced) {
		t.Fatalf("the same batch again: %v, want ErrFenced", err)
	}
}

func TestAMergeOfUnequalHalvesKeepsBothAndASplitGivesThemBack(t *testing.T) {
	store, _ := declared(t, 2)
	ctx := context.Background()
	both := claim(t, store, 1, tokens(t, store)...)
	if err := store.Advance(ctx, []tokenstore.Advance{to(both[0], 10), to(both[1], 20)}); err != nil {
		t.Fatal(err)
	}
	if err := store.Merge(ctx, "view", segment.Segment{ID: 0, Mask: 1}); err != nil {
		t.Fatal(err)
	}
	merged := tokens(t, store)
	if len(merged) != 1 || len(merged[0].Parts) != 2 || merged[0].Parts[0].Progress.Position != 10 || merged[0].Parts[1].Progress.Position != 20 {
		t.Fatalf("merged: %+v", merged)
	}
	if merged[0].Epoch <= both[0].Epoch || merged[0].Owner != 0 {
		t.Fatalf("the merged token has epoch %d and owner %d", merged[0].Epoch, merged[0].Owner)
	}
	if err := store.Merge(ctx, "view", segment.Segment{ID: 0, Mask: 1}); !errors.Is(err, tokenstore.ErrLayoutChanged) {
		t.Fatalf("merging again: %v", err)
	}
	if err := store.Split(ctx, "view", segment.Root); err != nil {
		t.Fatal(err)
	}
	halves := tokens(t, store)
	if len(halves) != 2 || len(halves[0].Parts) != 1 || halves[0].Parts[0].Progress.Position != 10 || halves[1].Parts[0].Progress.Position != 20 {
		t.Fatalf("split: %+v", halves)
	}
	if err := store.Advance(ctx, []tokenstore.Advance{to(both[1], 30)}); !errors.Is(err, tokenstore.ErrFenced) {
		t.Fatalf("an owner from before the merge: %v", err)
	}
}

func TestEpochsGoOnAfterADropAndANewDeclaration(t *testing.T) {
	store, _ := declared(t, 1)
	ctx := context.Background()
	old := claim(t, store, 1, tokens(t, store)...)[0]
	if err := store.Drop(ctx, processor); err != nil {
		t.Fatal(err)
	}
	if err := store.Declare(ctx, processor, []tokenstore.Group{{Name: "view", Segments: 1}}, nil, fromTheStart); err != nil {
		t.Fatal(err)
	}
	if now := tokens(t, store)[0]; now.Epoch <= old.Epoch || now.Version <= old.Version {
		t.Fatalf("epoch %d and version %d came after %d and %d", now.Epoch, now.Version, old.Epoch, old.Version)
	}
}

func TestAGroupOfAnotherLiveProcessorIsRefused(t *testing.T) {
	store, pool := declared(t, 1)
	ctx := context.Background()
	directory := postgres.NewDirectory(pool, postgres.DefaultSchema)
	if err := directory.Register(ctx, processor, tokenstore.Worker{Incarnation: 1, Nonce: nonce, Pod: "a", Handlers: []string{}}); err != nil {
		t.Fatal(err)
	}
	err := store.Declare(ctx, "test/default/other", []tokenstore.Group{{Name: "view", Segments: 1}}, nil, fromTheStart)
	var conflict *tokenstore.GroupConflictError
	if !errors.As(err, &conflict) || conflict.Owner != processor {
		t.Fatalf("declaring a group of another processor: %v", err)
	}
	if err := store.Declare(ctx, processor, nil, nil, fromTheStart); err != nil {
		t.Fatal(err)
	}
	if err := store.Declare(ctx, "test/default/other", []tokenstore.Group{{Name: "view", Segments: 1}}, nil, fromTheStart); err != nil {
		t.Fatalf("declaring a retired group: %v", err)
	}
}
