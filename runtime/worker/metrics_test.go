package worker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-project/sluice/runtime/feed"
)

// TestTheMemoryOfEventsIsTold has events wait for a lock: they count as long as they do.
func TestTheMemoryOfEventsIsTold(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	w := newWorld(t, fmt.Sprintf(viewOf, 1))
	w.registry = registry
	w.start("a")
	w.appendTo(1, 1)
	w.handled(1)
	tx, err := w.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(context.Background(), "LOCK TABLE stream_view IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	w.appendTo(20, 10)
	untilGauge(t, registry, "sluice_event_memory_bytes", func(v float64) bool { return v > 200*100 })
	untilGauge(t, registry, "sluice_event_memory_limit_bytes", func(v float64) bool { return v > 0 && v <= feed.DefaultMemory })
	if err := tx.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.handled(201)
	untilGauge(t, registry, "sluice_event_memory_bytes", func(v float64) bool { return v < 200*100 })
}

func untilGauge(t *testing.T, from prometheus.Gatherer, name string, is func(float64) bool) {
	t.Helper()
	var last float64
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		families, err := from.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			if last = f.GetMetric()[0].GetGauge().GetValue(); is(last) {
				return
			}
		}
	}
	t.Fatalf("waited 30 s for %s, which is %g", name, last)
}
