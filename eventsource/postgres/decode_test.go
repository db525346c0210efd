package postgres_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
)

// A page is the same in the binary format, which is decoded here, and in the text format, which a pooler may ask for and pgx decodes.
func TestAPageIsTheSameInBothFormats(t *testing.T) {
	url := migrated(t, schema)
	db := pool(t, url)
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, type, data, metadata, recorded_at)
		SELECT 'stream-' || n % 3, n, 'Counted', jsonb_build_object('n', n), '{"of": "ä"}', '1969-12-31T23:59:58.25Z'::timestamptz + n * interval '1.000001 s' FROM generate_series(1, 5) n`)
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, type, data, recorded_at) VALUES ('x', 9, 'Counted', '"long ago"', '0001-02-03T04:05:06.789012Z')`)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	texts, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer texts.Close()
	read := func(db *pgxpool.Pool) ([]*eventsource.Event, error) {
		t.Helper()
		source := postgres.NewSource(db, schema)
		start, err := source.Parse(progress.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		page, err := source.Read(t.Context(), []eventsource.Coverage{start}, nil, 100)
		return page.Events, err
	}
	want, err := read(texts)
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(db)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) != 6 {
		t.Errorf("%d events; in the text format (-) and in the binary one (+):\n%s", len(got), diff)
	}
	if at := got[0].RecordedAt; !at.Equal(time.Date(1969, 12, 31, 23, 59, 59, 250_001_000, time.UTC)) {
		t.Errorf("the first event was recorded at %s", at)
	}
}
