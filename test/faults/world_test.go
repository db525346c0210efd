// Package faults runs real workers, as processes, against a real PostgreSQL, and kills, freezes, drains and scales them.
package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/test/history"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const processor = "test/default/faults"

// programs is where those are that the tests run.
var programs = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "sluice-faults-") })

// program is the worker's, built once.
var program = sync.OnceValues(func() (string, error) { return build("faultworker") })

// build builds the worker, and returns where it is.
func build(name string, flags ...string) (path string, err error) {
	dir, err := programs()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	out, err := exec.Command("go", slices.Concat([]string{"build", "-o", path}, flags, []string{"./faultworker"})...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the worker: %w\n%s", err, out)
	}
	return path, nil
}

// TestMain has more tests run at once than there are processors: most of the time one waits for a lease to end.
func TestMain(m *testing.M) {
	code := postgrestest.Run(m, 2)
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// world is a database with a processor, and the processes that work on it.
type world struct {
	t      *testing.T
	server *localpostgres.Server
	url    string
	pool   *pgxpool.Pool
	spec   definition.Spec
	dir    string
	next   int
	late   []*pod     // frozen in the middle of a rollout
	events *elsewhere // the database with the events, if it is not the store's
}

// groups are an SQL group that folds each stream into a count and a hash chain, whose segments share transactions, and a Go group that
// answers each event.
func groups(segments int) string {
	return fmt.Sprintf(`
  - name: view
    segments: %[1]d
    onError: {backoff: {initial: 50ms, max: 200ms}}
    handler:
      type: SQL
      rows: BySequence
      sql:
        setup: CREATE TABLE IF NOT EXISTS stream_view (stream_id text PRIMARY KEY, position bigint, replay boolean, events bigint NOT NULL, chain text NOT NULL)
        statements:
        - eventTypes: [Counted]
          each: |
            INSERT INTO stream_view AS v (stream_id, position, replay, events, chain) SELECT stream_id, position, replay, 1, md5(data ->> 'n') FROM event
            ON CONFLICT (stream_id) DO UPDATE SET events = v.events + 1, position = excluded.position, replay = excluded.replay, chain = md5(v.chain || excluded.chain)
  - name: answer
    segments: %[1]d
    onError: {backoff: {initial: 50ms, max: 200ms}}
    handler: {type: Go}
`, segments)
}

func newWorld(t *testing.T, groups string) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, server: postgrestest.Start(t), dir: t.TempDir()}
	t.Cleanup(func() { // after the pods have ended
		if t.Failed() {
			t.Logf("the last that pods logged:\n%s", w.lastLogged())
		}
	})
	w.url = w.server.URL("postgres")
	target, err := access.FromURL(w.url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := postgres.Connect(ctx, postgres.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	if w.pool, err = postgres.Open(postgres.Options{Target: target, Application: "test", MaxConns: 40}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.pool.Close)
	w.declare(groups)
	w.secret("db", w.url)
	return w
}

// secret writes a Secret with a URL where pods read it.
func (w *world) secret(name, url string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "secrets", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "uri"), []byte(url), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// parse makes the spec of a processor with these groups.
func (w *world) parse(groups string) definition.Spec {
	w.t.Helper()
	document, err := definition.ParseYAML([]byte("apiVersion: sluice.dev/v1alpha1\nkind: EventProcessor\nmetadata: {name: faults}\nspec:\n  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}\n  processingGroups:" + groups))
	if err != nil {
		w.t.Fatal(err)
	}
	return document.Spec
}

// declare makes the processor have these groups.
func (w *world) declare(groups string) {
	w.t.Helper()
	ctx := context.Background()
	w.spec = w.parse(groups)
	declared := declare.Processor{Owner: tokenstore.Owner{Processor: processor}, Spec: w.spec, Definition: w.spec.Definition().ID(), Live: w.spec.Live(time.Now().UnixNano()), Replicas: 3}
	err := declare.Write(ctx, postgres.NewStore(w.pool, postgres.DefaultSchema), postgres.NewDirectory(w.pool, postgres.DefaultSchema), declared, w.fromEarliest)
	if err != nil {
		w.t.Fatal(err)
	}
	w.publish(w.spec.Definition())
}

// fromEarliest starts groups at the oldest event.
func (w *world) fromEarliest(string, progress.StartPosition) (progress.Progress, error) {
	if w.events != nil {
		return eventlog.OpenSeparate(w.events.pool, postgres.DefaultSchema, w.spec.Source).Start(context.Background(), progress.StartPosition{Type: progress.Earliest})
	}
	return eventlog.NewSource(w.pool, postgres.DefaultSchema).Start(context.Background(), progress.StartPosition{Type: progress.Earliest})
}

// file is where pods read a definition.
func (w *world) file(d definition.Definition) string { return filepath.Join(w.dir, d.ID()+".json") }

// publish writes a definition where pods read it.
func (w *world) publish(d definition.Definition) {
	w.t.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.file(d), text, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// pod is a worker's process.
type pod struct {
	world *world
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
}

// start starts a worker, with settings of its own, and waits until it has registered: before, a signal would end it like any
// program.
func (w *world) start(environment ...string) *pod {
	w.t.Helper()
	return w.startProgram(program, environment...)
}

func (w *world) startProgram(program func() (string, error), environment ...string) *pod {
	w.t.Helper()
	path, err := program()
	if err != nil {
		w.t.Fatal(err)
	}
	w.next++
	p := &pod{world: w, name: fmt.Sprintf("pod-%d", w.next), ended: make(chan struct{})}
	p.cmd = exec.Command(path, "worker")
	p.cmd.Env = append(os.Environ(), "SLUICE_METRICS_ADDRESS=", "SLUICE_PROBE_ADDRESS=", "SLUICE_PROCESSOR="+processor, "SLUICE_POD="+p.name,
		"SLUICE_DEFINITION_FILE="+w.file(w.spec.Definition()), "SLUICE_SECRETS_DIR="+filepath.Join(w.dir, "secrets"),
		`SLUICE_STORE={"type":"Postgres","postgres":{"urlSecretRef":{"name":"db"}}}`)
	p.cmd.Env = append(p.cmd.Env, environment...)
	log, err := os.Create(filepath.Join(w.dir, p.name+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		defer log.Close()
		p.cmd.Wait() // how it ends is the tests' doing
	}()
	w.t.Cleanup(func() {
		p.cmd.Process.Kill() // it may have ended
		<-p.ended
	})
	w.until(p.name+" to register", `SELECT EXISTS (SELECT FROM sluice.worker WHERE pod = $1)`, p.name)
	return p
}

// What is shown of logs: few enough lines that the failure before them is not lost among them.
const (
	logLines = 60
	logWidth = 160
)

// lastLogged returns the last lines of all workers' logs, by the time that each begins with.
func (w *world) lastLogged() string {
	files, err := filepath.Glob(filepath.Join(w.dir, "*.log"))
	if err != nil {
		return err.Error()
	}
	var lines []string
	for _, file := range files {
		log, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		for line := range strings.Lines(string(readingLine.ReplaceAll(log, nil))) {
			line = strings.TrimPrefix(strings.TrimSpace(line), `{"time":"`)
			lines = append(lines, fmt.Sprintf("%.*s (%s)", logWidth, line, strings.TrimSuffix(filepath.Base(file), ".log")))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines[max(0, len(lines)-logLines):], "\n")
}

// logged counts the lines of all workers' logs that hold a text.
func (w *world) logged(text string) (lines int) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "*.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, file := range files {
		log, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		lines += strings.Count(string(log), text)
	}
	return lines
}

func (p *pod) signal(s syscall.Signal) {
	p.world.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.world.t.Fatalf("%s to %s: %v", s, p.name, err)
	}
}

// kill ends the process at once.
func (p *pod) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// drain ends the process by SIGTERM and fails unless it exits with 0.
func (p *pod) drain() {
	p.world.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.world.t.Fatalf("%s has not drained after 30 s", p.name)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.world.t.Errorf("%s drained with exit code %d", p.name, code)
	}
}

// until waits for a query that returns true.
func (w *world) until(what, query string, args ...any) {
	w.t.Helper()
	began := time.Now()
	deadline := began.Add(60 * time.Second)
	for {
		var holds bool
		err := w.pool.QueryRow(context.Background(), query, args...).Scan(&holds)
		if err == nil && holds {
			if took := time.Since(began); took > 5*time.Second {
				w.t.Logf("waited %s for %s", took.Round(time.Second), what)
			}
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited 60 s for %s (%v)\n%s", what, err, w.dump())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// dump tells who owns what and which replays there are.
func (w *world) dump() string {
	rows, err := w.pool.Query(context.Background(), `SELECT format('%s/%s/%s owner %s epoch %s at %s', t.group_name, t.segment, t.mask, owner, epoch, position) FROM sluice.token t
		UNION ALL SELECT format('worker %s %s %s %s', incarnation, pod, definition, state) FROM sluice.worker WHERE state <> 'Ended'
		UNION ALL SELECT format('replay %s %s %s %s %s: %s', number, id, definition, phase, reason, message) FROM sluice.replay
		UNION ALL SELECT format('processor wants %s', definition) FROM sluice.processor`)
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err.Error()
	}
	return strings.Join(lines, "\n")
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// record has the database write down what happens to the tokens, the view and the answers.
func (w *world) record() {
	w.t.Helper()
	ctx := context.Background()
	if err := history.Record(ctx, w.pool, postgres.DefaultSchema); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range []history.Projection{
		{Table: "public.stream_view", Group: "view", Key: "NEW.stream_id", Position: "NEW.position", Replay: "NEW.replay"},
		{Table: "sluice.event", Group: "answer", When: "NEW.type = 'Answered'", Key: "substr(NEW.stream_id, 8)", Replay: "false", // its replays would conflict
			Position: "(SELECT e.position FROM sluice.event e WHERE e.stream_id = substr(NEW.stream_id, 8) AND e.version = NEW.version)"},
	} {
		if err := history.Follow(ctx, w.pool, p); err != nil {
			w.t.Fatal(err)
		}
	}
}

// historyHolds checks what the database has written down.
func (w *world) historyHolds(want history.Want) {
	w.t.Helper()
	found, err := history.Check(context.Background(), w.pool, postgres.DefaultSchema, want, "Counted")
	w.t.Logf("the database's history: %+v", found)
	if err != nil {
		w.t.Error(err)
	}
}

// check waits until all events are handled and fails unless each was, once and in order.
func (w *world) check() (events int) {
	w.t.Helper()
	answers := slices.ContainsFunc(w.spec.ProcessingGroups, func(g definition.Group) bool { return g.Name == "answer" })
	w.until("all events to be handled", `SELECT (SELECT count(*) FROM sluice.event WHERE type = 'Counted') = (SELECT coalesce(sum(events), 0) FROM stream_view)
		AND (NOT $1 OR (SELECT count(*) FROM sluice.event WHERE type = 'Counted') = (SELECT count(*) FROM sluice.event WHERE type = 'Answered'))`, answers)
	var wrong, unanswered int
	err := w.pool.QueryRow(context.Background(), `
		WITH RECURSIVE log AS (
		  SELECT stream_id, data ->> 'n' AS n, version AS i FROM sluice.event WHERE type = 'Counted'
		), fold AS (
		  SELECT stream_id, i, md5(n) AS chain FROM log WHERE i = 1
		  UNION ALL SELECT l.stream_id, l.i, md5(f.chain || md5(l.n)) FROM fold f JOIN log l ON l.stream_id = f.stream_id AND l.i = f.i + 1
		), last AS (SELECT DISTINCT ON (stream_id) * FROM fold ORDER BY stream_id, i DESC)
		SELECT count(*) FILTER (WHERE (v.events, v.chain) IS DISTINCT FROM (l.i, l.chain)), coalesce(sum(v.events), 0),
		  (SELECT count(*) FROM log l WHERE NOT EXISTS (SELECT FROM sluice.event a WHERE a.stream_id = 'answer-' || l.stream_id AND a.version = l.i))
		  FROM last l FULL JOIN stream_view v USING (stream_id)`).Scan(&wrong, &events, &unanswered)
	if err != nil {
		w.t.Fatal(err)
	}
	if wrong > 0 || answers && unanswered > 0 {
		w.t.Fatalf("of %d events: %d streams of the view are not the fold over the log, %d events are not answered", events, wrong, unanswered)
	}
	return events
}

// writers append to random streams until the context ends; some transactions are slow, some are rolled back.
func (w *world) writers(ctx context.Context, n int) *sync.WaitGroup {
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			for turn := 0; ctx.Err() == nil; turn++ {
				if err := w.write(ctx, i, turn); err != nil && ctx.Err() == nil && !postgres.IsLost(err) {
					w.t.Errorf("appending: %v", err)
					return
				}
			}
		})
	}
	return &running
}

func (w *world) write(ctx context.Context, writer, turn int) error {
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // nothing is left to roll back after a commit
	stream := fmt.Sprintf("stream-%d", (writer*7+turn)%40)
	if _, err := tx.Exec(ctx, `SELECT sluice.append($1, NULL, jsonb_build_array(jsonb_build_object('type', 'Counted', 'data', jsonb_build_object('n', $2::text))))`, stream, fmt.Sprint(writer, "-", turn)); err != nil {
		return err
	}
	switch {
	case turn%10 == 3:
		return tx.Rollback(ctx)
	case turn%25 == 7:
		if _, err := tx.Exec(ctx, "SELECT pg_sleep(0.3)"); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, "SELECT pg_sleep(0.004)"); err != nil {
		return err
	}
	// A commit that is given up may take effect later, after a test has counted the events.
	return tx.Commit(context.WithoutCancel(ctx))
}
