// Package simulation_test runs whole processors in one process, in the time of testing/synctest. A seed
// determines what happens to them.
package simulation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	events "github.com/sluice-project/sluice/eventsource/memory"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/backend/memory"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
)

const processor = "test/default/orders"

// world is a store, a log and the pods of a processor.
type world struct {
	t        *testing.T
	chance   *rand.Rand
	database *store.Database
	log      *events.Log
	out      logs // of the pods

	generation int64
	pods       []*pod
	started    int
	versions   map[string]int64 // of the streams

	fails   atomic.Bool // handlers fail now and then
	batches atomic.Int64
	failed  atomic.Int64
	killed  int
	cut     int
	frozen  int
	lost    int // answers
	layouts int
}

// logs are those of all pods.
type logs struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

// pod is a worker's process.
type pod struct {
	backend *memory.Backend
	stop    context.CancelFunc
	done    chan struct{}
}

// recorder appends to the row of an event's stream the version of the event: so a row shows which
// events of the stream were handled, in which order and how often.
type recorder struct{ *world }

func (recorder) Wants(string) bool { return true }

func (r recorder) Apply(ctx context.Context, t handler.Transaction, all []*handler.Event) error {
	return t.InTx(ctx, func(tx tokenstore.Tx) error {
		r.batches.Add(1)
		time.Sleep(rand.N(100 * time.Millisecond))
		for _, e := range all {
			tx.(*store.Tx).Append(e.StreamID, fmt.Sprint(e.Version, " "))
		}
		if r.fails.Load() && rand.N(20) == 0 {
			r.failed.Add(1)
			return &handler.UserError{Err: errors.New("no")}
		}
		return nil
	})
}

// declare declares the processor with a number of segments.
func (w *world) declare(segments int) {
	w.t.Helper()
	w.generation++
	spec := specOf(w.t, segments)
	err := declare.Write(w.t.Context(), w.database.Store(), w.database.Directory(), declare.Processor{Owner: tokenstore.Owner{Processor: processor}, Spec: spec,
		Definition: spec.Definition().ID(), Live: spec.Live(w.generation), Replicas: 3},
		func(_ string, at progress.StartPosition) (progress.Progress, error) {
			return w.log.Source().Start(w.t.Context(), at)
		})
	if err != nil {
		w.t.Fatal(err)
	}
}

func specOf(t *testing.T, segments int) definition.Spec {
	t.Helper()
	document, err := definition.ParseYAML(fmt.Appendf(nil, `apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: orders}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}
  processingGroups:
  - {name: view, segments: %d, handler: {type: Go, go: {handler: record}}}
`, segments))
	if err != nil {
		t.Fatal(err)
	}
	return document.Spec
}

// start starts a pod.
func (w *world) start() {
	w.started++
	ctx, stop := context.WithCancel(w.t.Context())
	p := &pod{backend: &memory.Backend{Database: w.database, Log: w.log}, stop: stop, done: make(chan struct{})}
	w.pods = append(w.pods, p)
	def := specOf(w.t, 1).Definition()
	runs := worker.New(worker.Options{Processor: processor, Pod: fmt.Sprint("pod-", w.started), Definition: def, DefinitionID: def.ID(),
		Handlers: map[string]handler.Handler{"record": recorder{w}}, Backend: p.backend, Version: "test",
		Log: slog.New(slog.NewTextHandler(&w.out, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	go func() {
		defer close(p.done)
		if err := runs.Run(ctx); err != nil && !errors.Is(err, store.ErrLost) {
			w.t.Errorf("a worker ended: %v", err)
		}
	}()
}

// end ends a pod, and waits for it.
func (w *world) end(i int) {
	p := w.pods[i]
	w.pods = append(w.pods[:i:i], w.pods[i+1:]...)
	p.stop()
	<-p.done
}

// append appends events to some streams.
func (w *world) append(n int) {
	for range n {
		stream := fmt.Sprint("stream-", w.chance.IntN(20))
		w.versions[stream]++
		w.log.Append(stream, "Ordered", nil)
	}
}

// handled returns what is wrong with the rows; empty if each event was handled once, in its stream's
// order.
func (w *world) handled() string {
	rows := w.database.Rows()
	for stream, last := range w.versions {
		var want strings.Builder
		for v := range last {
			fmt.Fprint(&want, v+1, " ")
		}
		if got := rows[stream]; got != want.String() {
			return fmt.Sprintf("of %s were handled: %s\nwant 1 to %d", stream, got, last)
		}
	}
	return ""
}

// plan plans in place of the operator until the context ends.
func (w *world) plan(ctx context.Context) {
	operator := planner.Planner{Directory: w.database.Directory(), Store: w.database.Store(), Processor: processor, Name: "operator/test"}
	for ctx.Err() == nil {
		if _, err := operator.Step(ctx); err != nil && !errors.Is(err, tokenstore.ErrPlanOutdated) {
			w.t.Errorf("planning: %v", err)
		}
		time.Sleep(time.Second)
	}
}

// step does something to the world.
func (w *world) step() {
	switch w.chance.IntN(13) {
	case 0: // the process of a pod is killed, and a new pod comes
		i := w.chance.IntN(len(w.pods))
		w.pods[i].backend.Kill()
		w.killed++
		w.end(i)
		w.start()
	case 1: // a pod drains, as in a rollout
		w.start()
		w.end(w.chance.IntN(len(w.pods) - 1))
	case 2, 3: // connections are lost in the middle of batches
		w.append(20)
		time.Sleep(time.Duration(w.chance.Int64N(int64(50 * time.Millisecond))))
		w.pods[w.chance.IntN(len(w.pods))].backend.Cut()
		w.cut++
	case 4, 5: // a process is stopped in the middle of batches, maybe for longer than its lease
		w.append(20)
		time.Sleep(time.Duration(w.chance.Int64N(int64(50 * time.Millisecond))))
		w.pods[w.chance.IntN(len(w.pods))].backend.Freeze(time.Duration(w.chance.Int64N(int64(15 * time.Second))))
		w.frozen++
	case 6: // a batch commits, and its worker does not know
		w.pods[w.chance.IntN(len(w.pods))].backend.LoseAnswers(1)
		w.append(20)
		w.lost++
	case 7:
		w.declare(1 + w.chance.IntN(8))
		w.layouts++
	default:
		w.append(w.chance.IntN(30))
	}
	time.Sleep(time.Duration(w.chance.Int64N(int64(1500 * time.Millisecond))))
}

// TestWholeWorkersHandleEachEventOnceInOrder runs complete workers on a store and a log in memory
// through minutes of crashes, lost connections and answers, stopped processes, rollouts and changes
// of the layout. The time is that of testing/synctest, so this takes seconds. The seed decides what
// happens to the workers, and the Go scheduler what they are doing at that moment.
func TestWholeWorkersHandleEachEventOnceInOrder(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { run(t, seed) })
		})
	}
}

func run(t *testing.T, seed uint64) {
	w := &world{t: t, chance: rand.New(rand.NewPCG(seed, 1)), database: store.New(time.Now), log: events.New(time.Now), versions: map[string]int64{}}
	w.declare(4)
	w.append(100)
	ctx, stop := context.WithCancel(t.Context())
	var operator sync.WaitGroup
	operator.Go(func() { w.plan(ctx) })
	for range 3 {
		w.start()
	}
	w.fails.Store(true)
	for range 150 {
		w.step()
	}
	w.fails.Store(false)
	wrong := w.handled()
	for limit := time.Now().Add(2 * time.Minute); wrong != "" && time.Now().Before(limit); wrong = w.handled() {
		time.Sleep(time.Second)
	}
	for len(w.pods) > 0 {
		w.end(0)
	}
	stop()
	operator.Wait()
	if wrong != "" {
		t.Errorf("%s\n\nthe workers' logs:\n%s", wrong, w.out.String())
	}
	if w.killed == 0 || w.cut == 0 || w.frozen == 0 || w.lost == 0 || w.layouts == 0 || w.failed.Load() == 0 || w.batches.Load() < 50 {
		t.Errorf("vacuous: %d pods killed, %d cut, %d frozen, %d answers lost, %d layouts, %d of %d batches failed", w.killed, w.cut, w.frozen, w.lost, w.layouts, w.failed.Load(), w.batches.Load())
	}
}
