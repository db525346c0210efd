package stores

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

const (
	// interval between two rounds or renewals of the plan, well within tokenstore.PlannerTimeout.
	interval = time.Second
	// debounce is the least time between two rounds.
	debounce = 50 * time.Millisecond
	// roundTimeout bounds a round.
	roundTimeout = 10 * time.Second
	// refusedPause between two attempts to declare what the store has refused, such as a group that another processor has.
	refusedPause = 5 * time.Second
)

// processor is one processor in its store.
type processor struct {
	key     types.NamespacedName
	options Options
	session *session // guarded by Stores.mu
	wake    chan struct{}

	mu     sync.Mutex
	wanted Wanted
	gone   []string // pods
	costed int64    // the newest plan for which pods have their deletion costs
	known  Observation
	secret *Problem // of the session: see [Observation.Secrets]
	left   bool     // nobody wants it any more

	// Of the loop alone.
	planner  *planner.Planner
	declared *declaration
	orphaned map[tokenstore.Key]time.Time
	plan     int64
	starts   starts
	life     context.Context                  // of the loop
	broken   map[string]*protocol.LayoutError // groups, at the last look
	lagged   lagMemory
	separate separateSource
	paces    paces
}

func newProcessor(key types.NamespacedName, o Options) *processor {
	return &processor{key: key, options: o, wake: make(chan struct{}, 1)}
}

func (p *processor) want(w Wanted) {
	p.mu.Lock()
	changed := !reflect.DeepEqual(p.wanted, w)
	p.wanted = w
	p.mu.Unlock()
	if changed {
		p.poke()
	}
}

func (p *processor) poke() { signal(p.wake) }

func (p *processor) podGone(pod string) {
	p.mu.Lock()
	p.gone = append(p.gone, pod)
	p.mu.Unlock()
	p.poke()
}

// acknowledge says that pods have their deletion costs as of a plan.
func (p *processor) acknowledge(plan int64) {
	p.mu.Lock()
	news := plan > p.costed
	p.costed = max(p.costed, plan)
	p.mu.Unlock()
	if news {
		p.poke()
	}
}

func (p *processor) is(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted.Name == name
}

func (p *processor) wish() Wanted {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted
}

func (p *processor) observation() Observation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known
}

// fail notes that the store cannot be used.
func (p *processor) fail(problem Problem) {
	known := p.observation()
	problem.Blind = true
	known.Problem, known.Source = &problem, nil // nobody looks at the source meanwhile
	if problem.NoTables && p.wish().Drop {      // what was asked for
		known.Problem, known.Dropped = nil, true
	}
	p.publish(known, nil)
}

// setSecretProblem stores what is wrong with the Secrets of an open session; nil if nothing is.
func (p *processor) setSecretProblem(problem *Problem) {
	p.mu.Lock()
	changed := !p.left && !reflect.DeepEqual(p.known.Secrets, problem)
	p.secret, p.known.Secrets = problem, problem
	p.mu.Unlock()
	if changed {
		p.options.Changed(p.key)
	}
}

// met notes in which store the processor is going to have rows, before it has any.
func (p *processor) met(storeID string) {
	known := p.observation()
	if known.StoreID != storeID {
		known.StoreID = storeID
		p.publish(known, nil)
	}
}

// publish notes what is known now, and tells where that is news.
func (p *processor) publish(o Observation, of *look) {
	if p.note(o, of) {
		p.options.Changed(p.key)
	}
}

// note reports whether the observation is news. One of a processor that nobody wants any more is none, and leaves no metrics.
func (p *processor) note(o Observation, of *look) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left {
		return false
	}
	o.Secrets = p.secret
	if o.Problem != nil {
		o.Problem.Since = time.Now()
		if was := p.known.Problem; was != nil && (was.Reason == o.Problem.Reason || was.Outage() && o.Problem.Outage()) {
			o.Problem.Since = was.Since
		}
	}
	if was := p.known.Source; o.Source != nil && o.Source != was {
		o.Source.Since = time.Now()
		if was != nil {
			o.Source.Since = was.Since
		}
	}
	news = !reflect.DeepEqual(p.known, o)
	p.known = o
	if m := p.options.Metrics; m != nil {
		m.observe(p.key, o, of, p.plans(of))
	}
	return news
}

// leave says that nobody wants the processor any more. What its loop still finds out is lost.
func (p *processor) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
	if m := p.options.Metrics; m != nil {
		m.forget(p.key)
	}
}

// look is what a round has seen that metrics count.
type look struct {
	outcome planner.Outcome
	lags    lags
}

// plans counts the plans made since the last look.
func (p *processor) plans(of *look) int64 {
	if of == nil {
		return 0
	}
	made := of.outcome.View.Processor.Plan - p.plan
	if p.plan == 0 {
		made = 0 // those from before this operator
	}
	p.plan = of.outcome.View.Processor.Plan
	return made
}

// run plans until the context ends.
func (p *processor) run(ctx context.Context, l *link, place string) {
	p.declared = nil // the store may have been changed or restored meanwhile
	p.starts, p.life, p.separate = starts{}, ctx, separateSource{}
	p.planner = &planner.Planner{Directory: l.directory, Store: l.store, Processor: p.wish().Name, Name: p.options.Planner}
	failures, due := 0, true // a look is
	for {
		var err error
		if due || !p.renew(ctx) {
			err = p.round(ctx, l)
		}
		if ctx.Err() != nil {
			return
		}
		pause := interval
		if err != nil {
			failures++
			pause = min(firstPause<<min(failures, 10), p.options.MaxPause)
			if !p.options.Backend.Contention(err) {
				p.fail(p.options.problemOf(err, place))
			}
		} else {
			failures = 0
		}
		woken, goesOn := p.rest(ctx, pause)
		if !goesOn {
			return
		}
		due = woken || err != nil || p.lagged.retry()
	}
}

// lookEvery is how often a processor is looked at where nothing tells of a change: some things are due by time alone, and workers' reports
// change without a word.
const lookEvery = 5 * time.Second

// renew renews the plan by one statement, where the last look had nothing to change and was a moment ago. It reads no tokens, of which
// there may be very many.
func (p *processor) renew(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	renewed, err := p.planner.Renew(ctx, lookEvery)
	return renewed && err == nil // a round finds out what is wrong
}

// rest waits for the next round: for as long as said or until something happens, but not shorter than the debounce. It reports whether
// something has happened, and whether there is a next round.
func (p *processor) rest(ctx context.Context, pause time.Duration) (woken, goesOn bool) {
	least := time.After(debounce)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, false
	case <-timer.C:
	case <-p.wake:
		woken = true
	}
	select {
	case <-ctx.Done():
		return false, false
	case <-least:
		return woken, true
	}
}

// round makes the store know what is wanted, and plans.
func (p *processor) round(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	w := p.wish()
	if w.Drop {
		return p.drop(ctx, l, w)
	}
	if !w.accepts(l.meta.StoreID, l.meta.Elsewhere) {
		meta, err := l.Meta(ctx) // it may have been rebased since
		switch {
		case err != nil:
			return err
		case !w.accepts(meta.StoreID, meta.Elsewhere):
			return &storeChangedError{w.StoreID, meta.StoreID, meta.Elsewhere}
		}
		l = &link{l.Connection, l.directory, l.store, meta}
	}
	p.met(l.meta.StoreID)
	source, err := l.Source(w.Spec.Source)
	if err != nil {
		return err
	}
	refusal, err := p.declare(ctx, l, w, source, p.checkSource(source, w.Spec.Source))
	if err != nil {
		return err
	}
	var conflict *tokenstore.GroupConflictError
	if errors.As(refusal, &conflict) && conflict.SameName() {
		return refusal // the rows of that name are the other installation's: its operator plans
	}
	outcome, err := p.step(ctx, l)
	switch {
	case errors.Is(err, tokenstore.ErrNoProcessor) && aboutSource(refusal):
		p.tell(w, l, outcome, nil, nil, refusal) // the store is fine, and there is nothing to plan
		return nil
	case errors.Is(err, tokenstore.ErrNoProcessor) && refusal != nil:
		return refusal // it never got its groups, so there is nothing to plan
	case errors.Is(err, tokenstore.ErrNoProcessor):
		p.declared = nil
		p.poke()
		return nil
	case err != nil:
		return err
	}
	if err := p.wakeOverLayouts(ctx, l, w, outcome); err != nil {
		return err
	}
	if err := p.tellCosted(ctx, l, outcome.View.Processor); err != nil {
		return err
	}
	replays, err := l.store.Replays(ctx, w.Name)
	if err != nil {
		return err
	}
	if refusal == nil && (lost(outcome, w, p.options.Installation) || withdrawn(replays, w.Replays) || unagreed(outcome.Groups, w, replays)) {
		p.declared = nil
		p.poke()
	}
	p.tell(w, l, outcome, replays, p.lags(source, w, outcome), refusal)
	return nil
}

// lost reports whether somebody else has taken the processor's name or one of its groups. Declaring them again says who.
func lost(outcome planner.Outcome, w Wanted, installation string) bool {
	return outcome.View.Processor.Installation != installation || slices.ContainsFunc(w.groups(), func(wanted tokenstore.Group) bool {
		return !slices.ContainsFunc(outcome.Groups, func(g tokenstore.Group) bool { return g.Name == wanted.Name })
	})
}

// withdrawn reports whether a replay waits that nobody asks for: one that was withdrawn while a worker was about to reset it, and
// that came back when the worker could not.
func withdrawn(replays []tokenstore.Replay, requested []tokenstore.ReplayRequest) bool {
	return slices.ContainsFunc(replays, func(row tokenstore.Replay) bool {
		return row.Phase == tokenstore.ReplayPending &&
			!slices.ContainsFunc(requested, func(r tokenstore.ReplayRequest) bool { return r.ID == row.ID })
	})
}

// wakeOverLayouts has workers look at their tokens where a layout has been broken, or repaired: nothing else tells them.
func (p *processor) wakeOverLayouts(ctx context.Context, l *link, w Wanted, outcome planner.Outcome) error {
	if !planner.News(p.broken, outcome.Broken) {
		return nil
	}
	if err := l.directory.Wake(ctx, w.Name); err != nil {
		return err
	}
	p.broken = outcome.Broken
	return nil
}

// tellCosted lets workers know that pods have their deletion costs.
func (p *processor) tellCosted(ctx context.Context, l *link, known tokenstore.Processor) error {
	p.mu.Lock()
	costed := p.costed
	p.mu.Unlock()
	if costed <= known.Costed {
		return nil
	}
	return l.directory.Acknowledge(ctx, known.Name, costed)
}

// tell publishes a round's outcome.
func (p *processor) tell(w Wanted, l *link, outcome planner.Outcome, replays []tokenstore.Replay, waits lags, refusal error) {
	now := time.Now()
	p.orphaned = orphans(p.orphaned, outcome, now)
	o := Observation{StoreID: l.meta.StoreID, Seen: true, Facts: factsOf(outcome, p.orphaned, p.lagged.update(waits, outcome.Groups, now), now)}
	o.Facts.Replays = replays
	p.paces.add(o.Facts.Groups, now)
	switch {
	case refusal == nil:
		o.Declared = w.Generation
	case !aboutSource(refusal):
		problem := p.options.problemOf(refusal, "")
		o.Problem = &problem
	}
	if outage := p.separate.outage(); outage != nil {
		problem := p.options.sourceProblemOf(outage)
		o.Source = &problem
	}
	p.publish(o, &look{outcome, waits})
}

// declaration is what a session has told the store last.
type declaration struct {
	wish    Wanted
	at      time.Time
	checked bool // the source was as it is declared
	refusal error
}

// declare writes what is wanted, where that is news. What the store refuses, a group that another
// processor has or a sequencing that cannot be changed so, is not the loop's failure: the groups
// are planned on as they were before. Nor is a new group whose start position a source in a
// database of its own cannot give now. unchecked is what is wrong with such a source.
func (p *processor) declare(ctx context.Context, l *link, w Wanted, source backend.Source, unchecked error) (refusal, err error) {
	if last := p.declared; last != nil && reflect.DeepEqual(last.wish, w) && last.checked == (unchecked == nil) &&
		(last.refusal == nil || time.Since(last.at) < refusedPause) {
		return last.refusal, nil
	}
	if refusal, err = p.write(ctx, l, w, source, unchecked); err != nil {
		return nil, err
	}
	p.declared = &declaration{w, time.Now(), unchecked == nil, refusal}
	return refusal, nil
}

// write writes what is wanted, and returns what the store refuses. Where only a sequencing is refused,
// pods leave all the same, and replays go on or are cancelled. If a source in a database of its own
// cannot be checked now, everything is written unless there is a new group, which needs the source.
func (p *processor) write(ctx context.Context, l *link, w Wanted, source backend.Source, unchecked error) (refusal, err error) {
	var unfit *eventsource.InvalidError
	if w.Spec.Source.Table != nil && w.Spec.Source.Postgres == nil {
		unchecked = source.Check(ctx)
	}
	switch {
	case errors.As(unchecked, &unfit):
		return unchecked, nil
	case unchecked != nil && !aboutSource(unchecked):
		return nil, unchecked
	}
	start := func(group string, at progress.StartPosition) (progress.Progress, error) {
		if unchecked != nil {
			return progress.Progress{}, unchecked
		}
		return p.starts.find(p.life, ctx, group, at, func(ctx context.Context) (progress.Progress, error) { return source.Start(ctx, at) })
	}
	err = declare.Write(ctx, l.store, l.directory, w.declared(p.options.ownerOf(w)), start)
	var conflict *tokenstore.GroupConflictError
	var place *eventsource.StartPositionError
	var changed *tokenstore.SequencingChangedError
	var searching *searchingError
	switch {
	case errors.As(err, &conflict):
		return conflict, nil
	case errors.As(err, &place), errors.As(err, &searching):
		return err, nil
	case aboutSource(err):
		if unchecked == nil {
			p.sourceFailed(err)
		}
		refusal = err
	case errors.As(err, &changed):
		refusal = changed
	case err != nil:
		return nil, err
	}
	return refusal, l.directory.Leave(ctx, w.Name, w.Leaving)
}

// unagreed reports whether a group has another sequencing than is wanted, and no replay that would change that is left: it has
// failed, or was cancelled.
func unagreed(groups []tokenstore.Group, w Wanted, replays []tokenstore.Replay) bool {
	return slices.ContainsFunc(w.groups(), func(wanted tokenstore.Group) bool {
		differs := slices.ContainsFunc(groups, func(g tokenstore.Group) bool { return g.Name == wanted.Name && g.Sequencing != wanted.Sequencing })
		_, ahead := tokenstore.ResetAhead(replays, wanted.Name, wanted.Sequencing)
		return differs && !ahead
	})
}

// step plans, and plans again where another planner was faster or a worker is known to be gone.
func (p *processor) step(ctx context.Context, l *link) (planner.Outcome, error) {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		outcome, err := p.planner.Step(ctx)
		if errors.Is(err, tokenstore.ErrPlanOutdated) && attempt < attempts {
			continue
		}
		if err != nil {
			return outcome, err
		}
		ended, err := p.endGone(ctx, l, outcome.View.Workers)
		if err != nil || !ended || attempt == attempts {
			return outcome, err
		}
	}
}

// endGone ends the workers of pods that are no more, and reports whether there were any.
func (p *processor) endGone(ctx context.Context, l *link, workers []tokenstore.Worker) (bool, error) {
	p.mu.Lock()
	gone := slices.Clone(p.gone)
	p.mu.Unlock()
	any := false
	for _, worker := range workers {
		if !slices.Contains(gone, worker.Pod) {
			continue
		}
		if err := l.directory.SetState(ctx, worker.Incarnation, tokenstore.Ended); err != nil {
			return any, err
		}
		any = true
	}
	p.mu.Lock()
	p.gone = slices.DeleteFunc(p.gone, func(pod string) bool { return slices.Contains(gone, pod) })
	p.mu.Unlock()
	return any, nil
}
