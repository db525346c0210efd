package worker_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// TestAReplayGoesOnThroughSplitsAndMerges reshapes a group between its reset and the first event that is handled again: segments
// then lie within the boundaries, and around several of them.
func TestAReplayGoesOnThroughSplitsAndMerges(t *testing.T) {
	t.Parallel()
	half, quarter := segment.Segment{ID: 0, Mask: 1}, segment.Segment{ID: 0, Mask: 3}
	for name, test := range map[string]struct {
		before, after string
		reshape       func(*world) error
	}{
		"a split": {"2", "3", func(w *world) error { return w.store().Split(t.Context(), "view", half) }},
		"a merge": {"4", "3", func(w *world) error { return w.store().Merge(t.Context(), "view", segment.Segment{ID: 1, Mask: 3}) }},
		"both": {"4", "4", func(w *world) error {
			if err := w.store().Merge(t.Context(), "view", quarter); err != nil {
				return err
			}
			return w.store().Split(t.Context(), "view", half)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "\n  - name: view\n    segments: "+test.before+witnessed)
			w.appendTo(20, 3)
			drain := w.start("a")
			w.handled(60)
			drain()
			w.appendTo(20, 1)
			w.ask(tokenstore.ReplayRequest{ID: "fix"})
			w.resetNow("fix")
			if err := test.reshape(w); err != nil {
				t.Fatal(err)
			}
			w.edit("\n  - name: view\n    segments: " + test.after + witnessed)
			w.start("b")
			w.replay("fix", "complete", in(tokenstore.ReplayComplete))
			w.handled(80)
			if again := w.flagged(); again != 60 {
				t.Errorf("%d events were handled again, want 60", again)
			}
			if n := w.folded(); n != 80 {
				t.Errorf("%d events in the view", n)
			}
		})
	}
}

// resetNow carries the reset of a pending replay of everything out, while no worker runs.
func (w *world) resetNow(id string) {
	w.t.Helper()
	ctx := context.Background()
	r := w.replay(id, "pending", in(tokenstore.ReplayPending))
	if err := w.store().BeginReset(ctx, processor, r); err != nil {
		w.t.Fatal(err)
	}
	try, err := w.store().TryReset(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	defer try.Close(ctx)
	source := eventspostgres.NewSource(w.pool, "sluice")
	err = try.Run(ctx, processor, r, source, progress.Progress{}, tokenstore.ResetRun{Handlers: func(ctx context.Context, tx tokenstore.Tx) error {
		_, err := tx.(pgx.Tx).Exec(ctx, `TRUNCATE stream_view; INSERT INTO seen (context) VALUES ('{}')`, pgx.QueryExecModeSimpleProtocol)
		return err
	}})
	if err != nil {
		w.t.Fatal(err)
	}
}
