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
	segment uint32
	events  []*eventsource.Event
	attempt int
	began   time.Time
	at      atomic.Int32 // number of the event that is being handled, from 1; 0 if it is not known
	ended   bool         // under the lock of abandonedCalls
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
	event := c.events[max(c.at.Load(), 1)-1]
	return tokenstore.Call{Kind: tokenstore.BatchCall, Segment: &c.segment, Position: event.Position, Type: event.Type, Stream: event.StreamID,
		Events: len(c.events), Attempt: c.attempt, Running: now.Sub(c.began).Seconds()}
}

// finish takes a call's error, nil for one that has committed.
type finish func(error)

// invoke has the handler handle a batch, and passes its error to finish. It reports whether the
// caller goes on.
//
// SQL handlers heed their context. Functions of the user's may not, or may end their goroutine.
// They run in the caller's goroutine all the same, since handing each call to another one costs
// more than a small batch may. If a function does not return soon after its context has ended, its
// call is abandoned: finish and goOn then run in another goroutine, and the caller has to end when
// it gets control back.
func (l *life) invoke(ctx context.Context, g *group, t transaction, c *call, finish finish, goOn func()) bool {
	if !g.traits.UserCode {
		finish(g.handler.Apply(ctx, t, c.events))
		return true
	}
	unwatch := context.AfterFunc(ctx, func() {
		time.AfterFunc(l.options.CallGrace, func() {
			if !l.abandoned.add(g.name, c) {
				return
			}
			if l.abandoned.count() >= mostAbandoned {
				l.look() // the control loop ends this worker
			}
			finish(&AbandonedError{After: time.Since(c.began)})
			goOn()
		})
	})
	returned := false
	defer func() {
		if returned {
			return
		}
		unwatch()
		if l.abandoned.end(c) { // by runtime.Goexit: nothing else runs in this goroutine
			go func() {
				finish(handler.ErrExited)
				goOn()
			}()
		}
	}()
	err := g.handler.Apply(ctx, t, c.events)
	returned = true
	unwatch()
	if !l.abandoned.end(c) {
		return false
	}
	finish(err)
	return true
}

// abandonedCalls are calls that nobody waits for any more.
type abandonedCalls struct {
	mu    sync.Mutex
	calls map[*call]string // and their groups
}

// add abandons a call, unless it has ended.
func (a *abandonedCalls) add(group string, c *call) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.ended {
		return false
	}
	if a.calls == nil {
		a.calls = map[*call]string{}
	}
	a.calls[c] = group
	return true
}

// end notes that a call has ended, and reports whether somebody has waited for it.
func (a *abandonedCalls) end(c *call) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, abandoned := a.calls[c]
	delete(a.calls, c)
	c.ended = true
	return !abandoned
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
