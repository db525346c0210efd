package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/tokenstore"
)

// one adds one event to the projection.
const one = `INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late) VALUES ($1, 1, $2, $3, $4, $4, 0) ` + onConflict

// booked is what the handlers decode of an event, as a user's would.
type booked struct {
	Amount int64 `json:"amount"`
}

func decode(event handler.Event) (booked, error) {
	var b booked
	err := json.Unmarshal(event.Data, &b)
	return b, err
}

// goHandler makes a handler that writes to a table.
type goHandler func(table string) handler.Handler

// nothing is given each event and does nothing.
func nothing(string) handler.Handler {
	return handler.Each(func(context.Context, pgx.Tx, handler.Event) error { return nil })
}

// statements sends a statement for each event and waits for its answer, as plain code does.
func statements(table string) handler.Handler {
	sql := fmt.Sprintf(one, table)
	return handler.Each(func(ctx context.Context, tx pgx.Tx, event handler.Event) error {
		b, err := decode(event)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sql, event.StreamID, b.Amount, hash(event.Position, b.Amount), event.Position)
		return err
	})
}

// queued queues a statement for each event.
func queued(table string) handler.Handler {
	sql := fmt.Sprintf(one, table)
	return handler.Queue(func(batch *pgx.Batch, events []handler.Event) error {
		for _, event := range events {
			b, err := decode(event)
			if err != nil {
				return err
			}
			batch.Queue(sql, event.StreamID, b.Amount, hash(event.Position, b.Amount), event.Position)
		}
		return nil
	})
}

// folded adds a batch up in memory and queues one statement.
func folded(table string) handler.Handler {
	sql := fmt.Sprintf(`INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
		SELECT *, 0 FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) `+onConflict, table)
	return handler.Queue(func(batch *pgx.Batch, events []handler.Event) error {
		f := newFold()
		for _, event := range events {
			if err := f.add(event.Position, []byte(event.StreamID), event.Data); err != nil {
				return err
			}
		}
		batch.Queue(sql, f.streams, f.events, f.balances, f.hashes, f.firsts, f.lasts)
		return nil
	})
}

// Statements of SQL handlers: one event at a time, and a batch as a set.
const (
	sqlEach = `each: |
            INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
            SELECT stream_id, 1, amount, position %% 1000003 * amount, position, position, 0
                FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM event) AS e
            ` + onConflict
	sqlBatch = `batch: |
            INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
            SELECT stream_id, count(*), sum(amount), sum(position %% 1000003 * amount), min(position), max(position), 0
                FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM events) AS e GROUP BY stream_id
            ` + onConflict
)

// viaGo runs a Go handler over the last events, a share of them.
func viaGo(make goHandler, share int64) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		return r.process(ctx, "{type: Go, go: {handler: bench}}", map[string]handler.Handler{"bench": make(r.table)}, r.events/share)
	}
}

// viaSQL runs an SQL handler over the last events, a share of them.
func viaSQL(statement string, share int64) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		statement := strings.ReplaceAll(fmt.Sprintf(statement, r.table), "\n\t", "\n            ")
		return r.process(ctx, "\n      type: SQL\n      sql:\n        statements:\n        - eventTypes: [Booked]\n          "+statement, nil, r.events/share)
	}
}

// process has a worker handle the last events, and measures from the beginning of its first batch to the commit of its last
// one: claiming segments is not what is measured. The first page has been read by then.
func (r *run) process(ctx context.Context, spec string, handlers map[string]handler.Handler, events int64) error {
	began, ended := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var first time.Time
	handled := int64(0)
	p := &lab.Processor{Name: r.table, URL: r.url, DB: r.db, Handlers: handlers,
		Groups: fmt.Sprintf("  - name: %s\n    segments: %d\n    maxBatchSize: %d\n    handler: %s\n", r.table, r.segments, r.batch, spec),
		OnBatch: func(b worker.Batch) {
			mu.Lock()
			defer mu.Unlock()
			if b.Err != nil {
				fmt.Printf("  a batch failed: %v\n", b.Err)
				return
			}
			if first.IsZero() {
				first = time.Now().Add(-b.Took)
				close(began)
			}
			if handled += int64(b.Events); handled >= events {
				select {
				case <-ended:
				default:
					r.took = time.Since(first)
					close(ended)
				}
			}
		}}
	if err := p.Declare(ctx, tokenstore.Place{Type: tokenstore.AtPosition, Position: strconv.FormatInt(r.events-events+1, 10)}); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	meter, err := r.server.Measure()
	if err != nil {
		return err
	}
	go func() { done <- p.Run(running, "bench") }()
	select {
	case err := <-done:
		return fmt.Errorf("the worker ended: %w", err)
	case <-time.After(10 * time.Minute):
		return fmt.Errorf("not all of %d events were handled in ten minutes", events)
	case <-ended:
	}
	cost, err := meter.Stop()
	if err != nil {
		return err
	}
	r.cost, r.handled = cost, events
	stop()
	if err := <-done; err != nil {
		return err
	}
	if handled != events {
		return fmt.Errorf("%d events were handled of %d", handled, events)
	}
	if !r.writesNothing {
		if err := r.verify(ctx, r.table, r.events-events); err != nil {
			return err
		}
	}
	return p.Drop(ctx)
}
