package worker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestATableIsFoldedByItsGapsThroughCrashes has transactions of a table without a column for them stay open, end late and roll back, while workers lose all their connections and
// segments are taken over, whose new owners know of open gaps what tokens say and prove the rest again.
func TestATableIsFoldedByItsGapsThroughCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
	table := userTables["outbox, unaltered"]
	w.sql(table.create)
	source, _ := sampleOf(t, table)
	w.edit(fmt.Sprintf("\n  - name: folded\n    segments: 4%s\n  source: %s\n", strings.ReplaceAll(view, "Counted", table.event), asJSON(t, source)))
	w.start("a")
	w.start("b")
	w.until("two owners", `SELECT count(DISTINCT owner) = 2 FROM sluice.token WHERE group_name = 'folded' AND owner <> 0`)

	ctx := context.Background()
	expected := 0
	for round := range 3 {
		late, err := w.begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer late.Rollback(ctx)
		for _, statement := range []string{fmt.Sprintf("SELECT append_one('late-%d', n) FROM generate_series(1, 20) AS n", round), "SAVEPOINT one", "SELECT append_one('undone', 1)", "ROLLBACK TO one"} {
			if _, err := late.Exec(ctx, statement); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 { // holes that nobody will fill
			if _, err := w.pool.Exec(ctx, "DO $$ BEGIN PERFORM append_one('nobody', 1); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END $$"); err != nil {
				t.Fatal(err)
			}
			w.appendOne(round*10, 1, 1)
		}
		expected += 5
		w.handled(expected)
		w.until("tokens with open gaps", `SELECT bool_and(snapshot LIKE 'public.outbox.id gaps _%') FROM sluice.token WHERE group_name = 'folded' AND position > 0 AND version > 0 HAVING count(*) > 0`)
		w.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sluice%' AND datname = current_database() AND pid <> pg_backend_pid()")
		if err := late.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		w.appendOne(round*10, 3, 2)
		expected += 26
		w.handled(expected)
	}
	var wrong, events int
	if err := w.pool.QueryRow(ctx, "SELECT count(*) FILTER (WHERE stream_id LIKE 'late-%' AND events <> 20), sum(events) FROM stream_view").Scan(&wrong, &events); err != nil || wrong > 0 || events != expected {
		t.Fatalf("%d late streams are wrong, and %d events were handled, want %d (%v)", wrong, events, expected, err)
	}
}

// TestAWorkerWaitsAtTheLimitOfGaps has more holes than a token may have, that an open writer could fill: the worker keeps its segments, and goes on when that one has ended.
func TestAWorkerWaitsAtTheLimitOfGaps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
	table := userTables["outbox, unaltered"]
	w.sql(table.create)
	source, _ := sampleOf(t, table)
	ctx := context.Background()
	open, err := w.begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Rollback(ctx)
	if _, err := open.Exec(ctx, "SELECT append_one('late', 1)", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	w.sql(`INSERT INTO outbox (aggregate_id, event_type, payload) SELECT n, 'OrderPlaced', jsonb_build_object('n', 1)
		FROM generate_series(1, 9000) AS n WHERE nextval(pg_get_serial_sequence('outbox', 'id')) > 0`)
	w.edit(fmt.Sprintf("\n  - name: folded\n    segments: 2%s\n  source: %s\n", strings.ReplaceAll(view, "Counted", table.event), asJSON(t, source)))
	w.start("a")
	w.handled(8000)
	epochs := w.epochs()
	w.until("tokens at the limit", `SELECT bool_and(length(snapshot) > 15000) FROM sluice.token WHERE group_name = 'folded'`)
	if err := open.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	w.handled(9001)
	w.until("tokens without gaps", `SELECT bool_and(length(snapshot) < 100) FROM sluice.token WHERE group_name = 'folded'`)
	if now := w.epochs(); now != epochs {
		t.Errorf("the epochs have gone from %d to %d", epochs, now)
	}
}
