package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// TestAfterAResetOlderDefinitionsCannotClaim is what keeps a pod away that was frozen during the reset.
func TestAfterAResetOlderDefinitionsCannotClaim(t *testing.T) {
	ctx := context.Background()
	store, pool := declared(t, 2)
	directory := postgres.NewDirectory(pool, postgres.DefaultSchema)
	for _, id := range []string{"old", "new"} { // the numbers 1 and 2
		if err := directory.DeclareProcessor(ctx, tokenstore.Processor{Name: processor, Definition: id, Live: json.RawMessage("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	err := store.RequestReplays(ctx, processor, []tokenstore.ReplayRequest{{ID: "fix", Groups: []string{"view"}, From: tokenstore.Place{Type: tokenstore.Earliest},
		Definition: "new", State: tokenstore.ReplayWanted}})
	if err != nil {
		t.Fatal(err)
	}
	replays, err := store.Replays(ctx, processor)
	if err != nil || len(replays) != 1 {
		t.Fatalf("%+v, %v", replays, err)
	}
	before := tokens(t, store)
	owned := claim(t, store, 1, before...)
	if len(owned) != 2 {
		t.Fatalf("%d tokens claimed before the reset", len(owned))
	}
	if err := store.BeginReset(ctx, processor, replays[0]); err != nil {
		t.Fatal(err)
	}
	if err := store.Advance(ctx, []tokenstore.Advance{to(owned[0], 5)}); !errors.Is(err, tokenstore.ErrFenced) {
		t.Errorf("a batch that began before the reset: %v", err)
	}
	claimedBy := func(definition int64) int {
		var claims []tokenstore.Claim
		for _, token := range tokens(t, store) {
			claims = append(claims, tokenstore.Claim{Key: token.Key, Epoch: token.Epoch})
		}
		got, err := store.Claim(ctx, processor, 2, definition, claims)
		if err != nil {
			t.Fatal(err)
		}
		return len(got)
	}
	if n := claimedBy(2); n != 0 {
		t.Errorf("%d tokens were claimed in the middle of the reset", n)
	}
	ran := 0
	source := eventspostgres.NewSource(pool, postgres.DefaultSchema)
	err = store.Reset(ctx, processor, replays[0], source, tokenstore.Progress{}, func(uint32) {}, func(context.Context, pgx.Tx) error { ran++; return nil })
	if err != nil || ran != 1 {
		t.Fatalf("the reset ran %d times: %v", ran, err)
	}
	if n := claimedBy(1); n != 0 {
		t.Errorf("%d tokens were claimed by a definition older than the reset's", n)
	}
	if n := claimedBy(2); n != 2 {
		t.Errorf("%d tokens were claimed by the reset's own", n)
	}
	var moved *tokenstore.NotDueError
	err = store.Reset(ctx, processor, replays[0], source, tokenstore.Progress{}, func(uint32) {}, func(context.Context, pgx.Tx) error { ran++; return nil })
	if !errors.As(err, &moved) || ran != 1 {
		t.Errorf("a second reset of the same replay ran %d handlers: %v", ran-1, err)
	}
}
