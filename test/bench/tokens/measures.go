package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// claimThousand claims a thousand segments by one statement, and releases them by one.
func claimThousand(ctx context.Context, w *world, table *summary) error {
	if err := w.declare(ctx, 1000); err != nil {
		return err
	}
	tokens, err := w.store.Tokens(ctx, processor)
	if err != nil {
		return err
	}
	claims := make([]tokenstore.Claim, len(tokens))
	for i, t := range tokens {
		claims[i] = tokenstore.Claim{Key: t.Key, Epoch: t.Epoch, Sequencing: t.Sequencing}
	}
	began := time.Now()
	got, err := w.store.Claim(ctx, processor, 1, 1, claims)
	took := time.Since(began)
	if err != nil {
		return err
	}
	if len(got) != 1000 {
		return fmt.Errorf("%d of 1,000 segments were claimed", len(got))
	}
	table.seconds("1,000 segments claimed by one statement", 0, took.Seconds())
	return nil
}

// ownAll has workers come to a group that nobody owns, and kills one.
func ownAll(ctx context.Context, w *world, table *summary) error {
	if err := w.declare(ctx, w.segments); err != nil {
		return err
	}
	began := time.Now()
	if err := w.start(); err != nil {
		return err
	}
	took, err := w.until(ctx, began, `SELECT bool_and(owner <> 0) FROM sluice.token`)
	if err != nil {
		return err
	}
	table.seconds(fmt.Sprintf("%d segments owned, from the workers' start", w.segments), 5, took)
	// Whoever comes late is given a share of the hash space, but for a segment of the larger size.
	took, err = w.until(ctx, began, `SELECT count(*) = $1 AND max(share) - min(share) <= (SELECT max(32768 / (mask + 1)) FROM sluice.token)
		FROM (SELECT sum(32768 / (mask + 1)) AS share FROM sluice.token WHERE owner <> 0 GROUP BY owner) AS shares`, w.options.workers)
	if err != nil {
		return err
	}
	table.seconds(fmt.Sprintf("… and shared evenly by %d workers", w.options.workers), 5, took)
	atRest, err := w.cpu(ctx, 10*time.Second)
	if err != nil {
		return err
	}
	table.add("CPU of a worker at rest, of one core", "%", 0, false, 100*atRest)
	var victim int64
	if err := w.pool.QueryRow(ctx, `SELECT incarnation FROM sluice.worker WHERE pod = 'worker-1'`).Scan(&victim); err != nil {
		return err
	}
	began = time.Now()
	if err := w.workers[1].Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	if took, err = w.until(ctx, began, `SELECT bool_and(owner NOT IN (0, $1)) FROM sluice.token`, victim); err != nil {
		return err
	}
	table.seconds("all owned again, from a worker's SIGKILL", 5, took)
	return nil
}

// reshape goes from one segment to the largest number and back, with a planner alone, and then with workers, which plan by themselves and
// own what there is.
func reshape(ctx context.Context, w *world, table *summary) error {
	p := planner.Planner{Directory: postgres.NewDirectory(w.pool, postgres.DefaultSchema), Store: w.store, Processor: processor, Name: "bench"}
	alone := func(to int) error {
		for segments := 0; segments != to; {
			outcome, err := p.Step(ctx)
			if err != nil {
				return err
			}
			segments = len(outcome.Tokens)
		}
		return nil
	}
	owned := func(to int) error {
		_, err := w.until(ctx, time.Now(), `SELECT count(*) = $1 AND bool_and(owner <> 0) FROM sluice.token`, to)
		return err
	}
	if err := w.declare(ctx, 1); err != nil {
		return err
	}
	for _, way := range []struct {
		by   string
		wait func(to int) error
	}{{"by a planner alone", alone}, {fmt.Sprintf("with %d workers, until all are owned", w.options.workers), owned}} {
		for _, to := range []int{segment.MaxSegments, 1} {
			began := time.Now()
			if err := w.declare(ctx, to); err != nil {
				return err
			}
			if err := way.wait(to); err != nil {
				return err
			}
			table.seconds(fmt.Sprintf("%d segments from %d, a transaction a step, %s", to, segment.MaxSegments+1-to, way.by), 0, time.Since(began).Seconds())
		}
		if len(w.workers) == 0 {
			if err := errors.Join(w.start(), owned(1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// hotShare lets batches run on a tenth of the segments, and looks how the token table was updated.
func hotShare(ctx context.Context, w *world, table *summary) error {
	const streams = 20_000
	segments := w.segments / 10
	if err := w.declare(ctx, segments); err != nil {
		return err
	}
	if err := w.start(); err != nil {
		return err
	}
	if _, err := w.until(ctx, time.Now(), `SELECT count(DISTINCT owner) = $1 AND bool_and(owner <> 0) FROM sluice.token`, w.options.workers); err != nil {
		return err
	}
	before, err := w.updates(ctx)
	if err != nil {
		return err
	}
	events, began := 0, time.Now()
	for ; time.Since(began) < w.load; events += 500 {
		_, err := w.pool.Exec(ctx, `INSERT INTO sluice.event (stream_id, version, type, data)
			SELECT 's' || (n + $1) % $2, 1 + (n + $1) / $2, 'Counted', '{}' FROM generate_series(0, 499) n`, events, streams)
		if err != nil {
			return err
		}
	}
	if _, err := w.until(ctx, time.Now(), `SELECT coalesce(sum(events), 0) = $1 FROM handled`, events); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := w.updates(ctx)
	if err != nil {
		return err
	}
	all, hot := after.all-before.all, after.hot-before.hot
	if all < int64(segments) {
		return fmt.Errorf("vacuous: %d updates of tokens", all)
	}
	table.add(fmt.Sprintf("heap-only updates of tokens, batches on %d segments for %s", segments, w.load), "%", 95, true, 100*float64(hot)/float64(all))
	table.add("updates of tokens meanwhile, a second", "", 0, false, float64(all)/took.Seconds())
	return nil
}

type updates struct{ all, hot int64 }

// updates reads the token table's counters, which backends deliver when they are idle.
func (w *world) updates(ctx context.Context) (u updates, err error) {
	const settled = 1500 * time.Millisecond // backends deliver at most once a second
	select {
	case <-ctx.Done():
		return u, ctx.Err()
	case <-time.After(settled):
	}
	err = w.pool.QueryRow(ctx, `SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'sluice.token'::regclass`).Scan(&u.all, &u.hot)
	if err != nil {
		return u, fmt.Errorf("reading counters: %w", err)
	}
	return u, nil
}
