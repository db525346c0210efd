package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/tokenstoretest"
)

// TestAResetThatWasEndedMeanwhileDoesNotCommit ends it while its handlers run, as another worker
// does when it is cancelled.
func TestAResetThatWasEndedMeanwhileDoesNotCommit(t *testing.T) {
	ctx := t.Context()
	_, pool := declaredProcessor(t)
	store := postgres.NewStore(pool, postgres.DefaultSchema)
	const group = "view"
	start := func(string) (progress.Progress, error) { return tokenstoretest.At(7), nil }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(store.Declare(ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: group, Segments: 1}}, nil, start))
	must(store.RequestReplays(ctx, processor, []tokenstore.ReplayRequest{{ID: "x", Groups: []string{group}, From: progress.StartPosition{Type: progress.Earliest},
		Definition: "one", State: tokenstore.ReplayWanted}}))
	all, err := store.Replays(ctx, processor)
	must(err)
	must(store.BeginReset(ctx, processor, all[0]))
	conn, err := store.ConnectApart(ctx)
	must(err)
	defer conn.Close(ctx)
	err = store.Reset(ctx, conn, processor, all[0], tokenstoretest.Line{}, tokenstoretest.At(0), postgres.ResetCall{Handlers: func(ctx context.Context, tx pgx.Tx) error {
		return store.EndReset(ctx, all[0], tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile, "enough")
	}})
	var moved *tokenstore.NotDueError
	if !errors.As(err, &moved) || moved.Reason != tokenstore.ReplayMoved {
		t.Errorf("the reset: %v, want a NotDueError: %s", err, tokenstore.ReplayMoved)
	}
	tokens, err := store.Tokens(ctx, processor)
	must(err)
	for _, token := range tokens {
		if token.Group == group && token.Parts[0].Progress.Position != 7 {
			t.Errorf("%+v", token)
		}
	}
	if all, err = store.Replays(ctx, processor); err != nil || all[0].Phase != tokenstore.ReplayCancelled {
		t.Errorf("%+v, %v", all, err)
	}
}
