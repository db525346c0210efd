package postgres_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// Positions may be keys of 64 bits of a generator, of milliseconds and some low bits: then
// thousands of millions lie between two events. Reading goes from event to event.
func TestEventsAreReadHoweverFarApartTheirPositionsAre(t *testing.T) {
	db := database(t)
	exec(t, db, `CREATE TABLE outbox (id bigint PRIMARY KEY DEFAULT ((extract(epoch FROM clock_timestamp())*1000)::bigint - 1288834974657) << 22,
		aggregate text NOT NULL, number integer NOT NULL DEFAULT 1, type text NOT NULL DEFAULT 'Happened', at timestamptz NOT NULL DEFAULT clock_timestamp(), payload jsonb DEFAULT '{}')`)
	mapping := outbox
	mapping.Positions, mapping.Order = definition.PositionsReserved, definition.OrderNone
	prepare(t, db, mapping)
	const insert = "INSERT INTO outbox (id, aggregate, at) SELECT ((extract(epoch FROM t)*1000)::bigint - 1288834974657) << 22, 'a', t FROM generate_series(timestamptz '2026-01-01', timestamptz '2026-01-01' + $1::interval, '1 minute') AS t"
	exec(t, db, insert, 2*24*time.Hour)
	source := postgres.Open(db, schema, declared(mapping))
	count := func(r *reader, most int) (n int) {
		t.Helper()
		for range most {
			page := r.next(500)
			if n += len(page.Events); !page.More {
				return n
			}
		}
		t.Fatalf("after %d pages of 500 there are more than the %d events that were given", most, n)
		return n
	}
	if n := count(newReader(t, source, earliest, segment.Root), 7); n != 2*24*60+1 {
		t.Errorf("%d events, want %d", n, 2*24*60+1)
	}
	if n := count(newReader(t, source, progress.StartPosition{Type: progress.AtTimestamp, Timestamp: time.Date(2026, 1, 2, 23, 50, 0, 0, time.UTC)}, segment.Root), 1); n != 11 {
		t.Errorf("%d events since ten minutes before the end, want 11", n)
	}
	r := newReader(t, source, latest, segment.Root)
	_, late := begin(t, &subject{db: db}, "INSERT INTO outbox (id, aggregate) VALUES (5, 'late')")
	exec(t, db, "INSERT INTO outbox (aggregate) VALUES ('now')")
	if n := count(r, 1); n != 1 {
		t.Errorf("%d new events, want 1", n)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "INSERT INTO outbox (id, aggregate) VALUES (9223372036854775807, 'last')", pgx.QueryExecModeSimpleProtocol)
	if n := count(r, 1); n != 2 {
		t.Errorf("%d events, one of them late and one at the highest position, want 2", n)
	}
	if head, err := source.Head(t.Context()); err != nil || head.Position() != 1<<63-1 {
		t.Errorf("the head is %d, error %v", head, err)
	}
	if page := r.next(10); len(page.Events) > 0 || page.More {
		t.Errorf("%d events after the last, more: %t", len(page.Events), page.More)
	}
}
