package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

const (
	workers  = 4
	segments = 16
	patience = 5 * time.Minute // with workers to come to the end
)

// world is a database with events, and what was counted in it.
type world struct {
	options
	events          *ledger.Ledger
	catchUp, atTail []sent
}

func newWorld(ctx context.Context, server *lab.Server, o options) (*world, error) {
	events, err := ledger.Generate(ctx, server, ledger.Uniform, o.events)
	if err != nil {
		return nil, err
	}
	_, err = events.DB.Exec(ctx, "CREATE EXTENSION pg_stat_statements")
	return &world{options: o, events: events}, err
}

// groups has an SQL handler add batches up.
const groups = `  - name: %[1]s
    segments: %[2]d
    handler:
      type: SQL
      sql:
        statements:
        - eventTypes: [Booked]
          batch: |
            INSERT INTO %[1]s AS a (stream_id, events, balance, hash, first, last, late)
            SELECT stream_id, count(*), sum(amount), sum(position %% 1000003 * amount), min(position), max(position), 0
                FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM events) AS e GROUP BY stream_id ORDER BY stream_id
            ON CONFLICT (stream_id) DO UPDATE SET events = a.events + excluded.events, balance = a.balance + excluded.balance,
                hash = a.hash + excluded.hash, first = excluded.first, last = excluded.last, late = a.late + (excluded.first <= a.last)::integer
`

// round has new workers catch up, and then follow.
func (w *world) round(ctx context.Context, table string) (err error) {
	if _, err := w.events.DB.Exec(ctx, fmt.Sprintf(ledger.Projection, table)); err != nil {
		return err
	}
	p := &lab.Processor{Name: table, Groups: fmt.Sprintf(groups, table, segments), Replicas: workers, URL: w.events.URL, DB: w.events.DB}
	if err := p.Declare(ctx, progress.StartPosition{Type: progress.Earliest}); err != nil {
		return err
	}
	if err := w.reset(ctx); err != nil {
		return err
	}
	running, err := p.StartWorkers(workers)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, running.Logs())
		}
		err = errors.Join(err, running.Close(), p.Drop(context.WithoutCancel(ctx)))
	}()
	began := time.Now()
	caught, err := w.finish(ctx, table, w.events.Events)
	if err != nil {
		return err
	}
	fmt.Printf("catching up: %s, in %s\n", caught, time.Since(began).Round(time.Millisecond))
	w.catchUp = append(w.catchUp, caught)
	if err := w.balanced(ctx, table); err != nil {
		return err
	}
	if err := w.reset(ctx); err != nil {
		return err
	}
	appended, err := w.appendEvents(ctx)
	if err != nil {
		return err
	}
	w.events.Events += appended
	followed, err := w.finish(ctx, table, appended)
	if err != nil {
		return err
	}
	fmt.Printf("at the tail: %s\n", followed)
	w.atTail = append(w.atTail, followed)
	return nil
}

// finish waits until all events have been handled, and returns what was sent by then. The projection has to be right.
func (w *world) finish(ctx context.Context, table string, events int64) (sent, error) {
	err := w.until(ctx, "all events to be handled", "SELECT coalesce(sum(events), 0) >= $1 FROM "+table, w.events.Events)
	if err != nil {
		return sent{}, err
	}
	s, err := w.sent(ctx)
	if err != nil {
		return sent{}, err
	}
	s.of = events
	return s, w.events.Verify(ctx, table, 0)
}

// balanced waits until each worker has its share of the segments.
func (w *world) balanced(ctx context.Context, group string) error {
	return w.until(ctx, "the segments to be shared", `SELECT count(*) = $2 AND bool_and(n = $3) FROM (
		SELECT owner, count(*) AS n FROM sluice.token WHERE group_name = $1 AND owner <> 0 GROUP BY owner) AS o`, group, workers, segments/workers)
}

// until waits for a query that returns true.
func (w *world) until(ctx context.Context, what, query string, args ...any) error {
	deadline := time.Now().Add(patience)
	for {
		var holds bool
		if err := w.events.DB.QueryRow(ctx, query, args...).Scan(&holds); err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if holds {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s", patience, what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// appendEvents appends at a steady rate, by four writers, each to streams of its own, and returns how many.
func (w *world) appendEvents(ctx context.Context) (int64, error) {
	const writers = 4
	log := eventspostgres.NewLog(w.events.DB, lab.Schema)
	total := int(float64(w.rate) * w.duration.Seconds())
	began := time.Now()
	failed := make([]error, writers)
	var running sync.WaitGroup
	for writer := range writers {
		running.Go(func() {
			for i := writer; i < total && failed[writer] == nil; i += writers {
				time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(w.rate))))
				_, failed[writer] = log.Append(ctx, fmt.Sprintf("tail-%d", i%1000), eventspostgres.Any,
					eventspostgres.NewEvent{Type: "Booked", Data: map[string]int{"amount": 1 + i%1000}})
			}
		})
	}
	running.Wait()
	return int64(total), errors.Join(append(failed, log.Close())...)
}
