package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	store "github.com/sluice-project/sluice/tokenstore/postgres"
)

const schema = "sluice"

// database returns a pool of connections to a new database with Sluice's tables.
func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return pool(t, migrated(t, schema))
}

// migrated returns the URL of a new database with Sluice's tables.
func migrated(t testing.TB, schema string) string {
	t.Helper()
	url := postgrestest.New(t)
	migrate(t, url, schema)
	return url
}

func migrate(t testing.TB, url, schema string) {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := store.Migrate(ctx, conn, schema); err != nil {
		t.Fatal(err)
	}
}

func pool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 40
	p, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func exec(t testing.TB, db postgres.DB, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// reader is one that reads alone and applies all that it reads.
type reader struct {
	t        testing.TB
	source   eventsource.Source
	segments []segment.Segment
	coverage eventsource.Coverage
	given    []*eventsource.Event // where a test notes them
}

func newReader(t testing.TB, source eventsource.Source, at progress.StartPosition, segments ...segment.Segment) *reader {
	t.Helper()
	progress, err := source.Start(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, source: source, segments: segments}
	r.resume(progress)
	return r
}

func (r *reader) resume(p progress.Progress) {
	r.t.Helper()
	var err error
	if r.coverage, err = r.source.Parse(p); err != nil {
		r.t.Fatal(err)
	}
}

// next reads a page and takes it whole.
func (r *reader) next(limit int) eventsource.Page {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), time.Minute)
	defer cancel()
	page, err := r.source.Read(ctx, []eventsource.Coverage{r.coverage}, r.segments, limit)
	if err != nil {
		r.t.Fatal(err)
	}
	r.coverage = page.After(r.coverage, nil)
	return page
}

// all reads to the end, and takes it all.
func (r *reader) all() (events []*eventsource.Event) {
	r.t.Helper()
	for {
		page := r.next(500)
		events = append(events, page.Events...)
		if !page.More {
			return events
		}
	}
}
