package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// group is a processing group in this worker.
type group struct {
	name    string
	spec    definition.Handler
	by      segment.Sequencing
	handler handler.Handler // nil where the program has not registered it
	shares  bool            // segments may share batches: they write no rows in common
	rate    rate

	// Under the life's lock.
	fit   bool              // its segments may be claimed: its handler is there, set up, and its statements prepare
	fault *tokenstore.Fault // why it is not fit
	wait  backoff
	tryAt time.Time

	differs  bool              // its tokens have another sequencing: nobody of this definition may claim them
	unagreed *tokenstore.Fault // why that is not going to change; nil where it is, with the reset of a replay

	committed bool // a batch of it has committed
}

// needsNoContents reports whether nothing here looks into events: statements in the database look them up themselves.
func (l *life) needsNoContents() bool {
	for _, g := range l.options.Definition.Groups {
		if g.Handler.SQL == nil || g.Sequencing.Policy().NeedsContents() {
			return false
		}
	}
	return true
}

func (l *life) newGroups() map[string]*group {
	groups := map[string]*group{}
	source := l.source.Declared(l.options.Definition.Source)
	for _, spec := range l.options.Definition.Groups {
		g := &group{name: spec.Name, spec: spec.Handler, by: spec.Sequencing.Policy(), shares: spec.Handler.Rows == definition.RowsBySequence, wait: backoff{initial: 500 * time.Millisecond, max: 15 * time.Second}}
		if spec.Handler.SQL != nil {
			g.handler = handler.NewSQL(*spec.Handler.SQL, handler.Events{
				Join: eventspostgres.JoinEvents(l.options.Schema, source), At: eventspostgres.EventsAt(l.options.Schema, source),
				Table: l.options.Definition.Source.Table})
		} else {
			g.handler = l.options.Handlers[spec.Handler.Go.Handler]
		}
		groups[g.name] = g
	}
	return groups
}

func (l *life) registered() []string {
	return append([]string{}, slices.Sorted(maps.Keys(l.options.Handlers))...)
}

// prepareEvery is how often groups that are not fit are looked at.
const prepareEvery = 100 * time.Millisecond

// prepare makes groups fit, before their first claim, and tries those again after a while where it did not succeed. Setups
// may take long, so this runs apart from the control loop.
func (l *life) prepare(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-l.known:
	}
	for ctx.Err() == nil {
		left := false
		for _, g := range l.groups {
			l.mu.Lock()
			fit, due := g.fit, !time.Now().Before(g.tryAt)
			l.mu.Unlock()
			if !fit && due && l.judge(g, l.makeFit(ctx, g)) {
				l.news.Store(true)
				l.look()
			}
			left = left || !fit
		}
		if !left {
			return
		}
		sleep(ctx, prepareEvery)
	}
}

// makeFit runs a group's setup, once a definition, and has the server parse its statements.
func (l *life) makeFit(ctx context.Context, g *group) error {
	if g.handler == nil {
		return &notRegisteredError{handler: g.spec.Go.Handler, registered: l.registered()}
	}
	sql, ok := g.handler.(*handler.SQL)
	if !ok {
		return nil
	}
	if g.spec.SQL.Setup != "" {
		if err := l.directory.SetupOnce(ctx, l.options.Processor, l.options.DefinitionID, g.name, g.spec.SQL.Setup); err != nil {
			return &handler.UserError{Err: fmt.Errorf("handler.sql.setup: %w", err)}
		}
	}
	conn, err := l.data.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if err := sql.Check(ctx, conn.Conn()); err != nil {
		return fmt.Errorf("handler.sql.%w", err)
	}
	return nil
}

type notRegisteredError struct {
	handler    string
	registered []string
}

func (e *notRegisteredError) Error() string {
	return fmt.Sprintf("the image registers the handlers [%s], the spec asks for %s", strings.Join(e.registered, ", "), e.handler)
}

// judge takes note of whether a group is fit, and reports whether that is news.
func (l *life) judge(g *group, err error) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		if g.fault != nil {
			l.log.Info("a group can be handled now", "group", g.name)
		}
		g.fit, g.fault = true, nil
		g.wait.reset()
		return true
	}
	fault := unfit(err)
	if g.fault != nil {
		fault.Since = g.fault.Since
	}
	changed = g.fault == nil || g.fault.Message != fault.Message
	if changed {
		l.log.Error("a group cannot be handled", "group", g.name, "reason", fault.Reason, "error", err)
	}
	g.fault, g.tryAt = &fault, time.Now().Add(g.wait.next())
	return changed
}

// unfit says why a group is not fit.
func unfit(err error) tokenstore.Fault {
	kind, reason := handler.Classify(err)
	var missing *notRegisteredError
	var statement *handler.StatementError
	switch {
	case errors.As(err, &missing):
		kind, reason = tokenstore.DefinitionFault, "NotRegistered"
	case errors.As(err, &statement):
		kind, reason = tokenstore.DefinitionFault, "StatementInvalid"
	}
	if kind == tokenstore.EventFault { // there was no event: the setup failed
		kind, reason = tokenstore.DefinitionFault, "SetupFailed"
	}
	return tokenstore.Fault{Kind: kind, Reason: reason, Message: err.Error(), Since: time.Now()}
}

// refused reports whether segments of a group must not be claimed.
func (l *life) refused(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[name]
	return g == nil || !g.fit || g.differs
}
