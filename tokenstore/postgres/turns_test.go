package postgres_test

import (
	"testing"

	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// turns are a worker's, with the name by which the server knows it.
func turns(t *testing.T, o postgres.Options, application string) *postgres.Turns {
	t.Helper()
	o.Application = application
	all := postgres.NewTurns(o, postgres.DefaultSchema, 2)
	t.Cleanup(func() { all.Close() }) // the server may have ended it
	return all
}

func takes(t *testing.T, turns *postgres.Turns, want bool) {
	t.Helper()
	if got, err := turns.Take(t.Context()); err != nil || got != want {
		t.Fatalf("got a turn: %t, %v, want %t", got, err, want)
	}
}

// TestAStoreHasSoManyTurns takes turns, gives them back, and has a holder die.
func TestAStoreHasSoManyTurns(t *testing.T) {
	pool := migrated(t)
	o := optionsOf(pool)
	a, b, c := turns(t, o, "turns-a"), turns(t, o, "turns-b"), turns(t, o, "turns-c")
	takes(t, a, true)
	takes(t, b, true)
	takes(t, c, false)
	if err := a.Give(t.Context()); err != nil {
		t.Fatal(err)
	}
	takes(t, c, true)
	takes(t, a, false)
	count(t, pool, 1, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'turns-b'`)
	count(t, pool, 0, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'turns-b'`)
	takes(t, a, true)
	if err := b.Give(t.Context()); err == nil {
		t.Error("a turn was given back by a connection that is gone")
	}
	takes(t, b, false) // by another connection
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	count(t, pool, 0, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'turns-c'`)
	takes(t, b, true)
}
