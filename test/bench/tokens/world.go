package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const processor = "bench/default/tokens"

// world is a database with a processor of one group, and the worker processes on it.
type world struct {
	options
	dir      string
	server   *localpostgres.Server
	pool     *pgxpool.Pool
	store    *postgres.Store
	spec     definition.Spec
	workers  []*exec.Cmd
	settings string
}

func newWorld(ctx context.Context, o options) (w *world, err error) {
	w = &world{options: o}
	if w.dir, err = os.MkdirTemp("", "sluice-bench-tokens-"); err != nil {
		return nil, err
	}
	if err := w.open(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// open starts a server, with its default settings but for connections, and makes Sluice's tables.
func (w *world) open(ctx context.Context) error {
	bin, err := localpostgres.Find()
	if err != nil {
		return err
	}
	data := filepath.Join(w.dir, "data")
	if err := os.Chmod(w.dir, 0o755); err != nil { // the server runs as another user
		return err
	}
	w.server, err = localpostgres.Start(ctx, localpostgres.Options{BinDir: bin, DataDir: data, Settings: map[string]string{"max_connections": "200"}})
	if err != nil {
		return err
	}
	target, err := access.FromURL(w.server.URL("postgres"))
	if err != nil {
		return err
	}
	conn, err := postgres.Connect(ctx, postgres.Options{Target: target})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		return err
	}
	if w.pool, err = postgres.Open(postgres.Options{Target: target, Application: "bench", MaxConns: 10}); err != nil {
		return err
	}
	w.store = postgres.NewStore(w.pool, postgres.DefaultSchema)
	return w.describe(ctx)
}

// describe notes what the figures depend on.
func (w *world) describe(ctx context.Context) error {
	err := w.pool.QueryRow(ctx, `SELECT format('PostgreSQL %s, shared_buffers %s, fsync %s, synchronous_commit %s; table token: %s',
		current_setting('server_version'), current_setting('shared_buffers'), current_setting('fsync'), current_setting('synchronous_commit'),
		(SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = 'sluice.token'::regclass))`).Scan(&w.settings)
	if err != nil {
		return fmt.Errorf("asking for settings: %w", err)
	}
	w.settings += fmt.Sprintf("\n%d workers", w.options.workers)
	return nil
}

// declare makes the processor have its group, with so many segments.
func (w *world) declare(ctx context.Context, segments int) error {
	document, err := definition.ParseYAML(fmt.Appendf(nil, `apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: tokens}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}
  processingGroups:
  - name: view
    segments: %d
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS handled (stream_id text PRIMARY KEY, events bigint NOT NULL) WITH (fillfactor = 50)
        statements:
        - eventTypes: [Counted]
          batch: |
            INSERT INTO handled AS h SELECT stream_id, count(*) FROM events GROUP BY 1 ORDER BY 1
            ON CONFLICT (stream_id) DO UPDATE SET events = h.events + excluded.events
`, segments))
	if err != nil {
		return err
	}
	w.spec = document.Spec
	def := w.spec.Definition()
	text, err := json.Marshal(def)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.definition(), text, 0o644); err != nil {
		return err
	}
	source := eventlog.NewSource(w.pool, postgres.DefaultSchema)
	declared := declare.Processor{Owner: tokenstore.Owner{Processor: processor}, Spec: w.spec, Definition: def.ID(), Live: w.spec.Live(time.Now().UnixNano()), Replicas: w.options.workers}
	return declare.Write(ctx, w.store, postgres.NewDirectory(w.pool, postgres.DefaultSchema), declared, func(string, progress.StartPosition) (progress.Progress, error) {
		return source.Start(ctx, progress.StartPosition{Type: progress.Earliest})
	})
}

func (w *world) definition() string { return filepath.Join(w.dir, "definition.json") }

// start starts the workers, all at once.
func (w *world) start() error {
	secret := filepath.Join(w.dir, "secrets", "db")
	if err := os.MkdirAll(secret, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(secret, "uri"), []byte(w.server.URL("postgres")), 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range w.options.workers {
		log, err := os.Create(filepath.Join(w.dir, fmt.Sprintf("worker-%d.log", i)))
		if err != nil {
			return err
		}
		cmd := exec.Command(self, "worker")
		cmd.Env = append(os.Environ(), "SLUICE_PROCESSOR="+processor, fmt.Sprint("SLUICE_POD=worker-", i), "SLUICE_DEFINITION_FILE="+w.definition(),
			"SLUICE_SECRETS_DIR="+filepath.Join(w.dir, "secrets"), "SLUICE_METRICS_ADDRESS=", "SLUICE_PROBE_ADDRESS=",
			`SLUICE_STORE={"type":"Postgres","postgres":{"urlSecretRef":{"name":"db"}}}`)
		cmd.Stderr = log
		if err := errors.Join(cmd.Start(), log.Close()); err != nil {
			return err
		}
		w.workers = append(w.workers, cmd)
	}
	return nil
}

// until waits for a query that returns true, and returns how long that took since a time.
func (w *world) until(ctx context.Context, since time.Time, query string, args ...any) (float64, error) {
	for {
		var holds bool
		if err := w.pool.QueryRow(ctx, query, args...).Scan(&holds); err != nil {
			return 0, fmt.Errorf("waiting for %s: %w", query, err)
		}
		if holds {
			return time.Since(since).Seconds(), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("waiting for %s: %w", query, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// cpu is how much of a core a worker takes on average, over a time. It reads what Linux tells of processes.
func (w *world) cpu(ctx context.Context, over time.Duration) (float64, error) {
	before, err := w.cpuTime()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(over):
	}
	after, err := w.cpuTime()
	return (after - before).Seconds() / time.Since(began).Seconds() / float64(len(w.workers)), err
}

// cpuTime is what all workers have had.
func (w *world) cpuTime() (all time.Duration, err error) {
	for _, cmd := range w.workers {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
			ticks, err := strconv.Atoi(field)
			if err != nil {
				return 0, fmt.Errorf("reading /proc/%d/stat: %w", cmd.Process.Pid, err)
			}
			all += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return all, nil
}

// close ends all that was started. Logs of workers are kept where KEEP is set.
func (w *world) close() error {
	var all error
	for _, cmd := range w.workers {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // by the signal
	}
	if w.pool != nil {
		w.pool.Close()
	}
	if w.server != nil {
		all = w.server.Stop()
	}
	if os.Getenv("KEEP") != "" {
		fmt.Fprintln(os.Stderr, "kept", w.dir)
		return all
	}
	return errors.Join(all, os.RemoveAll(w.dir))
}
