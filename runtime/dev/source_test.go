package dev_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/dev"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// elsewhere is the manifest with its events in a database of their own.
var elsewhere = strings.Replace(manifest, "  processingGroups:", "  source: {type: Store, postgres: {urlSecretRef: {name: events}}}\n  processingGroups:", 1)

// eventsIn returns how many events a database has.
func eventsIn(t *testing.T, url string) (count int) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM sluice.event").Scan(&count); err != nil {
		t.Fatal(err)
	}
	return count
}

func migrated(t *testing.T) (url string) {
	t.Helper()
	ctx := context.Background()
	url = postgrestest.New(t)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	return url
}

// TestEventsAreFedIntoTheDatabaseThatTheyAreReadFrom, which other commands find, too.
func TestEventsAreFedIntoTheDatabaseThatTheyAreReadFrom(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL, b.options.SourceURL = postgrestest.New(t), migrated(t)
	b.save(elsewhere)
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":3}}`)
	b.start()
	b.shows("Events (spec.source.postgres):\n  " + b.options.SourceURL)
	b.shows("1 event from ")
	if n := eventsIn(t, b.options.SourceURL); n != 1 {
		t.Errorf("the source has %d events", n)
	}
	if n := eventsIn(t, b.options.DatabaseURL); n != 0 {
		t.Errorf("the store has %d events", n)
	}
	if url, err := dev.RunningSourceURL(b.options.Folder); err != nil || url != b.options.SourceURL {
		t.Errorf("other commands find %q: %v", url, err)
	}
	b.save(manifest)
	b.shows("spec.source.postgres is not added or taken away, and its schema does not change")
}

// TestTheDatabaseOfATableIsNotForAppends: they go into Sluice's own event table.
func TestTheDatabaseOfATableIsNotForAppends(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL, b.options.SourceURL = postgrestest.New(t), migrated(t)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.options.SourceURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate text NOT NULL, kind text NOT NULL,
		body jsonb NOT NULL, at timestamptz NOT NULL DEFAULT now())`); err != nil {
		t.Fatal(err)
	}
	const table = "{type: Table, table: {name: public.outbox, columns: {position: id, stream: aggregate, type: kind, recordedAt: at}, data: {column: body}}, "
	b.save(strings.Replace(elsewhere, "{type: Store, postgres: {urlSecretRef: {name: events", table+"postgres: {urlSecretRef: {name: events", 1))
	b.start()
	b.shows("INSERT INTO public.outbox")
	if url, err := dev.RunningSourceURL(b.options.Folder); err != nil || url != "" {
		t.Errorf("appends go to %q: %v", url, err)
	}
}

func TestAManifestWithAnotherDatabaseNeedsItsURL(t *testing.T) {
	for name, tc := range map[string]struct{ url, want string }{
		"none":        {"", "spec.source.postgres says that the events are in another database than the store: set --source-url or SLUICE_SOURCE_URL"},
		"no URL":      {"mysql://db", "--source-url: the source's URL must begin with postgres://"},
		"no database": {"postgres://app@127.0.0.1:1/app", "the source's database: "},
		"no tables":   {postgrestest.New(t), "the source's database: "},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.options.DatabaseURL, b.options.SourceURL = postgrestest.New(t), tc.url
			b.save(elsewhere)
			b.options.Out, b.options.Log = io.Discard, io.Discard
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := dev.Run(ctx, b.options); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
