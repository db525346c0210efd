package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/system"
	"github.com/sluice-project/sluice/segment"
)

const (
	namespace = "bench-takeover"
	database  = "bench_takeover"
	replicas  = 3
	segments  = 12
	every     = 20 * time.Millisecond // between two events of a segment
	patience  = 3 * time.Minute
)

// world is the system with the bench's namespace and database.
type world struct {
	*system.System
	db      *pgxpool.Pool
	streams []string // one of each segment
	cluster string   // the program hack/cluster, built: it begins sooner than by go run

	// Of the run.
	name    string
	edition int
	stop    context.CancelFunc // of the writer
	writing sync.WaitGroup
}

func newWorld(ctx context.Context) (*world, error) {
	w := &world{System: &system.System{Root: "."}}
	for _, step := range []func(context.Context) error{w.Up, w.StartDatabase, w.BuildImages, w.InstallChart, w.buildCluster, w.clean} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	config, err := pgxpool.ParseConfig(strings.Replace(w.DatabaseURL, "/app?", "/"+database+"?", 1))
	if err != nil {
		return nil, err
	}
	config.MaxConns = 12
	if w.db, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	w.streams, err = oneOfEach(segments)
	return w, err
}

func (w *world) buildCluster(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	w.cluster = filepath.Join(dir, "cluster")
	_, err = w.Run(ctx, "go", "build", "-C", "hack/cluster", "-o", w.cluster, ".")
	return err
}

// oneOfEach returns a stream for each of n segments.
func oneOfEach(n int) ([]string, error) {
	layout, err := segment.Layout(n)
	if err != nil {
		return nil, err
	}
	streams := make([]string, len(layout))
	for i, s := range layout {
		for k := 0; streams[i] == ""; k++ {
			if stream := fmt.Sprintf("s-%d", k); s.Contains(segment.PG1(stream)) {
				streams[i] = stream
			}
		}
	}
	return streams, nil
}

// clean makes namespace and database anew.
func (w *world) clean(ctx context.Context) error {
	// First the processors, while there still is the Secret by which the operator drops their rows.
	if _, err := w.Kubectl(ctx, "--namespace", namespace, "delete", "eventprocessors", "--all", "--wait"); err != nil {
		return err
	}
	if _, err := w.Kubectl(ctx, "delete", "namespace", namespace, "--ignore-not-found", "--wait"); err != nil {
		return err
	}
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + database + " WITH (FORCE)", "CREATE DATABASE " + database} {
		if _, err := w.Database.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if _, err := w.Kubectl(ctx, "create", "namespace", namespace); err != nil {
		return err
	}
	url := strings.Replace(system.PodURL, "/app?", "/"+database+"?", 1)
	return w.Apply(ctx, namespace, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {uri: %q}\n", url))
}

// leave removes what the bench has made.
func (w *world) leave(ctx context.Context) error {
	w.db.Close()
	if err := os.RemoveAll(filepath.Dir(w.cluster)); err != nil {
		return err
	}
	if _, err := w.Kubectl(ctx, "delete", "namespace", namespace, "--wait"); err != nil {
		return err
	}
	_, err := w.Database.Exec(ctx, "DROP DATABASE "+database+" WITH (FORCE)")
	return err
}

// introduce prints what is measured, and on what.
func (w *world) introduce(ctx context.Context, runs int) error {
	var version string
	var theirs time.Time
	before := time.Now()
	if err := w.Database.QueryRow(ctx, "SELECT version(), clock_timestamp()").Scan(&version, &theirs); err != nil {
		return err
	}
	offset := theirs.Sub(before.Add(time.Since(before) / 2)).Abs()
	if offset > 20*time.Millisecond {
		return fmt.Errorf("this process's clock and the database's differ by %s; signals are timed by the one, commits by the other", offset)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	nodes, err := w.Kubectl(ctx, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}")
	if err != nil {
		return err
	}
	commit, err := w.Run(ctx, "git", "describe", "--always", "--dirty")
	if err != nil {
		return err
	}
	fmt.Printf(`Sluice %s, %s
%s
Kubernetes %s, Linux %s, %d CPUs that everything shares
%d workers, %d segments, an event in each every %s; lease 5 s, heartbeat 1 s; %d runs
Figures: from the signal to the first stamp by another worker, of the last of the victim's segments.
Baseline: from the signal until the victim's session lock is free.
`, commit, runtime.Version(), version, nodes, strings.TrimSpace(string(kernel)), runtime.NumCPU(), replicas, segments, every, runs)
	return nil
}

// begin starts a processor and its writer.
func (w *world) begin(ctx context.Context, name string) error {
	w.name, w.edition = name, 0
	if err := w.apply(ctx); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for ready := false; !ready; {
		if waiting.Err() != nil {
			return fmt.Errorf("%s is not ready after %s", name, patience)
		}
		if err := w.db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, w.stamps()).Scan(&ready); err != nil {
			return err
		}
		sleep(waiting, 50*time.Millisecond)
	}
	writer, stop := context.WithCancel(ctx)
	w.stop = stop
	w.writing.Go(func() { w.write(writer) })
	return nil
}

// end removes them.
func (w *world) end(ctx context.Context) error {
	w.stop()
	w.writing.Wait()
	_, err := w.Kubectl(ctx, "--namespace", namespace, "delete", "eventprocessor/"+w.name, "--wait")
	return err
}

func (w *world) processor() string { return "kubernetes/" + namespace + "/" + w.name }
func (w *world) stamps() string    { return "stamp_" + w.name }

// apply applies the processor; another edition is another definition.
func (w *world) apply(ctx context.Context) error {
	return w.Apply(ctx, namespace, fmt.Sprintf(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  deletionPolicy: Delete
  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}
  processingGroups:
  - name: %[1]s
    segments: %[3]d
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS %[4]s (stream text, position bigint, at timestamptz, worker bigint)
        statements:
        - eventTypes: [Ticked]
          batch: |
            INSERT INTO %[4]s /* edition %[5]d */ SELECT stream_id, position, clock_timestamp(), split_part(current_setting('application_name'), '/', 3)::bigint
              FROM events ORDER BY position
  template:
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {sluice.dev/processor: %[1]s}}
      containers:
      - name: worker
        resources: {requests: {cpu: 20m, memory: 32Mi}}
`, w.name, replicas, segments, w.stamps(), w.edition))
}

// write appends an event to each stream, again and again.
func (w *world) write(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		// While the database is away, this is tried again with the next tick.
		_, err := w.db.Exec(ctx, `SELECT sluice.append(s, NULL, '[{"type": "Ticked", "data": {}}]') FROM unnest($1::text[]) AS s`, w.streams)
		if err != nil && ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// settle waits until all is as it should be: so many ready workers of the newest definition, each of which owns segments and
// stamps, and nothing has moved for a while.
func (w *world) settle(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last, since := "", time.Now()
	for waiting.Err() == nil {
		var settled bool
		var owners string
		err := w.db.QueryRow(waiting, `
			WITH live AS (
			  SELECT w.incarnation FROM sluice.worker w JOIN sluice.processor p ON p.name = w.processor
			   WHERE p.name = $1 AND w.state = 'Active' AND w.definition = p.definition AND w.lease_until > clock_timestamp() AND (w.report ->> 'ready')::bool
			), all_workers AS (
			  SELECT count(*) AS n FROM sluice.worker WHERE processor = $1 AND state <> 'Ended' AND lease_until > clock_timestamp()
			), t AS (
			  SELECT t.segment, t.owner FROM sluice.token t WHERE t.group_name = $2
			)
			SELECT (SELECT n FROM all_workers) = $3 AND (SELECT count(*) FROM live) = $3
			   AND (SELECT count(*) FROM t WHERE owner IN (SELECT incarnation FROM live)) = $4
			   AND (SELECT count(DISTINCT owner) FROM t) = $3
			   AND (SELECT count(DISTINCT stream) FROM `+w.stamps()+` WHERE at > clock_timestamp() - interval '300 ms') = $4,
			  coalesce((SELECT string_agg(owner::text, ' ' ORDER BY segment) FROM t), '')`,
			w.processor(), w.name, replicas, segments).Scan(&settled, &owners)
		if err != nil || !settled || owners != last {
			last, since = owners, time.Now()
		} else if time.Since(since) > 2*time.Second {
			_, err := w.db.Exec(ctx, "TRUNCATE "+w.stamps())
			sleep(ctx, 500*time.Millisecond) // for new stamps
			return err
		}
		sleep(waiting, 50*time.Millisecond)
	}
	return fmt.Errorf("%s has not settled after %s", w.name, patience)
}

// stamped returns the workers with the streams that they stamped last.
func (w *world) stamped(ctx context.Context) (map[int64][]string, error) {
	rows, err := w.db.Query(ctx, `SELECT DISTINCT ON (stream) worker, stream FROM `+w.stamps()+` ORDER BY stream, at DESC`)
	if err != nil {
		return nil, err
	}
	owned := map[int64][]string{}
	var worker int64
	var stream string
	_, err = pgx.ForEachRow(rows, []any{&worker, &stream}, func() error {
		owned[worker] = append(owned[worker], stream)
		return nil
	})
	return owned, err
}

// pauses waits until workers other than the victims have stamped events of all the streams since a time, and returns how long after it.
func (w *world) pauses(ctx context.Context, victims []int64, streams []string, since time.Time) ([]time.Duration, error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		rows, err := w.db.Query(waiting, `SELECT min(at) FROM `+w.stamps()+` WHERE stream = ANY ($1) AND at > $2 AND worker <> ALL ($3) GROUP BY stream`, streams, since, victims)
		var firsts []time.Time
		if err == nil {
			firsts, err = pgx.CollectRows(rows, pgx.RowTo[time.Time])
		}
		if err == nil && len(firsts) == len(streams) {
			var pauses []time.Duration
			for _, first := range firsts {
				pauses = append(pauses, first.Sub(since))
			}
			return pauses, nil
		}
		if waiting.Err() != nil {
			return nil, fmt.Errorf("after %s %d of %d segments go on", patience, len(firsts), len(streams))
		}
		sleep(waiting, 20*time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
