package postgres_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/segment"
)

// writeBlocks has two writers take turns at appending to twenty streams, each with its own blocks of fifty positions; and a third one, which has had the first fifty
// since the beginning, append one event in a thousand. So every other event has a lower position than the one before it in its stream, and some have a much lower one.
const writeBlocks = `
INSERT INTO outbox (id, aggregate, number, type, payload)
SELECT CASE WHEN n % 1000 = 0 THEN 1 + n / 1000 ELSE 50 + (n / 100 * 2 + 1 - n % 2) * 50 + n / 2 % 50 + 1 END, 'stream-' || n / 2 % 20, 1 + n / 40 * 2 + n % 2, 'Happened', '{"n": 1}'
  FROM generate_series(0, 49999) AS n ORDER BY n`

// Events that are out of order everywhere take hardly more pages than others, and those that wait for long are read once, not with each page.
func TestBlocksAreCaughtUpWithInOrder(t *testing.T) {
	db := database(t)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	exec(t, db, writeBlocks)
	exec(t, db, "VACUUM ANALYZE outbox")
	exec(t, db, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END $$") // as workers do
	db.Reset()
	for _, order := range []string{definition.OrderNone, definition.OrderStream} {
		t.Run(order, func(t *testing.T) {
			mapping := unaltered(definition.PositionsReserved, "")
			mapping.Order = order
			on := outboxSubject(db, mapping)
			if err := on.source.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			var done atomic.Bool
			g := newReaderGroup(t, "all", on.source, &done, 500, false, []segment.Segment{segment.Root})
			m, most, start := g.members[0], 0, time.Now()
			for more := true; more; {
				page, err := g.read(g.members)
				if err != nil {
					t.Fatal(err)
				}
				m.take(page, g.random, true)
				more, most = page.More, max(most, postgres.Steps(m.coverage))
			}
			elapsed := time.Since(start)
			truth := committed(t, on)
			lost, twice, invented, disordered := m.compare(truth)
			t.Logf("%d events in %d pages of up to 500 within %v, %d events below the one before; at most %d ranges of positions open; lost %d, twice %d, out of order %d, never committed %d",
				len(m.given), g.pages, elapsed.Round(time.Millisecond), inversions(truth), most, lost, twice, disordered, invented)
			if lost+twice+invented > 0 || order == definition.OrderStream && disordered > 0 {
				t.Error("it went wrong")
			}
			if order == definition.OrderNone && disordered < 10_000 {
				t.Errorf("%d are out of order without it: this says nothing", disordered)
			}
			if g.pages > 150 {
				t.Errorf("it took %d pages", g.pages)
			}
		})
	}
}
