package worker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const fromElsewhere = "\n  source: {type: Store, postgres: {urlSecretRef: {name: events}}}\n"

// newSeparateWorld makes a world whose events are in another database than its store.
func newSeparateWorld(t *testing.T, eventsURL, groups string) *world {
	t.Helper()
	ctx := context.Background()
	w := openWorld(t, postgrestest.New(t))
	w.eventsURL = eventsURL
	target, err := access.FromURL(eventsURL)
	if err != nil {
		t.Fatal(err)
	}
	if w.events, err = postgres.Open(postgres.Options{Target: target, Application: "test", MaxConns: 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.events.Close)
	w.log = eventspostgres.NewLog(w.events, postgres.DefaultSchema)
	for _, url := range []string{w.url, eventsURL} {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.edit(groups)
	return w
}

// wantChains fails unless the view is the fold over streams of n events each, that appendTo has
// appended by so many calls.
func (w *world) wantChains(streams, calls, n int) {
	w.t.Helper()
	var wrong, found int
	err := w.pool.QueryRow(context.Background(), `
		WITH RECURSIVE fold AS (
		  SELECT 1 AS i, md5('0') AS chain
		  UNION ALL SELECT i + 1, md5(chain || md5((i % $1::integer)::text)) FROM fold WHERE i < $1 * $2::integer)
		SELECT count(*) FILTER (WHERE (v.events, v.chain) IS DISTINCT FROM (f.i, f.chain)), count(*) FROM stream_view v, (SELECT * FROM fold ORDER BY i DESC LIMIT 1) f`, n, calls).Scan(&wrong, &found)
	if err != nil {
		w.t.Fatal(err)
	}
	if wrong > 0 || found != streams {
		w.t.Fatalf("%d of %d streams are not the fold over the log, want %d", wrong, found, streams)
	}
}

func TestAWorkerReadsEventsOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	w := newSeparateWorld(t, postgrestest.New(t), "\n  - name: view\n    segments: 4"+view+"  - name: answer\n    segments: 2\n    handler: {type: Go}"+fromElsewhere)
	w.sql(`CREATE TABLE answers (stream text, version bigint, data jsonb, PRIMARY KEY (stream, version))`)
	w.handlers = map[string]handler.Handler{"answer": sluice.Each(func(ctx context.Context, tx pgx.Tx, e sluice.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO answers VALUES ($1, $2, $3)", e.StreamID, e.Version, e.Data)
		return err
	})}
	w.appendTo(10, 10)
	w.start("a")
	w.handled(100)
	w.start("b")
	w.appendTo(10, 10)
	w.handled(200)
	w.wantChains(10, 2, 10)
	w.until("all events to be answered, with their data", `SELECT count(*) = 200 AND bool_and(data ->> 'n' = ((version - 1) % 10)::text) FROM answers`)
	w.until("tokens that name the database", `SELECT bool_and(snapshot LIKE '@%/% %.% |%') FROM sluice.token`)
	w.until("nothing in the store's own table of events", `SELECT count(*) = 0 FROM sluice.event`)
}

func TestAWorkerReadsATableOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	const table = `
  source:
    type: Table
    postgres: {urlSecretRef: {name: events}}
    table: {name: public.outbox, columns: {position: id, stream: agg, type: type, recordedAt: created}, data: {column: payload, type: Text}}
`
	url := postgrestest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), textOutbox); err != nil {
		t.Fatal(err)
	}
	w := newSeparateWorld(t, url, "\n  - name: unused\n    segments: 1"+view+table)
	w.edit(strings.Split(readsOutbox("a type: Stream"), "  source:")[0] + table)
	insert := func(from, to int) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), `INSERT INTO outbox (agg, payload) SELECT 's' || n % 10, jsonb_build_object('customer', n % 7) FROM generate_series($1::integer, $2::integer) AS n`, from, to); err != nil {
			t.Fatal(err)
		}
	}
	insert(1, 50)
	w.start("a")
	w.until("the first events", `SELECT count(*) = 50 AND count(DISTINCT position) = 50 AND bool_and(customer = (position % 7)::text AND stream = 's' || position % 10) FROM got_a`)
	insert(51, 90)
	w.until("all events", `SELECT count(*) = 90 AND count(DISTINCT position) = 90 FROM got_a`)
}

// unreadableFor is a query whether a worker reports that events cannot be read, and why.
const unreadableFor = `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,view,fault,reason}' = 'EventsUnreadable' AND report #>> '{groups,view,fault,message}' LIKE $1)`

// Without the source's database a worker stays a member: it says what is missing, hands over and
// drains. It goes on by itself.
func TestAWorkerGoesOnWithoutTheDatabaseOfItsSource(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	t.Cleanup(func() { server.Stop() })
	w := newSeparateWorld(t, server.URL("postgres"), "\n  - name: view\n    segments: 4"+view+fromElsewhere)
	w.appendTo(10, 5)
	w.start("a")
	w.handled(50)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	w.until("the worker to say so", unreadableFor, "%the database of spec.source: %")
	drain := w.start("b") // joins meanwhile
	w.until("segments of both", `SELECT count(DISTINCT owner) = 2 FROM sluice.token WHERE owner <> 0`)
	drain()
	w.until("segments of one again", `SELECT count(DISTINCT owner) = 1 AND count(*) = 4 FROM sluice.token WHERE owner <> 0`)
	w.until("few claims", `SELECT max(epoch) < 12 FROM sluice.token`)
	again, err := server.Restart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Stop() })
	w.events.Reset() // its connections are those of before
	w.appendTo(10, 5)
	w.handled(100)
	w.wantChains(10, 2, 5)
	w.until("nothing to be wrong any more", `SELECT NOT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,view,fault}' IS NOT NULL AND state <> 'Ended')`)
}

// signalServer sends a signal to all processes of a server.
func signalServer(t *testing.T, server *localpostgres.Server, signal syscall.Signal) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(server.DataDir(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", postmaster))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(strings.Fields(string(children)), first) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(n, signal); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// A server that answers nothing keeps nobody from the store.
func TestAWorkerHandsOverWhileTheDatabaseOfItsSourceHangs(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	w := newSeparateWorld(t, server.URL("postgres"), "\n  - name: view\n    segments: 4"+view+fromElsewhere)
	w.appendTo(10, 5)
	w.start("a")
	w.handled(50)
	signalServer(t, server, syscall.SIGSTOP)
	t.Cleanup(func() { signalServer(t, server, syscall.SIGCONT) })
	drain := w.start("b")
	w.until("segments of both", `SELECT count(DISTINCT owner) = 2 FROM sluice.token WHERE owner <> 0`)
	drain()
	w.until("segments of one again", `SELECT count(DISTINCT owner) = 1 AND count(*) = 4 FROM sluice.token WHERE owner <> 0`)
	w.until("the worker to say what hangs", unreadableFor, "the database of spec.source has not answered a read of events%")
	signalServer(t, server, syscall.SIGCONT)
	w.appendTo(10, 5)
	w.handled(100)
	w.wantChains(10, 2, 5)
}

// A source with other events in place of those that were handled is not read on.
func TestAWorkerStopsAtASourceThatWasReplaced(t *testing.T) {
	t.Parallel()
	w := newSeparateWorld(t, postgrestest.New(t), "\n  - name: view\n    segments: 2"+view+fromElsewhere)
	w.appendTo(4, 5)
	drain := w.start("a")
	w.handled(20)
	drain()
	former := w.eventsURL
	other := newSeparateWorld(t, postgrestest.New(t), "\n  - name: view\n    segments: 2"+view+fromElsewhere)
	other.appendTo(4, 50)
	w.eventsURL = other.eventsURL
	drain = w.start("b")
	w.until("the worker to say so", unreadableFor, "%the events come from the database%")
	drain()
	w.eventsURL = former
	w.appendTo(4, 5)
	w.start("c")
	w.handled(40)
	w.wantChains(4, 2, 5)
}
