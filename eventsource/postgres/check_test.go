package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
)

func TestCheck(t *testing.T) {
	const name = `with "quotes"`
	db := pool(t, migrated(t, name))
	source := postgres.NewSource(db, name)
	if err := source.Check(t.Context()); err != nil {
		t.Error(err)
	}
	exec(t, db, `UPDATE "with ""quotes""".meta SET system_identifier = system_identifier + 1`)
	if err := source.Check(t.Context()); !errors.Is(err, postgres.ErrStoreChanged) || !strings.Contains(err.Error(), "system identifier") {
		t.Errorf("another server: %v", err)
	}
	exec(t, db, `DELETE FROM "with ""quotes""".meta`)
	if err := source.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "sluice migrate") {
		t.Errorf("no meta row: %v", err)
	}
}

func TestCheckRefusesOtherEncodings(t *testing.T) {
	url := postgrestest.New(t)
	db := pool(t, url)
	exec(t, db, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	latin := strings.Replace(url, "/"+config.Database, "/latin", 1)
	migrate(t, latin, schema)
	for name, source := range map[string]*postgres.Source{"own table": postgres.NewSource(pool(t, latin), schema), "outbox": postgres.Open(pool(t, latin), schema, declared(outbox))} {
		var invalid *eventsource.InvalidError
		if err := source.Check(t.Context()); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "encoding is LATIN1, and Sluice needs UTF8") {
			t.Errorf("%s, encoding LATIN1: %v", name, err)
		}
	}
}

// asStandby makes a server say that it is one.
type asStandby struct{ postgres.DB }

func (d asStandby) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return d.DB.Query(ctx, strings.ReplaceAll(sql, "pg_is_in_recovery()", "true"), args...)
}

func (d asStandby) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return d.DB.QueryRow(ctx, strings.ReplaceAll(sql, "pg_is_in_recovery()", "true"), args...)
}

func (d asStandby) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for _, query := range b.QueuedQueries {
		query.SQL = strings.ReplaceAll(query.SQL, "pg_is_in_recovery()", "true")
	}
	return d.DB.SendBatch(ctx, b)
}

func TestAStandbyIsRefused(t *testing.T) {
	source := postgres.NewSource(asStandby{database(t)}, schema)
	if err := source.Check(t.Context()); !errors.Is(err, postgres.ErrStandby) {
		t.Errorf("check: %v", err)
	}
	if _, err := source.Start(t.Context(), progress.StartPosition{Type: progress.Latest}); !errors.Is(err, postgres.ErrStandby) {
		t.Errorf("latest: %v", err)
	}
	c, err := source.Parse(progress.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Read(t.Context(), []eventsource.Coverage{c}, nil, 1); !errors.Is(err, postgres.ErrStandby) {
		t.Errorf("read: %v", err)
	}
}

// The grants are those that the documentation gives.
func TestAppendersCanSetNeitherTransactionNorPosition(t *testing.T) {
	url := migrated(t, schema)
	db := pool(t, url)
	exec(t, db, documented(t, "spec/events.md", "-- grants")) // several statements
	appender, reader := as(t, url, "sluice_append"), as(t, url, "sluice_read")
	if _, err := newLog(t, appender).Append(t.Context(), "a", postgres.NoStream, happened, happened); err != nil {
		t.Errorf("append: %v", err)
	}
	exec(t, appender, `INSERT INTO sluice.event (stream_id, version, type, data) VALUES ('b', 1, 'T', '{}')`)
	for column, value := range map[string]string{"txid": "'3'", "position": "7", "recorded_at": "now()", "slice": "1"} {
		for _, overriding := range []string{"", "OVERRIDING SYSTEM VALUE"} {
			_, err := appender.Exec(t.Context(), fmt.Sprintf(`INSERT INTO sluice.event (stream_id, version, type, data, %s) %s VALUES ('c', 1, 'T', '{}', %s)`, column, overriding, value))
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42501" && pg.Code != "428C9" {
				t.Errorf("setting %s: %v, want 42501 or 428C9", column, err)
			}
		}
	}
	for _, sql := range []string{"UPDATE sluice.event SET txid = '3'", "DELETE FROM sluice.event", "SELECT data FROM sluice.event", "SELECT setval('sluice.event_position_seq', 1)"} {
		if _, err := appender.Exec(t.Context(), sql); err == nil {
			t.Errorf("appenders may: %s", sql)
		}
	}
	source := postgres.NewSource(reader, schema)
	if err := source.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	if n := len(newReader(t, source, progress.StartPosition{Type: progress.Earliest}).next(10).Events); n != 3 {
		t.Errorf("%d events", n)
	}
	if _, err := source.Head(t.Context()); err != nil {
		t.Errorf("head: %v", err)
	}
}

func as(t *testing.T, url, role string) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["role"] = role
	p, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestTheDocumentedStatementsAppend(t *testing.T) {
	db := database(t)
	exec(t, db, documented(t, "spec/events.md", "-- append"))
	exec(t, db, documented(t, "spec/events.md", "-- insert"))
	if got := query[string](t, db, "SELECT string_agg(stream_id || ' ' || version || ' ' || type, ', ' ORDER BY position) FROM sluice.event"); got != "payment-4711 1 PaymentCreated, payment-4711 2 PaymentSettled, payment-4712 1 PaymentCreated" {
		t.Error(got)
	}
}

// documented returns the SQL block of a page below docs that begins with the line.
func documented(t *testing.T, page, line string) string {
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```sql\n"+line+"\n")
	sql, _, _ := strings.Cut(rest, "```")
	if !found {
		t.Fatalf("docs/%s has no SQL block %q", page, line)
	}
	return sql
}
