package worker_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
)

// TestGroupsGoOnBesideCallsThatLast has calls of a group last that has more segments than there are
// executors: another group goes on, with a backlog and at the tail.
func TestGroupsGoOnBesideCallsThatLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: calls
    segments: 8
    timeout: 0s
    handler: {type: Go}`+other)
	w.executors = 2
	w.makeSeen()
	mended := make(chan struct{})
	w.handlers = map[string]handler.Handler{"calls": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-mended:
			return record(ctx, tx, e)
		}
	})}
	w.appendTo(40, 5)
	w.start("a")
	w.handled(200)
	w.until("calls that last", `SELECT bool_or(jsonb_array_length(report #> '{groups,calls,calls}') = 2) FROM sluice.worker`)
	w.appendTo(40, 1)
	w.handled(240)
	close(mended)
	w.until("all events handled", `SELECT (SELECT count(*) FROM seen) = (SELECT count(*) FROM sluice.event)`)
}
