package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// mostAbandoned is how many abandoned calls a worker bears before it ends, so that its process does.
const mostAbandoned = 8

// ErrCallsHang is returned by Run after more calls than a process can bear have not ended although their context had.
var ErrCallsHang = errors.New("handlers do not end although their time limit is over: the process has to end")

// call is a handler's call for a batch.
type call struct {
	segment   uint32
	events    []*eventsource.Event
	attempt   int
	began     time.Time
	at        atomic.Int32 // index of the event that is being handled, as far as the handler tells
	abandoned bool         // under the lock of abandonedCalls
}

// AbandonedError is the error of a call that went on after its time limit although its context had ended. Its transaction
// cannot commit any more.
type AbandonedError struct{ After time.Duration }

func (e *AbandonedError) Error() string {
	return fmt.Sprintf("the handler does not heed its context: it has not returned %s after it began; have it return when ctx.Done() is closed", e.After.Round(time.Second))
}

// Unwrap makes it a time limit.
func (e *AbandonedError) Unwrap() error { return context.DeadlineExceeded }

// report describes the call.
func (c *call) report(now time.Time) tokenstore.Call {
	event := c.events[c.at.Load()]
	return tokenstore.Call{Kind: tokenstore.BatchCall, Segment: &c.segment, Position: event.Position, Type: event.Type, Stream: event.StreamID,
		Events: len(c.events), Attempt: c.attempt, Running: now.Sub(c.began).Seconds()}
}

// invoke has the handler handle a batch, and ends with its context, or soon afterwards: a call that does not is abandoned. SQL
// handlers heed their context; functions of the user's run in a goroutine of their own, since they may not, and may end it.
func (l *life) invoke(ctx context.Context, g *group, t transaction, c *call) error {
	if g.spec.Go == nil {
		return g.handler.Apply(ctx, t, c.events)
	}
	done := handler.Isolated(func() error { return g.handler.Apply(ctx, t, c.events) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace := time.NewTimer(l.options.CallGrace)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-grace.C:
	}
	l.abandoned.add(g.name, c, done)
	if l.abandoned.count() >= mostAbandoned {
		l.look() // the control loop ends this worker
	}
	return &AbandonedError{After: time.Since(c.began)}
}

// abandonedCalls are calls that nobody waits for any more.
type abandonedCalls struct {
	mu    sync.Mutex
	calls map[*call]string // and their groups
}

func (a *abandonedCalls) add(group string, c *call, done <-chan error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls == nil {
		a.calls = map[*call]string{}
	}
	a.calls[c] = group
	go func() {
		<-done
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.calls, c)
	}()
}

func (a *abandonedCalls) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.calls)
}

// addTo adds the calls to the reports of their groups.
func (a *abandonedCalls) addTo(groups map[string]tokenstore.GroupReport, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c, name := range a.calls {
		r := groups[name]
		reported := c.report(now)
		reported.Abandoned = true
		r.Calls = append(r.Calls, reported)
		groups[name] = r
	}
}

// oldest orders calls by their age, and leaves out those that are too many to report.
func oldest(calls []tokenstore.Call) []tokenstore.Call {
	slices.SortFunc(calls, func(a, b tokenstore.Call) int { return cmp.Compare(b.Running, a.Running) })
	return calls[:min(len(calls), tokenstore.MostCalls)]
}
