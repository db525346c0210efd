package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// group is a processing group in this worker.
type group struct {
	name    string
	by      segment.Sequencing
	traits  handler.Traits
	handler handler.Handler // nil if the program has not registered it
	missing error           // why it has not
	shares  bool            // segments may share batches: they write no rows in common
	rate    rate

	// Under the life's lock.
	fit   bool              // its segments may be claimed: its handler is there, set up, and its statements prepare
	fault *tokenstore.Fault // why it is not fit
	wait  backoff           // between tries that fail
	lost  backoff           // between those that lose their connection by no fault of a setup

	attempts   int       // to make it fit that have failed in a row
	contended  time.Time // since when all tries have lacked a lock
	setUpSince time.Time // since when one is under way; zero where none is

	differs  bool              // its tokens have another sequencing: nobody of this definition may claim them
	unagreed *tokenstore.Fault // why that is not going to change; nil where it is, with the reset of a replay

	committed bool // a batch of it has committed
}

// needsNoContents reports whether nothing here needs the data of events: statements in the store's
// database look events up themselves if it has them.
func (l *life) needsNoContents() bool {
	for _, g := range l.options.Definition.Groups {
		if l.options.Kinds.Traits(g.Handler, l.options.Definition.Source).Payload || g.Sequencing.Policy().NeedsContents() {
			return false
		}
	}
	return true
}

func newGroup(spec definition.DefinedGroup) *group {
	return &group{name: spec.Name, by: spec.Sequencing.Policy(), shares: spec.Handler.Rows == definition.RowsBySequence,
		wait: backoff{initial: 500 * time.Millisecond, max: 15 * time.Second},
		lost: backoff{initial: 100 * time.Millisecond, max: 5 * time.Second}}
}

func (l *life) newGroups() map[string]*group {
	groups := map[string]*group{}
	for _, spec := range l.options.Definition.Groups {
		g := newGroup(spec)
		g.traits = l.options.Kinds.Traits(spec.Handler, l.options.Definition.Source)
		g.handler, g.missing = l.options.Kinds.New(spec.Handler, l.connection.Handlers())
		groups[g.name] = g
	}
	return groups
}

func (l *life) registered() []string {
	return append([]string{}, slices.Sorted(maps.Keys(l.options.Handlers))...)
}

// prepareEvery is how often it is looked whether groups can be made fit.
const prepareEvery = 20 * time.Millisecond

// setupPause is between two waits for another worker's setup.
const setupPause = 20 * time.Millisecond

// setups is how many groups may be set up at once: each takes a connection.
const setups = 2

// prepare makes groups fit, before their first claim, and tries those again after a while where it did not succeed. Setups
// may take long, so this runs apart from the control loop, and each group apart from the others.
func (l *life) prepare(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-l.known:
	}
	for ctx.Err() == nil && !l.isSet() { // the time limits are settings
		sleep(ctx, prepareEvery)
	}
	var all sync.WaitGroup
	turns := make(chan struct{}, setups)
	for _, name := range slices.Sorted(maps.Keys(l.groups)) {
		all.Go(func() { l.prepareGroup(ctx, l.groups[name], turns) })
	}
	all.Wait()
}

// isSet reports whether the directory has given the live settings.
func (l *life) isSet() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.known
}

func (l *life) prepareGroup(ctx context.Context, g *group, turns chan struct{}) {
	for ctx.Err() == nil {
		err := l.tryToMakeFit(ctx, g, turns)
		if ctx.Err() != nil {
			return
		}
		if l.judge(g, err, l.showsDetails()) {
			l.news.Store(true)
			l.look()
		}
		if err == nil {
			return
		}
		sleep(ctx, l.jittered(g.waitAfter(unfit(err, l.errors, false))))
	}
}

// waitAfter is how long to wait after a try that failed. One that waited for another worker has
// waited. What another group does to the server's connections must not keep this one waiting for
// long.
func (g *group) waitAfter(fault tokenstore.Fault) time.Duration {
	switch {
	case fault.Reason == setupRuns:
		return setupPause
	case fault.Kind == tokenstore.InfrastructureFault:
		return g.lost.next()
	}
	g.lost.reset()
	return g.wait.next()
}

// tryToMakeFit runs a group's setup, once a definition, and has the server parse its statements.
func (l *life) tryToMakeFit(ctx context.Context, g *group, turns chan struct{}) error {
	if g.missing != nil {
		return g.missing
	}
	if err := l.setUpOnce(ctx, g, turns); err != nil {
		return err
	}
	if h, checks := g.handler.(handler.Checker); checks {
		return l.connection.Check(ctx, h)
	}
	return nil
}

func (l *life) setUp(g *group, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.setUpSince = since
}

// setUpOnce runs the group's setup unless it has been run. Only what has to be run takes a turn: setups that hang hold no others up.
func (l *life) setUpOnce(ctx context.Context, g *group, turns chan struct{}) error {
	setup := g.traits.Setup
	if setup.Commands == "" {
		return nil
	}
	done, err := l.directory.SetupDone(ctx, l.options.Processor, l.options.DefinitionID, g.name)
	if err != nil || done {
		return err
	}
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	l.setUp(g, time.Now())
	defer l.setUp(g, time.Time{})
	err = l.directory.SetupOnce(ctx, l.options.Processor, l.options.DefinitionID, g.name, setup.Commands, l.timeout(g.name))
	if err != nil {
		return fmt.Errorf("%s: %w", setup.Field, err)
	}
	return nil
}

// judge takes note of whether a group is fit, and reports whether that is news.
func (l *life) judge(g *group, err error, details bool) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		if g.fault != nil {
			l.log.Info("a group can be handled now", "group", g.name)
		}
		g.fit, g.fault = true, nil
		g.attempts, g.contended = 0, time.Time{}
		return true
	}
	fault := unfit(err, l.errors, details)
	if fault.Reason != setupRuns { // else this worker has not tried
		g.attempts++
	}
	if fault.Kind == tokenstore.ContentionFault {
		if g.contended.IsZero() {
			g.contended = time.Now()
		}
		if time.Since(g.contended) < tokenstore.LongCall { // as when workers begin together
			return false
		}
		fault.Since = g.contended
	} else {
		g.contended = time.Time{}
	}
	fault.Attempts = g.attempts
	if g.fault != nil {
		fault.Since = g.fault.Since
	}
	changed = g.fault == nil || g.fault.Message != fault.Message
	if changed {
		told := any(fault.Message)
		if details {
			told = err // sluice dev explains it
		}
		l.log.Error("a group cannot be handled", "group", g.name, "reason", fault.Reason, "error", told)
	}
	g.fault = &fault
	return changed
}

// setupRuns is the reason of a group that waits for another worker's setup.
const setupRuns = "SetupRuns"

// unfit says why a group is not fit.
func unfit(err error, store tokenstore.Classifier, details bool) tokenstore.Fault {
	kind, reason := handler.Classify(err, store)
	var missing *handler.UnregisteredError
	var statement *handler.StatementError
	var late *tokenstore.SetupTimeoutError
	var running *tokenstore.SetupRunsError
	switch {
	case errors.As(err, &missing):
		kind, reason = tokenstore.DefinitionFault, "NotRegistered"
	case errors.As(err, &statement):
		kind, reason = tokenstore.DefinitionFault, "StatementInvalid"
	case errors.As(err, &running):
		kind, reason = tokenstore.ContentionFault, setupRuns
	case errors.As(err, &late):
		kind, reason = tokenstore.DefinitionFault, "SetupTimedOut"
	}
	if kind == tokenstore.EventFault || kind == tokenstore.InfrastructureFault && errors.As(err, new(*tokenstore.SetupError)) { // there was no event: the setup failed
		kind, reason = tokenstore.DefinitionFault, "SetupFailed"
	}
	return tokenstore.Fault{Kind: kind, Reason: reason, Message: handler.MessageOf(err, store, details), SQL: handler.SQLErrorOf(err, store, details), Since: time.Now()}
}

// refused reports whether segments of a group must not be claimed.
func (l *life) refused(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[name]
	return g == nil || !g.fit || g.differs
}
