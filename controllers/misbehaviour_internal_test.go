package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/definition"
	eventpostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// misbehaving is a processor whose group calls misbehaves at events of the type Bad. The operator's stores declare, plan and
// observe it, and one worker handles it.
type misbehaving struct {
	t    *testing.T
	pool *pgxpool.Pool
	log  *eventpostgres.Log
	spec definition.Spec
	key  types.NamespacedName

	stores *stores.Stores
}

// calls is the group that misbehaves, with a handler of Go; fine is one that does not.
const (
	calls = `
  - name: calls
    segments: 1
    timeout: 500ms
    onError: {backoff: {initial: 100ms, max: 400ms}}
    handler: {type: Go}`
	fine = `
  - name: fine
    segments: 2
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS fine (position bigint PRIMARY KEY)
        statements:
        - {eventTypes: [Good, Bad], batch: INSERT INTO fine SELECT position FROM events}`
)

// sqlCalls is the group calls with a statement for events of the type Bad.
func sqlCalls(bad string) string {
	return `
  - name: calls
    segments: 1
    timeout: 500ms
    onError: {backoff: {initial: 100ms, max: 400ms}}
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS mended (yes boolean)
        statements:
        - {eventTypes: [Good, Bad], each: INSERT INTO seen (position) SELECT position FROM event}
        - eventTypes: [Bad]
          each: |
            ` + bad
}

func misbehave(t *testing.T, groups string, handle handler.Handler) *misbehaving {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	url := postgrestest.New(t)
	target, err := access.FromURL(url)
	if err != nil {
		t.Fatal(err)
	}
	document, err := definition.ParseYAML([]byte(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: orders}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}
  processingGroups:` + groups))
	if err != nil {
		t.Fatal(err)
	}
	m := &misbehaving{t: t, spec: document.Spec, key: types.NamespacedName{Namespace: "shop", Name: "orders"}}
	if m.pool, err = postgres.Open(postgres.Options{Target: target, Application: "test"}); err != nil {
		t.Fatal(err)
	}
	m.log = eventpostgres.NewLog(m.pool, postgres.DefaultSchema)
	err = m.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		_, err := postgres.Migrate(ctx, conn.Conn(), postgres.DefaultSchema)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	m.exec(`CREATE TABLE seen (n bigserial, position bigint NOT NULL)`)
	m.stores = stores.New(stores.Options{
		Secrets: func(string) connection.Secrets {
			return func(context.Context, string, string) ([]byte, error) { return []byte(url), nil }
		},
		Source: func(pool *pgxpool.Pool, schema string, declared definition.Source) stores.Source {
			return eventpostgres.Open(pool, schema, declared)
		},
		Changed: func(types.NamespacedName) {}, Planner: "operator/test", AllowLoopback: true, MaxSessions: 1, Log: logr.Discard(),
	})
	id := m.spec.Definition().ID()
	m.stores.Want(m.key, stores.Wanted{Namespace: "shop", Name: "test/shop/orders", Generation: 1, Definition: id, Spec: m.spec})
	handlers := map[string]handler.Handler{}
	if handle != nil {
		handlers["calls"] = handle
	}
	w := worker.New(worker.Options{Processor: "test/shop/orders", Pod: "a", Definition: m.spec.Definition(), DefinitionID: id, Handlers: handlers,
		Target: target, Schema: postgres.DefaultSchema, Version: "test", CallGrace: 300 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	var running sync.WaitGroup
	running.Go(func() { _ = m.stores.Start(ctx) })
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("the worker: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		m.pool.Close()
	})
	return m
}

func (m *misbehaving) exec(sql string, args ...any) {
	m.t.Helper()
	if _, err := m.pool.Exec(context.Background(), sql, args...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *misbehaving) append(stream string, kinds ...string) {
	m.t.Helper()
	var events []eventpostgres.NewEvent
	for _, kind := range kinds {
		events = append(events, eventpostgres.NewEvent{Type: kind, Data: map[string]int{"n": 1}})
	}
	if _, err := m.log.Append(context.Background(), stream, eventpostgres.Any, events...); err != nil {
		m.t.Fatal(err)
	}
}

// conditions are those that the operator would write now.
func (m *misbehaving) conditions() (text string) {
	s := healthy(m.t, func(s *scope) {
		s.now = time.Now()
		s.store = m.stores.Observe(m.key)
		s.desired = desired.Processor{Object: s.desired.Object, Spec: m.spec, ID: m.spec.Definition().ID()}
	})
	for _, c := range statusOf(s).Conditions {
		text += fmt.Sprintf("%s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	return text
}

// until waits for something to hold.
func (m *misbehaving) until(what string, holds func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("waited 40 s for %s\n%s", what, m.conditions())
		}
	}
}

func (m *misbehaving) query(sql string, args ...any) (holds bool) {
	return m.pool.QueryRow(context.Background(), sql, args...).Scan(&holds) == nil && holds
}

func (m *misbehaving) says(parts ...string) func() bool {
	return func() bool {
		for line := range strings.Lines(m.conditions()) {
			all := true
			for _, part := range parts {
				all = all && strings.Contains(line, part)
			}
			if all {
				return true
			}
		}
		return false
	}
}

// judge lets the group misbehave, and looks at what the operator says, at the other group, and at what becomes of the events when
// the cause is gone.
func (m *misbehaving) judge(mend func(), parts ...string) {
	m.t.Helper()
	m.append("bad", "Good", "Bad", "Good")
	var position int64
	if err := m.pool.QueryRow(context.Background(), `SELECT position FROM sluice.event WHERE type = 'Bad'`).Scan(&position); err != nil {
		m.t.Fatal(err)
	}
	m.until("a condition with "+strings.Join(parts, ", "), m.says(append(parts, "group calls", fmt.Sprintf("position %d", position), "type Bad")...))
	m.append("other", "Good", "Good")
	m.until("the other group", func() bool { return m.query(`SELECT count(*) = 5 FROM fine`) })
	if m.query(`SELECT count(*) > 1 FROM seen`) {
		m.t.Error("events behind the one that fails were handled")
	}
	mend()
	m.until("all events handled", func() bool {
		return m.query(`SELECT (SELECT array_agg(position ORDER BY n) FROM seen) = (SELECT array_agg(position ORDER BY position) FROM sluice.event)`)
	})
	m.until("clear conditions", func() bool { return m.says("Degraded=False")() && m.says("HandlerValid=True")() })
}

func TestWhateverAHandlerDoesTheOperatorNamesItsEvent(t *testing.T) {
	blocked := func(reason string) []string { return []string{"Degraded=True", "SegmentBlocked", "attempt", reason} }
	state := func(code string) func(context.Context, pgx.Tx, <-chan struct{}) error {
		return func(ctx context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '"+code+"'; END $$")
			return err
		}
	}
	text := func(sql string) func(context.Context, pgx.Tx, <-chan struct{}) error {
		return func(ctx context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, err := tx.Exec(ctx, sql)
			return err
		}
	}
	for name, test := range map[string]struct {
		says []string
		do   func(ctx context.Context, tx pgx.Tx, mended <-chan struct{}) error
	}{
		"fails":  {blocked("HandlerFailed"), func(context.Context, pgx.Tx, <-chan struct{}) error { return errors.New("no") }},
		"panics": {blocked("HandlerPanicked"), func(context.Context, pgx.Tx, <-chan struct{}) error { panic("no") }},
		"exits": {blocked("HandlerExited"), func(context.Context, pgx.Tx, <-chan struct{}) error {
			runtime.Goexit()
			return nil
		}},
		"waits for its context": {blocked("HandlerTimedOut"), func(ctx context.Context, _ pgx.Tx, _ <-chan struct{}) error {
			<-ctx.Done()
			return ctx.Err()
		}},
		"ignores its context": {blocked("HandlerTimedOut"), func(_ context.Context, _ pgx.Tx, mended <-chan struct{}) error {
			<-mended
			return nil
		}},
		"sleeps in a statement": {blocked("HandlerTimedOut"), text("SELECT pg_sleep(60)")},
		"cancels by itself": {blocked("HandlerFailed"), func(ctx context.Context, _ pgx.Tx, _ <-chan struct{}) error {
			return fmt.Errorf("asking: %w", context.Canceled)
		}},
		"ends its backend":         {blocked("CallDidNotEnd"), text("SELECT pg_terminate_backend(pg_backend_pid())")},
		"raises 21000":             {blocked("HandlerFailed"), state("21000")},
		"raises 54000":             {blocked("HandlerFailed"), state("54000")},
		"raises a code of its own": {blocked("HandlerFailed"), state("AC001")},
		"raises 57014":             {blocked("HandlerTimedOut"), state("57014")},
		"swallows an error": {blocked("HandlerFailed"), func(ctx context.Context, tx pgx.Tx, _ <-chan struct{}) error {
			_, _ = tx.Exec(ctx, "SELECT 1 / 0")
			return nil
		}},
		"breaks a deferred constraint": {blocked("HandlerFailed"), text(`CREATE TEMPORARY TABLE IF NOT EXISTS one (n int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP; INSERT INTO one VALUES (1), (1)`)},
		"fails with a text of many bytes": {blocked("HandlerFailed"), func(context.Context, pgx.Tx, <-chan struct{}) error {
			return errors.New(strings.Repeat("no \x00\xff", 100_000))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mended := make(chan struct{})
			mend := sync.OnceFunc(func() { close(mended) })
			t.Cleanup(mend)
			m := misbehave(t, calls+fine, handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
				select {
				case <-mended:
				default:
					if e.Type == "Bad" {
						if err := test.do(ctx, tx, mended); err != nil {
							return err
						}
					}
				}
				_, err := tx.Exec(ctx, `INSERT INTO seen (position) VALUES ($1)`, e.Position)
				return err
			}, "Good", "Bad"))
			m.judge(mend, test.says...)
		})
	}
	for name, test := range map[string]struct {
		says []string
		bad  string // runs as long as there is no row in mended
	}{
		"a statement that divides by zero":  {blocked("HandlerFailed"), "(data ->> 'n')::int / 0"},
		"a statement that sleeps":           {blocked("HandlerTimedOut"), "(SELECT 1 FROM pg_sleep(60))"},
		"a statement that ends its backend": {blocked("CallDidNotEnd"), "(SELECT 1 FROM pg_terminate_backend(pg_backend_pid()))"},
		"a statement with two rows":         {blocked("HandlerFailed"), "(SELECT 1 FROM generate_series(1, 2))"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := misbehave(t, sqlCalls("SELECT CASE WHEN NOT EXISTS (SELECT FROM mended) THEN "+test.bad+" END FROM event")+fine, nil)
			m.judge(func() { m.exec(`INSERT INTO mended VALUES (true)`) }, test.says...)
		})
	}
}

func TestAHandlerThatWouldEndItsTransactionIsNamed(t *testing.T) {
	for name, do := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"by tx.Commit":            func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
		"by a rollback and nil":   func(ctx context.Context, tx pgx.Tx) error { _ = tx.Rollback(ctx); return nil },
		"by a COMMIT":             func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "COMMIT"); return err },
		"on the connection":       func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Conn().Exec(ctx, "COMMIT"); return err },
		"by ROLLBACK and a BEGIN": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "ROLLBACK; BEGIN"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mended := make(chan struct{})
			mend := sync.OnceFunc(func() { close(mended) })
			t.Cleanup(mend)
			m := misbehave(t, calls+fine, handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
				_, err := tx.Exec(ctx, `INSERT INTO seen (position) VALUES ($1)`, e.Position)
				if err != nil {
					return err
				}
				select {
				case <-mended:
				default:
					if e.Type == "Bad" {
						return do(ctx, tx)
					}
				}
				return nil
			}, "Good", "Bad"))
			m.append("bad", "Good", "Bad", "Good")
			m.until("the definition to be named", m.says("HandlerValid=False", "TransactionEnded", "calls", "return nil instead"))
			m.append("other", "Good", "Good")
			m.until("the other group", func() bool { return m.query(`SELECT count(*) = 5 FROM fine`) })
			if m.query(`SELECT EXISTS (SELECT FROM seen JOIN sluice.event USING (position) WHERE type = 'Bad')`) {
				t.Error("the handler has committed")
			}
			mend()
			m.until("all events handled", func() bool {
				return m.query(`SELECT (SELECT array_agg(position ORDER BY n) FROM seen) = (SELECT array_agg(position ORDER BY position) FROM sluice.event)`)
			})
			m.until("clear conditions", m.says("HandlerValid=True"))
		})
	}
}
