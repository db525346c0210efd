package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/tokenstoretest"
)

func TestTheStoreKeepsItsPromises(t *testing.T) {
	tokenstoretest.Run(t, func(t *testing.T) tokenstoretest.Harness { return harness(t, migrated(t)) })
}

// harness gives the conformance suite a store in PostgreSQL with a table as its projection.
func harness(t testing.TB, pool *pgxpool.Pool) tokenstoretest.Harness {
	t.Helper()
	// For three seconds after the server's start everybody counts as alive.
	const ready = `SELECT pg_sleep_until(pg_postmaster_start_time() + interval '3 s')`
	for _, sql := range []string{ready, `CREATE TABLE projection (key text PRIMARY KEY, value text NOT NULL)`} {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	const put = `INSERT INTO projection VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`
	store := postgres.NewStore(pool, postgres.DefaultSchema)
	return tokenstoretest.Harness{
		Store: store, Directory: postgres.NewDirectory(pool, postgres.DefaultSchema),
		Membership: postgres.Membership{Options: optionsOf(pool), Schema: postgres.DefaultSchema},
		Queue: func(s tokenstore.Statements, rows map[string]string) error {
			for key, value := range rows {
				s.(*pgx.Batch).Queue(put, key, value)
			}
			return nil
		},
		Write: func(ctx context.Context, tx tokenstore.Tx, rows map[string]string) error {
			for key, value := range rows {
				if _, err := tx.(pgx.Tx).Exec(ctx, put, key, value); err != nil {
					return err
				}
			}
			return nil
		},
		Rows: func(ctx context.Context) (map[string]string, error) {
			rows, err := pool.Query(ctx, `SELECT key, value FROM projection`)
			if err != nil {
				return nil, err
			}
			all := map[string]string{}
			var key, value string
			_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error { all[key] = value; return nil })
			return all, err
		},
		Elapse: func(ctx context.Context, d time.Duration) error { return elapse(ctx, pool, d) },
	}
}

// elapse makes everything that the database's clock is compared with older: nobody can wait for it, or turn that clock.
func elapse(ctx context.Context, pool *pgxpool.Pool, d time.Duration) error {
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE sluice.worker SET lease_until = lease_until - $1::interval, leaving_since = leaving_since - $1::interval`, d)
	batch.Queue(`UPDATE sluice.processor SET plan_renewed_at = plan_renewed_at - $1::interval WHERE plan_renewed_at > 'epoch'`, d)
	return pool.SendBatch(ctx, batch).Close()
}

func TestTheStoreGoesInStepWithTheModel(t *testing.T) {
	tokenstoretest.Lockstep(t, harness(t, migrated(t)))
}
