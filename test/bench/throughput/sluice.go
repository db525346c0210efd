package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

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
	sql := fmt.Sprintf(ledger.One, table)
	return handler.Each(func(ctx context.Context, tx pgx.Tx, event handler.Event) error {
		b, err := decode(event)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sql, event.StreamID, b.Amount, ledger.Hash(event.Position, b.Amount), event.Position)
		return err
	})
}

// queued queues a statement for each event.
func queued(table string) handler.Handler {
	sql := fmt.Sprintf(ledger.One, table)
	return handler.Queue(func(batch *pgx.Batch, events []handler.Event) error {
		for _, event := range events {
			b, err := decode(event)
			if err != nil {
				return err
			}
			batch.Queue(sql, event.StreamID, b.Amount, ledger.Hash(event.Position, b.Amount), event.Position)
		}
		return nil
	})
}

// Statements of SQL handlers: one event at a time, and a batch as a set.
const (
	sqlEach = `each: |
            INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
            SELECT stream_id, 1, amount, position %% 1000003 * amount, position, position, 0
                FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM event) AS e
            ` + ledger.OnConflict
	sqlBatch = `batch: |
            INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
            SELECT stream_id, count(*), sum(amount), sum(position %% 1000003 * amount), min(position), max(position), 0
                FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM events) AS e GROUP BY stream_id
            ` + ledger.OnConflict
)

// viaGo runs a Go handler over the last events, a share of them.
func viaGo(make goHandler, share int64) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		return r.process(ctx, "{type: Go, go: {handler: bench}}", map[string]handler.Handler{"bench": make(r.table)}, r.Events/share)
	}
}

// viaSQL runs an SQL handler over the last events, a share of them.
func viaSQL(statement string, share int64) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		statement := strings.ReplaceAll(fmt.Sprintf(statement, r.table), "\n\t", "\n            ")
		return r.process(ctx, "\n      type: SQL\n      sql:\n        statements:\n        - eventTypes: [Booked]\n          "+statement, nil, r.Events/share)
	}
}

// process has a worker handle the last events.
func (r *run) process(ctx context.Context, spec string, handlers map[string]handler.Handler, events int64) error {
	p := &lab.Processor{Name: r.table, URL: r.URL, DB: r.DB, Handlers: handlers,
		Groups: fmt.Sprintf("  - name: %s\n    segments: %d\n    maxBatchSize: %d\n    handler: %s\n", r.table, r.segments, r.batch, spec)}
	caught, err := p.CatchUp(ctx, r.server, r.Events-events+1, events, 10*time.Minute)
	if err != nil {
		return err
	}
	r.took, r.cost, r.handled = caught.Took, caught.Cost, events
	if r.writesNothing {
		return nil
	}
	return r.Verify(ctx, r.table, r.Events-events)
}
