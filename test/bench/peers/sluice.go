package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

// sluiceEach sends a statement for each event and waits for its answer.
func sluiceEach(ctx context.Context, r *run) error {
	sql := fmt.Sprintf(ledger.One, r.table)
	return r.worker(ctx, handler.Each(func(ctx context.Context, tx pgx.Tx, event handler.Event) error {
		amount, err := amount(event.Data)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sql, event.StreamID, amount, ledger.Hash(event.Position, amount), event.Position)
		return err
	}))
}

// sluiceQueued queues a statement for each event.
func sluiceQueued(ctx context.Context, r *run) error {
	sql := fmt.Sprintf(ledger.One, r.table)
	return r.worker(ctx, handler.Queue(func(batch *pgx.Batch, events []handler.Event) error {
		for _, event := range events {
			amount, err := amount(event.Data)
			if err != nil {
				return err
			}
			batch.Queue(sql, event.StreamID, amount, ledger.Hash(event.Position, amount), event.Position)
		}
		return nil
	}))
}

// worker runs a worker of a group with the default batches and four segments.
func (r *run) worker(ctx context.Context, h handler.Handler) error {
	p := &lab.Processor{Name: r.table, URL: r.URL, DB: r.DB, Handlers: map[string]handler.Handler{"bench": h},
		Groups: fmt.Sprintf("  - name: %s\n    segments: 4\n    handler: {type: Go, go: {handler: bench}}\n", r.table)}
	caught, err := p.CatchUp(ctx, r.server, r.Events-r.handled()+1, r.handled(), 10*time.Minute)
	r.took, r.cost = caught.Took, caught.Cost
	return err
}
