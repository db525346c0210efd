package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/eventsource"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const processor = "test/default/orders"

// view folds each stream into a count and a hash chain: it differs for any event lost, applied twice or out of order.
const view = `
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL)
        statements:
        - eventTypes: [Counted]
          each: |
            INSERT INTO stream_view AS v (stream_id, events, chain) SELECT stream_id, 1, md5(data ->> 'n') FROM event
            ON CONFLICT (stream_id) DO UPDATE SET events = v.events + 1, chain = md5(v.chain || excluded.chain)
`

// world is a database with a processor in it.
type world struct {
	t         *testing.T
	url       string
	pool      *pgxpool.Pool
	spec      definition.Spec
	groups    string                     // as they were declared last
	requested []tokenstore.ReplayRequest // replays, last
	handlers  map[string]handler.Handler
	log       *eventspostgres.Log
	events    *pgxpool.Pool // to the database with the events, if it is not the store's
	eventsURL string
	drains    map[string]func() // by pod
	registry  prometheus.Registerer

	executors int   // of each worker, 0 for as many as there are by default
	memory    int64 // of the next workers, for events; the default where it is 0

	grace time.Duration // of calls of the next workers, after their time limit; the default where it is 0
}

func newWorld(t *testing.T, groups string) *world {
	t.Helper()
	return newWorldAt(t, postgrestest.New(t), groups)
}

// newWorldAt makes a world in a database.
func newWorldAt(t *testing.T, url, groups string) *world {
	t.Helper()
	ctx := context.Background()
	w := openWorld(t, url)
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := postgres.Migrate(ctx, conn.Conn(), postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	w.edit(groups)
	return w
}

// openWorld looks at the world that there is in a database.
func openWorld(t *testing.T, url string) *world {
	t.Helper()
	w := &world{t: t, url: url, drains: map[string]func(){}}
	target, err := access.FromURL(w.url)
	if err != nil {
		t.Fatal(err)
	}
	if w.pool, err = postgres.Open(postgres.Options{Target: target, Application: "test", MaxConns: 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.pool.Close)
	w.log = eventspostgres.NewLog(w.pool, postgres.DefaultSchema)
	return w
}

// edit declares the processor with these groups.
func (w *world) edit(groups string, replays ...tokenstore.ReplayRequest) {
	w.t.Helper()
	if err := w.tryEdit(groups, replays...); err != nil {
		w.t.Fatal(err)
	}
}

// tryEdit does what the operator does, and returns what the store has against the groups. Without replays, those there are stay.
func (w *world) tryEdit(groups string, replays ...tokenstore.ReplayRequest) error {
	w.t.Helper()
	ctx := context.Background()
	document, err := definition.ParseYAML([]byte(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: orders}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}
  processingGroups:` + groups))
	if err != nil {
		w.t.Fatal(err)
	}
	before := w.spec
	w.spec, w.groups = document.Spec, groups
	if len(replays) > 0 {
		w.requested = replays
	}
	w.complete(w.requested)
	var source eventsource.Source = eventspostgres.Open(w.pool, postgres.DefaultSchema, w.spec.Source)
	if w.events != nil {
		source = eventspostgres.OpenSeparate(w.events, postgres.DefaultSchema, w.spec.Source)
	}
	p := declare.Processor{Owner: tokenstore.Owner{Processor: processor}, Spec: w.spec, Definition: w.spec.Definition().ID(), Live: w.spec.Live(time.Now().UnixNano()),
		Replicas: 3, Replays: w.requested}
	err = declare.Write(ctx, w.store(), postgres.NewDirectory(w.pool, postgres.DefaultSchema), p, func(string, progress.StartPosition) (progress.Progress, error) {
		return source.Start(ctx, progress.StartPosition{Type: progress.Earliest})
	})
	if err != nil {
		w.spec = before
	}
	return err
}

func (w *world) target() func(context.Context) (postgres.Target, error) {
	w.t.Helper()
	target, err := access.FromURL(w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	return target
}

// source is the way to the database with the events.
func (w *world) source(definition.SourcePostgres) (backend.Target, error) {
	return access.FromURL(w.eventsURL)
}

// start runs a worker and returns what drains it and waits until it has.
func (w *world) start(pod string) (drain func()) {
	w.t.Helper()
	target := w.target()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	def := w.spec.Definition()
	run := worker.New(worker.Options{Processor: processor, Pod: pod, Definition: def, DefinitionID: def.ID(), Handlers: w.handlers, Executors: w.executors, Memory: w.memory, CallGrace: w.grace,
		Backend: backend.Postgres{Target: target, Schema: postgres.DefaultSchema, Source: w.source}, Version: "test", Registry: w.registry,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("pod", pod)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	drain = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("worker %s: %v", pod, err)
			}
		case <-time.After(30 * time.Second):
			w.t.Errorf("worker %s does not end", pod)
		}
	})
	w.t.Cleanup(drain)
	w.drains[pod] = drain
	return drain
}

// appendTo appends n events to each of some streams.
func (w *world) appendTo(streams, n int) {
	w.t.Helper()
	for i := range n {
		for s := range streams {
			_, err := w.log.Append(context.Background(), fmt.Sprintf("stream-%d", s), eventspostgres.Any, eventspostgres.NewEvent{Type: "Counted", Data: map[string]int{"n": i}})
			if err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// begin begins a transaction that the server does not end for doing nothing, however slow the machine is.
func (w *world) begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = 0")
	return tx, err
}

// appendAtOnce appends an event to each of some streams, in one transaction: readers get all of them together.
func (w *world) appendAtOnce(streams, n int) {
	w.t.Helper()
	ctx := context.Background()
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		for s := range streams {
			if _, err := w.log.AppendTx(ctx, tx, fmt.Sprintf("stream-%d", s), eventspostgres.Any, eventspostgres.NewEvent{Type: "Counted", Data: map[string]int{"n": n}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.log.Notify()
}

// folded fails unless the view is the fold over the log, and returns how many events it holds.
func (w *world) folded() (events int) {
	w.t.Helper()
	var wrong int
	err := w.pool.QueryRow(context.Background(), `
		WITH RECURSIVE log AS (
		  SELECT stream_id, data ->> 'n' AS n, row_number() OVER (PARTITION BY stream_id ORDER BY position) AS i FROM sluice.event WHERE type = 'Counted'
		), fold AS (
		  SELECT stream_id, i, md5(n) AS chain FROM log WHERE i = 1
		  UNION ALL SELECT l.stream_id, l.i, md5(f.chain || md5(l.n)) FROM fold f JOIN log l ON l.stream_id = f.stream_id AND l.i = f.i + 1
		), last AS (SELECT DISTINCT ON (stream_id) * FROM fold ORDER BY stream_id, i DESC)
		SELECT count(*) FILTER (WHERE (v.events, v.chain) IS DISTINCT FROM (l.i, l.chain)), coalesce(sum(v.events), 0)
		  FROM last l FULL JOIN stream_view v USING (stream_id)`).Scan(&wrong, &events)
	if err != nil {
		w.t.Fatal(err)
	}
	if wrong > 0 {
		w.t.Fatalf("%d streams of the view are not the fold over the log", wrong)
	}
	return events
}

// until waits for a condition on the database: a query that returns true. It asks ever more rarely, lest the questions take the time that the answer needs.
func (w *world) until(what, query string, args ...any) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for pause := 2 * time.Millisecond; ; pause = min(pause*5/4, 50*time.Millisecond) {
		var holds bool
		err := w.pool.QueryRow(context.Background(), query, args...).Scan(&holds)
		if err == nil && holds {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited 30 s for %s (%v)\n%s", what, err, w.dump())
		}
		time.Sleep(pause)
	}
}

func (w *world) handled(n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d events in the view", n), `SELECT to_regclass('stream_view') IS NOT NULL AND (SELECT coalesce(sum(events), 0) >= $1 FROM stream_view)`, n)
}

func (w *world) dump() string {
	rows, err := w.pool.Query(context.Background(), `SELECT format('%s/%s/%s owner %s epoch %s at %s', t.group_name, t.segment, t.mask, owner, epoch, position) FROM sluice.token t
		UNION ALL SELECT format('worker %s %s %s', incarnation, state, report) FROM sluice.worker`)
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err.Error()
	}
	return strings.Join(lines, "\n")
}

func TestAWorkerFoldsTheLogIntoAView(t *testing.T) {
	w := newWorld(t, "\n  - name: view\n    segments: 4"+view)
	w.appendTo(10, 10)
	w.start("a")
	w.handled(100)
	w.appendTo(10, 10)
	w.handled(200)
	if n := w.folded(); n != 200 {
		t.Fatalf("%d events in the view", n)
	}
}

func TestWorkersShareTheSegmentsAndHandThemOver(t *testing.T) {
	w := newWorld(t, "\n  - name: view\n    segments: 8"+view)
	w.start("a")
	owners := func(n int) string {
		return fmt.Sprintf(`SELECT count(*) = 8 AND count(DISTINCT owner) = %d AND min(c) >= 8 / %d FROM (
			SELECT owner, count(*) OVER (PARTITION BY owner) c FROM sluice.token WHERE owner <> 0) t`, n, n)
	}
	w.until("one owner", owners(1))
	drainB := w.start("b")
	w.until("two owners", owners(2))
	w.start("c")
	w.until("three owners", owners(3))
	w.appendTo(20, 10)
	drainB()
	w.appendTo(20, 10)
	w.until("two owners again", owners(2))
	w.handled(400)
	if n := w.folded(); n != 400 {
		t.Fatalf("%d events in the view", n)
	}
}

func TestSegmentsAreSplitAndMergedWhileEventsArrive(t *testing.T) {
	groups := func(n int) string { return fmt.Sprintf("\n  - name: view\n    segments: %d", n) + view }
	w := newWorld(t, groups(2))
	w.start("a")
	w.start("b")
	total := 0
	for _, n := range []int{8, 3, 16, 1, 5} {
		w.edit(groups(n))
		w.appendTo(20, 5)
		total += 100
		w.until(fmt.Sprintf("%d segments, all owned", n), `SELECT count(*) = $1 AND bool_and(owner <> 0) FROM sluice.token`, n)
	}
	w.handled(total)
	if n := w.folded(); n != total {
		t.Fatalf("%d events in the view, want %d", n, total)
	}
}
