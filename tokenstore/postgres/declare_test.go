package postgres_test

import (
	"context"
	"testing"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// TestAPlaceIsLookedForOutsideOfTheTransaction has the search for where a group starts see that
// nobody's transaction is open meanwhile: it may take as long as it likes.
func TestAPlaceIsLookedForOutsideOfTheTransaction(t *testing.T) {
	pool := migrated(t)
	store := postgres.NewStore(pool, postgres.DefaultSchema)
	asked := 0
	start := func(group string) (progress.Progress, error) {
		asked++
		var open int
		err := pool.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'").Scan(&open)
		if err != nil || open > 0 {
			t.Errorf("for group %s, %d transactions are open (%v)", group, open, err)
		}
		return progress.Progress{Position: 7, State: "8:8:"}, nil
	}
	groups := []tokenstore.Group{{Name: "view", Segments: 2}, {Name: "mail", Segments: 1}}
	for range 2 {
		if err := store.Declare(t.Context(), tokenstore.Owner{Processor: processor}, groups, nil, start); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 2 {
		t.Errorf("it was asked %d times where groups start, want once for each", asked)
	}
	var tokens int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM sluice.token WHERE position = 7").Scan(&tokens); err != nil || tokens != 3 {
		t.Errorf("%d tokens (%v), want 3", tokens, err)
	}
}
