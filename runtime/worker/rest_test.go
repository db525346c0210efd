package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

// besides are a group with a backlog, whose batches of a hundred events take 20 ms or longer, and one that has handled all there is.
const besides = `
  - name: old
    segments: 1
    maxBatchSize: 100
    handler:
      type: SQL
      sql:
        statements:
        - eventTypes: [Old]
          batch: WITH slept AS MATERIALIZED (SELECT pg_sleep(0.02)) INSERT INTO seen SELECT position, clock_timestamp() FROM events, slept
  - name: live
    segments: 1
    handler:
      type: SQL
      sql:
        statements:
        - eventTypes: [Ticked]
          batch: INSERT INTO ticked SELECT position FROM events
`

// TestABacklogRestsBesideLiveEventsOfAnotherWorker has one worker go through a backlog and another one handle live events, while commits are slow: the backlog rests, and no
// longer when nothing live comes any more.
func TestABacklogRestsBesideLiveEventsOfAnotherWorker(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, besides)
	do := func(sql string) {
		t.Helper()
		if _, err := w.pool.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	do("CREATE TABLE seen (position bigint PRIMARY KEY, at timestamptz)")
	do("CREATE TABLE ticked (position bigint PRIMARY KEY)")
	w.executors = 2    // of which one may have a backlog
	w.memory = 1 << 20 // so that not all of it is read at once
	rests := map[string]*prometheus.Registry{}
	for _, pod := range []string{"a", "b"} {
		registry := prometheus.NewRegistry()
		rests[pod], w.registry = registry, registry
		w.start(pod)
	}
	w.until("each worker to have a group", "SELECT count(DISTINCT owner) FILTER (WHERE owner > 0) = 2 FROM sluice.token")
	var pod string
	if err := w.pool.QueryRow(ctx, "SELECT pod FROM sluice.worker JOIN sluice.token ON owner = incarnation WHERE group_name = 'old'").Scan(&pod); err != nil {
		t.Fatal(err)
	}

	tick := func(ctx context.Context) error {
		_, err := w.log.Append(ctx, "live", postgres.Any, postgres.NewEvent{Type: "Ticked"})
		return err
	}
	slow := func(ctx context.Context) error { // whoever locks a worker's row, as a probe does, waits
		_, err := w.pool.Exec(ctx, "WITH locked AS MATERIALIZED (SELECT FROM sluice.worker FOR UPDATE) SELECT pg_sleep(0.06) FROM (SELECT count(*) FROM locked) AS all_of_them")
		return err
	}
	do("INSERT INTO sluice.event (stream_id, version, type, data) SELECT 's' || i, 1, 'Old', '{}' FROM generate_series(1, 100000) AS i")
	w.log.Notify()
	w.until("the backlog to be begun", "SELECT EXISTS (SELECT FROM seen)")
	stopTicks, stopLocks := w.meanwhile(10*time.Millisecond, tick), w.meanwhile(60*time.Millisecond, slow) // half of the time
	untilGauge(t, rests[pod], "sluice_backlog_rest", func(v float64) bool { return v > 3 })
	w.until("pauses of 120 ms and longer between two batches", `SELECT count(*) > 3 FROM (
		SELECT min(at) - lag(max(at)) OVER (ORDER BY min(at)) AS pause FROM seen GROUP BY xmin::text) AS batch WHERE pause > interval '120 ms'`)
	stopTicks()
	untilGauge(t, rests[pod], "sluice_backlog_rest", func(v float64) bool { return v == 0 })
	stopLocks()
}

// meanwhile does something again and again, with pauses, until it is told to stop.
func (w *world) meanwhile(pause time.Duration, do func(context.Context) error) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := do(ctx); err != nil && ctx.Err() == nil {
				done <- err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
		done <- nil
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(stop)
	return stop
}
