package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// TestAProbeWaitsForTheDisk looks at what it has the server write, and that it is in nobody's way who renews the worker's lease.
func TestAProbeWaitsForTheDisk(t *testing.T) {
	pool := migrated(t)
	directory := postgres.NewDirectory(pool, postgres.DefaultSchema)
	register(t, directory, worker(7))
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), "UPDATE sluice.worker SET lease_until = lease_until + interval '1 s' WHERE incarnation = 7"); err != nil {
		t.Fatal(err)
	}
	var before, after int64
	if err := pool.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").Scan(&before); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := directory.Probe(ctx, 7); err != nil {
		t.Fatal(err)
	}
	if err := pool.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn").Scan(&after); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil { // the server ends those who are idle for seconds
		t.Errorf("the probe waited for who renewed the lease: %v", err)
	}
	if after <= before {
		t.Errorf("of the log %d bytes had been written before the probe, and %d were on the disk after it, want more", before, after)
	}
}
