// Package worker is what runs in a pod: it claims segments, applies their events and gives segments up.
//
// A worker lives through one or more incarnations. An incarnation has a row in the directory with a lease, a session lock
// that tells of its death in milliseconds, and the segments that it has claimed. When its row is gone, when it was declared
// dead or its store is another one, it ends and the next one begins.
//
// What must always hold:
//   - A batch's writes and its token's move commit together, or not at all; the fence in the database sees to it.
//   - No batch begins after the lease, by this process's monotonic clock and counted from before the renewal was sent.
//   - After a lost connection or an unknown outcome a segment is claimed again before anything else is done with it.
//   - A segment is released only when no batch of it runs.
//
// Nothing here talks to Kubernetes: processing and takeover go on while the operator or the API server is down.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// Options of a worker.
type Options struct {
	// Processor is cluster/namespace/name.
	Processor string
	// Installation of the operator that made the pod, by which the store knows whose the processor is. Empty where it is not
	// known.
	Installation string
	// Pod is this process's name in the directory.
	Pod string
	// Definition says which groups there are and what handles their events.
	Definition definition.Definition
	// DefinitionID of the definition.
	DefinitionID string
	// Handlers that the program has registered, by name.
	Handlers map[string]handler.Handler
	// Kinds make the groups' handlers, by default Sluice's own over Handlers.
	Kinds handler.Kinds
	// Backend connects with the store and the source.
	Backend Backend
	// Version of the runtime.
	Version string
	// Executors is how many batches run at once, 4 by default.
	Executors int
	// Memory is the budget in bytes for events that have been read and not handled yet, at least 1 MiB; 64 MiB by default, or an
	// eighth of GOMEMLIMIT or of the container's memory limit where that is less, but not below 8 MiB. A page takes a sixteenth
	// of it, a batch an eighth.
	Memory int64
	// CatchUpWorkers is how many workers may read a backlog from one store at a time, by two reads each; the others take turns with
	// them. 4 by default; below 0 for any number, and then this worker's backlogs do not rest beside live batches either. Behind a
	// transaction pooler nothing counts them, and backlogs rest beside live batches of the same worker only.
	CatchUpWorkers int
	// DrainTimeout is how long a draining worker waits for others to take its segments before it releases them anyway,
	// 2 s by default.
	DrainTimeout time.Duration
	// CallGrace is how long a call may go on after its context has ended before it is abandoned, 5 s by default.
	CallGrace time.Duration
	// OnBatch, where it is set, is told of every batch, after it has ended.
	OnBatch func(Batch)
	// Log gets what happens to the worker; batches are not logged.
	Log *slog.Logger
	// Random returns numbers from 0 up to 1, for the share of chance in waits; rand.Float64 by default.
	Random func() float64
	// Registry gets the metrics.
	Registry prometheus.Registerer
}

// Batch tells of a batch that has ended.
type Batch struct {
	Group    string
	Segment  uint32
	Segments int   // that shared the batch, Segment being the first of them
	Events   int   // that the handler was given
	Skipped  int   // that it does not want
	Position int64 // of the last event
	Took     time.Duration
	Lag      time.Duration // age of the last event when the batch had committed
	Err      error         // nil when it has committed
}

// Worker runs until it is told to drain.
type Worker struct {
	options Options
	log     *slog.Logger
	metrics *metrics
	ready   atomic.Bool  // latched
	born    time.Time    // with a monotonic reading
	turned  atomic.Int64 // when the control loop turned last, nanoseconds of time.Since(born)
	waits   atomic.Bool  // the control loop does not run: something is waited for that may take long

	holdings atomic.Pointer[[]Holding]
	calls    atomic.Pointer[[]RunningCall]
}

// New returns a worker. It does nothing yet.
func New(o Options) *Worker {
	if o.Executors == 0 {
		o.Executors = 4
	}
	if o.Kinds == nil {
		o.Kinds = handler.Builtin(o.Handlers)
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory()
	}
	o.Memory = max(o.Memory, 1<<20)
	if o.CatchUpWorkers == 0 {
		o.CatchUpWorkers = 4
	}
	if o.CallGrace == 0 {
		o.CallGrace = 5 * time.Second
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 2 * time.Second
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	w := &Worker{options: o, log: o.Log, metrics: newMetrics(o.Registry), born: time.Now()}
	w.waits.Store(true)
	return w
}

// errNextLife ends an incarnation so that the next one begins.
var errNextLife = errors.New("this incarnation has ended")

// Run processes events until the context ends; then it drains: it finishes its batches, hands its segments over, and
// returns nil. Errors of the store are logged and tried again for as long as it takes; Run returns only errors that no
// waiting heals.
func (w *Worker) Run(ctx context.Context) error {
	wait := backoff{initial: 100 * time.Millisecond, max: 5 * time.Second}
	for ctx.Err() == nil {
		lived, err := w.live(ctx)
		var protocol *tokenstore.ProtocolError
		switch {
		case ctx.Err() != nil && (err == nil || !lived): // drained, or there was nothing to drain
			return nil
		case errors.As(err, &protocol), errors.Is(err, ErrCallsHang):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("draining: %w", err)
		}
		if lived {
			wait.reset()
		}
		if errors.Is(err, errNextLife) {
			w.log.Warn("registering anew", "cause", err)
		} else {
			w.log.Error("the worker cannot run; trying again", "error", err)
		}
		sleep(ctx, wait.next())
	}
	return nil
}

// Ready reports whether the pod should count as ready: its worker has been named in a plan, holds what it was given and can
// handle every group; or it has claimed by itself where there is no planner. It stays true through outages.
func (w *Worker) Ready() bool { return w.ready.Load() }

// Alive reports whether the process is worth keeping: its control loop turns, or does not run. It does not depend on the database:
// each turn of the loop has a time limit, and connecting, migrating and waiting for others who migrate are no part of it.
// A new process would have to wait for the same.
func (w *Worker) Alive() bool {
	return w.waits.Load() || time.Since(w.born)-time.Duration(w.turned.Load()) < 30*time.Second
}

// turns takes note of a turn of the control loop.
func (w *Worker) turns() { w.turned.Store(int64(time.Since(w.born))) }

// sleep waits, or less when the context ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// backoff doubles from initial to max.
type backoff struct {
	initial, max time.Duration
	last         time.Duration
}

// jittered returns between half and one and a half of a duration: workers that wait for the same thing must not come together.
func (w *Worker) jittered(d time.Duration) time.Duration {
	return d/2 + time.Duration(w.options.Random()*float64(d))
}

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) next() time.Duration {
	b.last = min(max(b.last*2, b.initial), b.max)
	return b.last
}
