package simulation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/eventsource"
	events "github.com/sluice-project/sluice/eventsource/memory"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/backend/memory"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/test/history"
	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
)

const processor = "test/default/orders"

// replicas is how many pods there are at first.
const replicas = 3

// world is a store, a log, and what runs on them: the pods of a processor, those who write events,
// and the operator.
type world struct {
	t        *testing.T
	seed     uint64
	rand     *rand.Rand // of the goroutine that does things to the world
	record   *record
	database *store.Database
	log      *events.Log
	running  sync.WaitGroup
	stopping chan struct{} // closed when everything is to end
	quiet    chan struct{} // closed when nothing is to be done to the world any more
	fails    atomic.Bool   // handlers fail now and then
	found    history.Found // in the end
	took     time.Duration

	mu         sync.Mutex
	operator   *pod // of which only the backend and the network are used
	pods       []*pod
	started    int
	replicas   int
	release    int
	segments   map[string]int // by group
	generation int64
	replays    []tokenstore.ReplayRequest
	slowUntil  time.Time
	slowest    time.Duration // how long a request takes in addition while the store is slow
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), record: newRecord(), database: store.New(time.Now), log: events.New(time.Now),
		stopping: make(chan struct{}), quiet: make(chan struct{}), replicas: replicas, release: 1, segments: map[string]int{"view": 4, "totals": 4}}
	w.database.OnCommit(w.record.committed)
	w.operator = &pod{w: w, name: "operator"}
	w.operator.backend = &memory.Backend{Database: w.database, Log: w.log, Network: w.operator.network}
	return w
}

// upTo is a duration of the world's own chance.
func (w *world) upTo(limit time.Duration) time.Duration {
	return time.Duration(w.rand.Int64N(int64(limit)))
}

// slowness is how much longer a request takes at the moment.
func (w *world) slowness(chance uint64) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !time.Now().Before(w.slowUntil) {
		return 0
	}
	w.record.happened("slow store")
	return upTo(chance>>8, w.slowest)
}

// spec is that of the processor as it is at the moment.
func (w *world) spec() definition.Spec {
	document, err := definition.ParseYAML(fmt.Appendf(nil, `apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: orders}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}
  processingGroups:
  - {name: view, segments: %d, handler: {type: Go, go: {handler: view}}}
  - {name: totals, segments: %d, handler: {type: Go, rows: BySequence, go: {handler: totals}}}
`, w.segments["view"], w.segments["totals"]))
	if err != nil {
		w.t.Fatal(err)
	}
	document.Spec.Template = json.RawMessage(fmt.Sprintf(`{"metadata": {"annotations": {"release": "%d"}}}`, w.release))
	return document.Spec
}

// declare declares the processor as it is at the moment, as the operator does.
func (w *world) declare() {
	w.generation++
	spec := w.spec()
	for i := range w.replays {
		w.replays[i].Definition = spec.Definition().ID()
	}
	err := declare.Write(context.Background(), w.database.Store(), w.database.Directory(), declare.Processor{Owner: tokenstore.Owner{Processor: processor}, Spec: spec,
		Definition: spec.Definition().ID(), Live: spec.Live(w.generation), Replicas: w.replicas, Replays: w.replays},
		func(_ string, at progress.StartPosition) (progress.Progress, error) {
			return w.log.Source().Start(context.Background(), at)
		})
	if err != nil {
		w.t.Errorf("declaring: %v", err)
	}
}

// change changes the processor, and declares it.
func (w *world) change(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	w.declare()
}

// write appends events until the world is quiet: one of those who do so at the same time.
func (w *world) write(n int) {
	chance := rand.New(rand.NewPCG(w.seed, 100+uint64(n)))
	streams, pause := 1+chance.IntN(25), 20*time.Millisecond+time.Duration(chance.Int64N(int64(time.Second)))
	time.Sleep(time.Duration(chance.Int64N(int64(pause))))
	for {
		for range 1 + chance.IntN(1+chance.IntN(12)) {
			w.log.Append(fmt.Sprint("stream-", chance.IntN(streams)), "Ordered", nil)
			time.Sleep(time.Duration(chance.Int64N(int64(200 * time.Microsecond))))
		}
		if w.rests(time.Duration(chance.Int64N(int64(pause))), w.quiet) {
			return
		}
	}
}

// rests waits, and reports whether a channel was closed meanwhile.
func (w *world) rests(d time.Duration, closed <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-closed:
		return true
	case <-timer.C:
		return false
	}
}

// deploy keeps as many pods running as there are to be, of the wanted release, as a Deployment does
// that has one pod more during a rollout.
func (w *world) deploy() {
	for !w.rests(300*time.Millisecond+upTo(w.operator.chance("deploy"), 50*time.Millisecond), w.stopping) {
		w.mu.Lock()
		w.pods = slices.DeleteFunc(w.pods, (*pod).hasEnded)
		var staying, old []*pod
		ready := true
		for _, p := range w.pods {
			if p.leaving || p.killed {
				continue
			}
			staying = append(staying, p)
			if p.release != w.release {
				old = append(old, p)
			} else {
				ready = ready && p.worker.Ready()
			}
		}
		switch {
		case len(staying) < w.replicas || len(old) > 0 && len(staying) == w.replicas:
			w.pods = append(w.pods, w.newPod())
		case len(staying) > w.replicas && len(old) > 0 && ready:
			w.drain(old[0])
		case len(staying) > w.replicas && len(old) == 0:
			w.drain(staying[0])
		}
		w.mu.Unlock()
	}
}

func (p *pod) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// drain has a pod end. The caller holds the lock.
func (w *world) drain(p *pod) {
	w.record.add("%s drains", p.name)
	p.leaving = true
	p.stop()
}

// operate does what the operator does for the processor until the world ends.
func (w *world) operate() {
	var connection worker.Connection
	ctx := context.Background()
	for connection == nil {
		connection, _, _ = w.operator.backend.Join(ctx, worker.Needs{})
	}
	directory := connection.Directory()
	plans := planner.Planner{Directory: directory, Store: connection.Store(), Processor: processor, Name: "operator/test"}
	for !w.rests(900*time.Millisecond+upTo(w.operator.chance("operate"), 200*time.Millisecond), w.stopping) {
		outcome, err := plans.Step(ctx)
		if err != nil && !planner.IsOutdated(err) && !errors.Is(err, store.ErrLost) {
			w.t.Errorf("planning: %v", err)
		}
		if errors.Is(err, store.ErrLost) {
			_, _ = connection.Rejoin(ctx) // or with the next step
		}
		if err != nil {
			continue
		}
		w.observe(outcome.View)
		w.tend(ctx, directory, outcome.View)
	}
	connection.Close(false)
}

// observe counts what a run is vacuous without.
func (w *world) observe(view tokenstore.View) {
	if w.record.has(outage) && strings.HasPrefix(view.Processor.Planner, tokenstore.WorkerPlans) {
		w.record.happened("plan by a worker")
	}
	select {
	case <-w.quiet:
		return
	default:
	}
	releases, alive := map[string]bool{}, 0
	for _, worker := range view.Workers {
		if worker.State == tokenstore.Active && !worker.Leased && w.runs(worker.Pod) {
			w.record.happened("late lease")
		}
		if worker.Alive && worker.State == tokenstore.Active {
			releases[worker.Definition] = true
			alive++
		}
	}
	if view.Processor.Replicas == alive && alive != replicas {
		w.record.happened("scale")
	}
	if len(releases) > 1 {
		w.record.happened("workers of two releases")
	}
}

// runs reports whether a pod's process is there.
func (w *world) runs(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.pods, func(p *pod) bool { return p.name == name && !p.killed && !p.hasEnded() })
}

// tend tells the directory what the operator knows of pods. Some errors of the network leave it for
// the next time.
func (w *world) tend(ctx context.Context, directory worker.Directory, view tokenstore.View) {
	w.mu.Lock()
	var leaving []string
	for _, p := range w.pods {
		if p.leaving {
			leaving = append(leaving, p.name)
		}
	}
	w.mu.Unlock()
	_ = directory.Leave(ctx, processor, leaving)
	_ = directory.Acknowledge(ctx, processor, view.Processor.Plan)
	for _, worker := range view.Workers {
		if !w.runs(worker.Pod) {
			_ = directory.SetState(ctx, worker.Incarnation, tokenstore.Ended)
		}
	}
}

// settled says what has still to be done; empty if everything has been.
func (w *world) settled() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pods {
		if p.release != w.release || p.leaving || p.killed {
			return fmt.Sprintf("%s of release %d is still there", p.name, p.release)
		}
	}
	ctx := context.Background()
	replays, _ := w.database.Store().Replays(ctx, processor) // it never fails
	for _, r := range replays {
		if !r.Phase.Ended() {
			return fmt.Sprintf("replay %s is %s: %s %s", r.ID, r.Phase, r.Reason, r.Message)
		}
	}
	head, _ := w.log.Source().Head(ctx)
	tokens, _ := w.database.Store().Tokens(ctx, processor)
	groups := map[string]int{}
	for _, t := range tokens {
		groups[t.Group]++
		for _, part := range t.Parts {
			if part.Progress.Position < head.Position() {
				return fmt.Sprintf("segment %s of %s is at %d of %d, owner %d", t.Range(), t.Group, part.Progress.Position, head.Position(), t.Owner)
			}
		}
	}
	for group, n := range w.segments {
		if groups[group] != n {
			return fmt.Sprintf("group %s has %d segments, not %d", group, groups[group], n)
		}
	}
	return ""
}

// run runs a world of a seed, and does to it what schedule says. What is wrong is in the error.
func run(t *testing.T, seed uint64, schedule func(*world) []kind) (*world, error) {
	w := newWorld(t, seed)
	w.change(func() {})
	w.running.Go(w.operate)
	w.running.Go(w.deploy)
	for n := range 1 + w.rand.IntN(3) {
		w.running.Go(func() { w.write(n) })
	}
	w.fails.Store(true)
	time.Sleep(3*time.Second + w.upTo(time.Second))
	all := schedule(w)
	for _, k := range all {
		w.inflict(k)
	}
	w.insist(all)
	w.record.add("== quiet")
	w.fails.Store(false)
	close(w.quiet)
	w.rollout() // handlers that fail may have put the release before into quarantine
	left := w.settled()
	for limit := time.Now().Add(4 * time.Minute); left != "" && time.Now().Before(limit); left = w.settled() {
		time.Sleep(250 * time.Millisecond)
	}
	w.end()
	return w, w.verdict(left)
}

// end ends everything.
func (w *world) end() {
	close(w.stopping)
	w.mu.Lock()
	for _, p := range w.pods {
		if !p.leaving {
			w.drain(p)
		}
	}
	w.mu.Unlock()
	w.running.Wait()
	time.Sleep(10 * time.Second) // requests that are late arrive
}

// summary says how much has happened.
func (w *world) summary() string {
	return fmt.Sprintf("%.0f s of its time: %+v, %s", w.took.Seconds(), w.found, sortedCounts(w.record.effects))
}

// verdict says what is wrong with a run.
func (w *world) verdict(left string) error {
	var wrong []error
	if left != "" {
		wrong = append(wrong, errors.New("after four quiet minutes, "+left))
	}
	for _, text := range w.record.wrong {
		wrong = append(wrong, errors.New(text))
	}
	w.record.history.Events = w.events()
	found, err := w.record.history.Check(w.want())
	w.found, w.took = found, time.Since(w.record.began)
	for _, k := range kinds {
		if k.effect != "" && w.record.effects[k.effect] == 0 {
			wrong = append(wrong, fmt.Errorf("vacuous: %s had no effect (%s)", k.name, k.effect))
		}
	}
	if w.record.effects["failed batch"] == 0 {
		wrong = append(wrong, errors.New("vacuous: no batch has failed"))
	}
	return errors.Join(append(wrong, err)...)
}

// events are all of the log.
func (w *world) events() (all []history.Event) {
	ctx, source := context.Background(), w.log.Source() // which never fails
	head, _ := source.Head(ctx)
	start, _ := source.Parse(progress.Progress{})
	page, _ := source.Read(ctx, []eventsource.Coverage{start}, nil, int(head.Position()))
	for _, e := range page.Events {
		all = append(all, history.Event{Position: e.Position, Key: e.StreamID})
	}
	return all
}

// want is what the history has to tell of.
func (w *world) want() history.Want {
	want := history.Want{Events: 100, Takeovers: 1, Splits: 1, Merges: 1, Resets: 1}
	replays, _ := w.database.Store().Replays(context.Background(), processor) // it never fails
	whole, last := map[string]bool{}, map[string]time.Time{}
	for _, r := range replays {
		for _, group := range r.Groups {
			switch {
			case r.ResetAt == nil:
			case r.Phase == tokenstore.ReplayAbandoned: // some of the group's tokens begin a generation
				whole[group], last[group] = false, time.Now()
			case r.ResetAt.After(last[group]):
				whole[group], last[group] = r.From.Type == progress.Earliest, *r.ResetAt
			}
		}
	}
	for _, group := range []string{"totals", "view"} {
		if whole[group] {
			want.Replayed = append(want.Replayed, group)
		}
	}
	return want
}
