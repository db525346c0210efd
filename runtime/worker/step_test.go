package worker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// deadlocks is a handler whose batches all do.
type deadlocks struct{}

func (deadlocks) Wants(string) bool { return true }

func (deadlocks) Apply(context.Context, handler.Transaction, []*handler.Event) error {
	return &pgconn.PgError{Code: "40P01"}
}

// TestABatchThatFailsIsThatOfTheSegmentItIsFrom has an executor take a segment that has nothing to do, and another one with it, whose batch fails: that one has to wait and be free to go on. Were it the one that was
// taken first, the other would count as being at work for ever.
func TestABatchThatFailsIsThatOfTheSegmentItIsFrom(t *testing.T) {
	l := &life{errors: postgres.Errors{}, Worker: &Worker{log: slog.New(slog.DiscardHandler), metrics: newMetrics(prometheus.NewRegistry()), options: Options{Memory: 1 << 20, Random: rand.Float64}},
		runnable: runQueue{most: 1}, epoch: time.Now(),
		settings: settings{known: true, live: definition.Live{Groups: []definition.LiveGroup{{Name: "view", MaxBatchSize: 10}}}}}
	l.trust(time.Now(), tokenstore.TimingOf(0))
	view := &group{name: "view", shares: true, handler: deadlocks{}}
	idle, err := feed.New(endless{}, feed.Options{}, l.log, func(tokenstore.Key) {}, func(error) {}).Add(tokenstore.Token{Parts: []progress.Part{{}}}, segment.PerStream)
	if err != nil {
		t.Fatal(err)
	}
	first, other := &segmentRun{group: view, member: idle}, segmentOf(t, endless{})
	other.group = view
	l.runnable.push(other)
	if !l.take(first) {
		t.Fatal("the first segment cannot be taken")
	}
	l.step(t.Context(), first, true, func() {})
	if other.fault == nil || other.fault.Kind != tokenstore.ContentionFault {
		t.Errorf("the segment whose batch has failed waits for %+v", other.fault)
	}
	if first.fault != nil {
		t.Errorf("the segment that had nothing to do waits for %+v", first.fault)
	}
	for name, s := range map[string]*segmentRun{"first": first, "other": other} {
		if s.Busy() {
			t.Errorf("the %s segment is still at work", name)
		}
	}
}
