package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/test/bench/ledger"
)

// The loops written by hand: read a page above the token, and apply it in one transaction with the token's move. They are no
// more than a limit to compare with: they would lose the events of a writer that commits late, and two of them would do everything twice.

// loopPage is the size of their pages; larger ones were not faster.
const loopPage = 10_000

// inDatabase leaves everything to one statement: no event leaves the server.
const inDatabase = `
WITH page AS MATERIALIZED (
  SELECT position, stream_id, (data ->> 'amount')::bigint AS amount FROM sluice.event
   WHERE position > $1 AND (slice & $4) = $2 ORDER BY position LIMIT $3
), token AS (
  UPDATE bench_token SET position = (SELECT max(position) FROM page) WHERE worker = $2 AND position = $1 AND EXISTS (SELECT FROM page)
), applied AS (
  INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
  SELECT stream_id, count(*), sum(amount), sum(position %% 1000003 * amount), min(position), max(position), 0 FROM page GROUP BY 1
  ` + ledger.OnConflict + `
)
SELECT count(*), coalesce(max(position), 0) FROM page`

// loopInDatabase runs workers of which each takes an equal share of the slices.
func loopInDatabase(workers int) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		sql := fmt.Sprintf(inDatabase, r.table)
		return r.loops(ctx, workers, func(ctx context.Context, conn *pgx.Conn, worker int) error {
			position, count := int64(0), int64(loopPage)
			for count == loopPage {
				err := conn.QueryRow(ctx, sql, position, worker, loopPage, workers-1).Scan(&count, &position)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// loopInGo reads what the projection needs, adds it up in memory and writes it as one set.
func loopInGo(workers int) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		upsert := fmt.Sprintf(ledger.Set, r.table)
		return r.loops(ctx, workers, func(ctx context.Context, conn *pgx.Conn, worker int) error {
			for position := int64(0); ; {
				f := ledger.NewFold()
				rows, err := conn.Query(ctx, `SELECT position, stream_id, data FROM sluice.event WHERE position > $1 AND (slice & $4) = $2 ORDER BY position LIMIT $3`,
					position, worker, loopPage, workers-1)
				if err != nil {
					return err
				}
				before := position
				for rows.Next() {
					v := rows.RawValues()
					position = integer(v[0])
					if err := f.Add(position, v[1], v[2]); err != nil {
						return err
					}
				}
				if rows.Err() != nil || f.Count == 0 {
					return rows.Err()
				}
				// Statements that are sent together are one transaction.
				batch := &pgx.Batch{}
				batch.Queue(upsert, f.Columns()...)
				batch.Queue("UPDATE bench_token SET position = $1 WHERE worker = $2 AND position = $3", position, worker, before)
				if err := conn.SendBatch(ctx, batch).Close(); err != nil {
					return err
				}
				if f.Count < loopPage {
					return nil
				}
			}
		})
	}
}

// loops runs workers, each on a connection of its own, on a new projection, and checks what they have made.
func (r *run) loops(ctx context.Context, workers int, work func(ctx context.Context, conn *pgx.Conn, worker int) error) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	for _, sql := range []string{"DROP TABLE IF EXISTS bench_token", "CREATE TABLE bench_token (worker integer PRIMARY KEY, position bigint NOT NULL) WITH (fillfactor = 25)",
		fmt.Sprintf("INSERT INTO bench_token SELECT i, 0 FROM generate_series(0, %d) AS i", workers-1)} {
		if _, err := r.DB.Exec(ctx, sql); err != nil {
			return err
		}
	}
	conns := make([]*pgx.Conn, workers)
	for i := range conns {
		conn, err := r.DB.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		conns[i] = conn.Conn()
		// Planned for its parameters, a page takes a scan of the whole table: too few rows seem to be of the slices that are asked for.
		if _, err := conn.Exec(ctx, "SET plan_cache_mode = force_generic_plan"); err != nil {
			return err
		}
	}
	err := r.time(func() error {
		failed := make([]error, workers)
		var running sync.WaitGroup
		for i, conn := range conns {
			running.Go(func() { failed[i] = work(ctx, conn, i) })
		}
		running.Wait()
		return errors.Join(failed...)
	})
	if err != nil {
		return err
	}
	return r.Verify(ctx, r.table, 0)
}
