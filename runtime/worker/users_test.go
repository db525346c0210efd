package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// reports waits until a worker's report has this text in it.
func (w *world) reports(text string) {
	w.t.Helper()
	w.until("a report with "+text, `SELECT bool_or(position($1 in report::text) > 0) FROM sluice.worker WHERE state = 'Active'`, text)
}

func (w *world) count(query string) (n int) {
	w.t.Helper()
	if err := w.pool.QueryRow(context.Background(), query).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestAHandlerThatCommitsIsAFaultOfTheDefinition has events wait where their handler commits: the report says why, none has an effect, and each has
// one once the handler is corrected.
func TestAHandlerThatCommitsIsAFaultOfTheDefinition(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(context.Context, pgx.Tx) error{
		"tx.Commit":                     func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
		"COMMIT, and the error is lost": func(ctx context.Context, tx pgx.Tx) error { _, _ = tx.Conn().Exec(ctx, "COMMIT"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, fmt.Sprintf(goViewOf, 1))
			w.exec(`CREATE TABLE stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL)`)
			w.handlers = map[string]handler.Handler{"view": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
				if err := add(ctx, tx, e); err != nil {
					return err
				}
				return end(ctx, tx)
			}, "Counted")}
			drain := w.start("a")
			w.appendSome()
			w.reports("TransactionEnded")
			w.reports("return nil instead")
			w.until("attempts that speak against the definition", `SELECT bool_or(quarantined_at IS NOT NULL) FROM sluice.definition`)
			w.reports(`"attempts":`)
			if n := w.count(`SELECT count(*) FROM stream_view`) + w.count(`SELECT count(*) FROM sluice.failure`); n != 0 {
				t.Errorf("%d rows of events and of attempts are there", n)
			}
			drain()
			w.addingUnless(func(handler.Event) error { return nil })
			w.start("b")
			w.caughtUp()
		})
	}
}

// A reset that ends its transaction fails, and the group goes on where it was.
func TestAResetThatCommitsFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fmt.Sprintf(goViewOf, 1))
	w.exec(`CREATE TABLE stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL)`)
	w.handlers = map[string]handler.Handler{"view": handler.WithReset(handler.Each(add, "Counted"), func(ctx context.Context, tx pgx.Tx, _ handler.Replay) error {
		_, err := tx.Exec(ctx, "TRUNCATE stream_view")
		return errors.Join(err, tx.Commit(ctx))
	})}
	w.start("a")
	w.appendSome()
	w.caughtUp()
	w.ask(tokenstore.ReplayRequest{ID: "fix"})
	if r := w.replay("fix", "failed", in(tokenstore.ReplayFailed)); r.Reason != tokenstore.ReplayResetHandlerFails || !strings.Contains(r.Message, "return nil instead") {
		t.Errorf("%s: %s", r.Reason, r.Message)
	}
	w.appendSome()
	w.caughtUp()
}

// Statements that set something for the session have it set for themselves alone, however their batches and another group's take turns.
func TestSettingsOfAGroupReachNoOther(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"'search_path', data ->> 'tenant'", "'app.tenant', data ->> 'tenant'", "'statement_timeout', '1ms'", "'session_replication_role', 'replica'"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, `
  - name: tenants
    segments: 1
    handler: {type: SQL, sql: {setup: "CREATE SCHEMA IF NOT EXISTS tenant_a; CREATE TABLE IF NOT EXISTS tenant_a.ledger (LIKE public.ledger INCLUDING ALL)", statements: [
      {eventTypes: [TenantEvent], each: "INSERT INTO public.entered SELECT stream_id, length(set_config(`+setting+`, false)) FROM event"}]}}
  - name: ledger
    segments: 4
    handler: {type: SQL, sql: {statements: [{eventTypes: [Booked], each: "INSERT INTO ledger SELECT stream_id, (data ->> 'n')::int FROM event"}]}}`)
			w.exec(`CREATE TABLE ledger (stream text, n int, tenant text DEFAULT current_setting('app.tenant', true)); CREATE TABLE entered (stream text, n int);
				CREATE TABLE audit (n int); CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.audit VALUES (1); RETURN NEW; END $$;
				CREATE TRIGGER audited AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION audits()`)
			w.executors = 2
			w.start("a")
			const turns = 30
			for i := range turns {
				for stream, event := range map[string]eventspostgres.NewEvent{"t": {Type: "TenantEvent", Data: map[string]string{"tenant": "tenant_a"}}, "b": {Type: "Booked", Data: map[string]int{"n": i}}} {
					if _, err := w.log.Append(context.Background(), fmt.Sprint(stream, i), eventspostgres.Any, event); err != nil {
						t.Fatal(err)
					}
				}
				w.until("the tenant's event", `SELECT count(*) > $1 FROM entered`, i)
				w.until("the booking", `SELECT (SELECT count(*) FROM public.ledger) + (SELECT count(*) FROM tenant_a.ledger) > $1`, i)
			}
			if n := w.count(`SELECT count(*) FROM public.ledger WHERE coalesce(tenant, '') = ''`); n != turns || w.count(`SELECT count(*) FROM audit`) != turns {
				t.Errorf("%d bookings are in the ledger and %d in the audit, want %d; %d are a tenant's", n, w.count(`SELECT count(*) FROM audit`), turns, w.count(`SELECT count(*) FROM tenant_a.ledger`))
			}
		})
	}
}

// A name without a schema means what it means in psql, in a setup, a statement and a handler.
func TestNamesMeanWhatTheyMeanInPsql(t *testing.T) {
	t.Parallel()
	url := postgrestest.New(t)
	plain, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Exec(context.Background(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database()); END $$;
		CREATE SCHEMA app; CREATE TABLE app.orders (id text)`); err != nil {
		t.Fatal(err)
	}
	w := newWorldAt(t, url, `
  - name: statements
    handler: {type: SQL, sql: {setup: "CREATE TABLE IF NOT EXISTS orders (id text)", statements: [{eventTypes: [Counted], each: "INSERT INTO orders SELECT stream_id FROM event"}]}}
  - name: code
    handler: {type: Go}`)
	w.handlers = map[string]handler.Handler{"code": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO orders VALUES ($1)", e.StreamID)
		return err
	}, "Counted")}
	w.start("a")
	w.appendTo(1, 1)
	w.until("both groups", `SELECT count(*) = 2 FROM app.orders`)
	w.until("no other table", `SELECT to_regclass('public.orders') IS NULL`)
}
