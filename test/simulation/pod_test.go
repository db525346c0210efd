package simulation_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/sluice-project/sluice/runtime/backend/memory"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
)

// pod is a worker's process.
type pod struct {
	w       *world
	name    string
	release int
	backend *memory.Backend
	worker  *worker.Worker
	stop    context.CancelFunc
	done    chan struct{}

	leaving bool // it drains
	killed  bool

	mu       sync.Mutex
	losses   []loss
	expected map[string]time.Time // effects of what was done to it, and until when they may come
	now      time.Time
	same     map[string]uint64 // calls and draws of this instant that look the same
}

// loss is a call's that has still to happen.
type loss struct {
	memory.Loss
	anyWrite bool // of any call that writes, not only of a batch's commit
}

// newPod starts a pod of a release.
func (w *world) newPod() *pod {
	w.started++
	ctx, stop := context.WithCancel(context.Background())
	p := &pod{w: w, name: fmt.Sprint("pod-", w.started), release: w.release, stop: stop, done: make(chan struct{})}
	p.backend = &memory.Backend{Database: w.database, Log: w.log, Network: p.network}
	definition := w.spec().Definition()
	p.worker = worker.New(worker.Options{Processor: processor, Pod: p.name, Definition: definition, DefinitionID: definition.ID(),
		Handlers: map[string]handler.Handler{"view": recorder{p, "view"}, "totals": recorder{p, "totals"}}, Backend: p.backend, Version: "test", Random: p.random,
		Log: slog.New(slog.NewTextHandler(w.record, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: withoutTime})).With("pod", p.name)})
	w.record.add("%s starts with release %d", p.name, p.release)
	w.running.Go(func() {
		defer close(p.done)
		err := p.worker.Run(ctx)
		w.record.add("%s has ended: %v", p.name, err)
		if err != nil && !errors.Is(err, store.ErrLost) {
			w.t.Errorf("a worker ended: %v", err)
		}
	})
	return p
}

// withoutTime leaves the time to the record.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// chance is a number that follows from the seed, the pod, the time and what it is for. So it does
// not depend on the order in which a pod's goroutines run at one instant.
func (p *pod) chance(about string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !now.Equal(p.now) {
		p.now, p.same = now, map[string]uint64{}
	}
	p.same[about]++
	h := fnv.New64a()
	fmt.Fprint(h, p.w.seed, p.name, now.UnixNano(), about, p.same[about])
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	return x ^ x>>33
}

// random is what the worker draws its jitter from.
func (p *pod) random() float64 { return float64(p.chance("random")>>11) / (1 << 53) }

// upTo is a duration up to a limit, by the nanosecond: hardly two things happen at one instant.
func upTo(chance uint64, limit time.Duration) time.Duration {
	return time.Duration(chance % uint64(limit))
}

// network says how long a call takes, and what gets lost of it.
func (p *pod) network(call memory.Call) memory.Delivery {
	p.w.record.called(p.name, call.Name, call.Detail)
	p.meet(call)
	chance := p.chance(call.Name + " " + call.Detail)
	d := memory.Delivery{Request: 100*time.Microsecond + upTo(chance, time.Millisecond), Answer: 100*time.Microsecond + upTo(chance>>32, time.Millisecond)}
	d.Request += p.w.slowness(chance)
	if l, there := p.takeLoss(call); there {
		d.Loss, d.Late = l, upTo(chance>>16, 3*time.Second)
		p.w.record.happened(lossNames[l])
		p.w.record.add("%s: %s of %s %s", p.name, lossNames[l], call.Name, call.Detail)
	}
	return d
}

// expect has an effect counted that what was done to the pod may have for a while.
func (p *pod) expect(effect string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expected == nil {
		p.expected = map[string]time.Time{}
	}
	p.expected[effect] = time.Now().Add(d)
}

// meet counts what a call meets. A worker that has been cut off from its session opens another one.
func (p *pod) meet(call memory.Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for effect, until := range p.expected {
		if effect == "cut" && call.Name != "Rejoin" {
			continue
		}
		if time.Now().Before(until) {
			p.w.record.happened(effect)
		}
		delete(p.expected, effect)
	}
}

var lossNames = map[memory.Loss]string{memory.LostRequest: "lost request", memory.LostAnswer: "lost answer", memory.LateRequest: "late request"}

// lose has one of the next calls get lost.
func (p *pod) lose(l loss) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losses = append(p.losses, l)
}

func (p *pod) takeLoss(call memory.Call) (memory.Loss, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, l := range p.losses {
		if call.Name == "Commit" || l.anyWrite && call.Writes {
			p.losses = append(p.losses[:i:i], p.losses[i+1:]...)
			return l.Loss, true
		}
	}
	return memory.NoLoss, false
}

// recorder is the handler of a group: it appends the positions of events to the rows of their
// streams.
type recorder struct {
	*pod
	group string
}

var _ handler.Resetter = recorder{}

// Wants implements handler.Handler.
func (recorder) Wants(string) bool { return true }

// Apply implements handler.Handler. Now and then it fails.
func (r recorder) Apply(ctx context.Context, t handler.Transaction, all []*handler.Event) error {
	return t.InTx(ctx, func(tx tokenstore.Tx) error {
		chance := r.chance(fmt.Sprint("apply ", r.group, all[0].Position))
		time.Sleep(upTo(chance, 40*time.Millisecond))
		for _, e := range all {
			tx.(*store.Tx).Append(r.group+"/"+e.StreamID, fmt.Sprintf(appliedFormat+" ", e.Position, e.Replay != nil))
		}
		if r.w.fails.Load() && chance>>32%25 == 0 {
			r.w.record.happened("failed batch")
			return &handler.UserError{Err: errors.New("no")}
		}
		return nil
	})
}

// Reset implements handler.Resetter.
func (r recorder) Reset(_ context.Context, tx tokenstore.Tx, replay handler.Replay) error {
	chance := r.chance("reset " + r.group)
	time.Sleep(upTo(chance, 300*time.Millisecond))
	tx.(*store.Tx).Put(r.group+"/"+replay.ID, "reset")
	if r.w.fails.Load() && chance>>32%4 == 0 {
		r.w.record.happened("failed reset")
		return &handler.UserError{Err: errors.New("no")}
	}
	return nil
}
