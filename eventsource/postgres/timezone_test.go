package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// inUTC are connections as Sluice's are.
func inUTC(t *testing.T, db *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(db.Config().ConnConfig.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	utc, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(utc.Close)
	return utc
}

// A time without a zone is what the role's own connections take it for, which wrote it: in pages,
// where a group starts, and in SQL handlers. One that says its zone is that.
func TestATimeWithoutAZoneIsInThatOfTheDatabase(t *testing.T) {
	for kind, want := range map[string]string{"timestamp": "2026-07-15T16:00:00Z", "timestamptz": "2026-07-15T16:00:00Z", "text": "2026-07-15T16:00:00Z"} {
		for _, by := range []string{"gaps", "transactions"} {
			t.Run(kind+"/"+by, func(t *testing.T) {
				db := database(t)
				exec(t, db, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''America/New_York''', current_database()); END $$")
				writer, err := pgx.ConnectConfig(t.Context(), db.Config().ConnConfig)
				if err != nil {
					t.Fatal(err)
				}
				defer writer.Close(t.Context())
				exec(t, writer, createOutbox, pgx.QueryExecModeSimpleProtocol)
				exec(t, writer, fmt.Sprintf("ALTER TABLE outbox ALTER COLUMN at DROP DEFAULT, ALTER COLUMN at TYPE %s", kind))
				exec(t, writer, fmt.Sprintf("INSERT INTO outbox (aggregate, number, type, at, payload) SELECT 'e' || n, 1, 'Happened', (timestamptz '2026-07-15 12:00:00+00' + n * interval '1 hour')::%s, '{}' FROM generate_series(1, 8) AS n", kind))
				mapping := unaltered(definition.PositionsInserted, "")
				if by == "transactions" {
					mapping = outbox
					prepare(t, db, mapping)
				}
				source := postgres.Open(inUTC(t, db), schema, declared(mapping))
				events := newReader(t, source, earliest, segment.Root).all()
				if len(events) != 8 || events[3].RecordedAt.UTC().Format(time.RFC3339Nano) != want {
					t.Errorf("of %d events the fourth was recorded at %v, want %s", len(events), events[3].RecordedAt.UTC(), want)
				}
				at := time.Date(2026, 7, 15, 17, 0, 0, 0, time.UTC)
				if n := len(newReader(t, source, progress.StartPosition{Type: progress.AtTimestamp, Timestamp: at}, segment.Root).all()); n != 4 {
					t.Errorf("%d events since %v, want 4", n, at)
				}
				found := column[time.Time](t, inUTC(t, db), "SELECT e.recorded_at FROM "+postgres.EventsAt(schema, source.Declared(declared(mapping))), []int64{4})
				if len(found) != 1 || found[0].UTC().Format(time.RFC3339Nano) != want {
					t.Errorf("SQL handlers see %v, want %s", found, want)
				}
			})
		}
	}
}

// Infinite times are read: as the first and the last ones that others have.
func TestInfiniteTimesAreRead(t *testing.T) {
	for name, mode := range map[string]pgx.QueryExecMode{"binary": pgx.QueryExecModeCacheStatement, "text": pgx.QueryExecModeExec} {
		t.Run(name, func(t *testing.T) {
			on := serialTable(t)
			exec(t, on.db, "INSERT INTO outbox (aggregate, number, type, payload, at) VALUES ('a', 1, 'T', '{}', '-infinity'), ('a', 2, 'T', '{}', '2026-01-01Z'), ('a', 3, 'T', '{}', 'infinity')")
			config := on.db.Config()
			config.ConnConfig.DefaultQueryExecMode = mode
			db, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			source := postgres.Open(db, schema, declared(unaltered(definition.PositionsInserted, "")))
			events := newReader(t, source, earliest, segment.Root).all()
			if len(events) != 3 || !events[0].RecordedAt.IsZero() || events[1].RecordedAt.Year() != 2026 || events[2].RecordedAt.UTC().Format(time.RFC3339Nano) != "9999-12-31T23:59:59.999999Z" {
				t.Errorf("read %+v", events)
			}
			if n := len(newReader(t, source, progress.StartPosition{Type: progress.AtTimestamp, Timestamp: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, segment.Root).all()); n != 2 {
				t.Errorf("%d events since 2026, want 2", n)
			}
		})
	}
}
