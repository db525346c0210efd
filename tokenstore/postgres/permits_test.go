package postgres_test

import (
	"testing"

	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// permits are a worker's, with the name by which the server knows it.
func permits(t *testing.T, o postgres.Options, application string) *postgres.Permits {
	t.Helper()
	o.Application = application
	all := postgres.NewPermits(o, postgres.DefaultSchema, 2)
	t.Cleanup(func() { all.Close() }) // the server may have ended it
	return all
}

func acquires(t *testing.T, permits *postgres.Permits, want bool) {
	t.Helper()
	if got, err := permits.Acquire(t.Context()); err != nil || got != want {
		t.Fatalf("acquired a permit: %t, %v, want %t", got, err, want)
	}
}

// TestAStoreHasSoManyPermits acquires permits, releases them, and ends the connection of a holder.
func TestAStoreHasSoManyPermits(t *testing.T) {
	pool := migrated(t)
	o := optionsOf(pool)
	a, b, c := permits(t, o, "permits-a"), permits(t, o, "permits-b"), permits(t, o, "permits-c")
	acquires(t, a, true)
	acquires(t, b, true)
	acquires(t, c, false)
	if err := a.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	acquires(t, c, true)
	acquires(t, a, false)
	count(t, pool, 1, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'permits-b'`)
	count(t, pool, 0, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'permits-b'`)
	acquires(t, a, true)
	if err := b.Release(t.Context()); err == nil {
		t.Error("a permit was released by a connection that is gone")
	}
	acquires(t, b, false) // by another connection
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	count(t, pool, 0, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'permits-c'`)
	acquires(t, b, true)
}
