package postgres

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore"
)

// No statement that users' code can queue ends its transaction: those are refused before they are
// sent. So this test sends the fence itself, in the transaction that a batch begins and in others.
func TestTheFenceOfQueuedStatementsKnowsItsTransaction(t *testing.T) {
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := Migrate(ctx, conn, DefaultSchema); err != nil {
		t.Fatal(err)
	}
	store := NewStore(nil, DefaultSchema)
	start := openingOf(nil).marked(deferrable)
	for name, c := range map[string]struct {
		before string
		passes bool
	}{
		"the transaction of the batch": {start.text(), true},
		"another one":                  {start.text() + "; rollback; begin", false},
		"a chained one":                {start.text() + "; savepoint a; rollback; begin isolation level read committed", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := conn.Exec(ctx, c.before, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Fatal(err)
			}
			defer conn.Exec(ctx, "rollback") //nolint:errcheck // nothing rests on it
			batch := &pgx.Batch{}
			store.queueFence(batch, nil, start)
			err := fenced(conn.SendBatch(ctx, batch).Close())
			if passed := err == nil; passed != c.passes || !passed && !errors.Is(err, tokenstore.ErrManagedTransaction) {
				t.Errorf("the fence says: %v", err)
			}
		})
	}
}
