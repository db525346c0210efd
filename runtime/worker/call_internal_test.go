package worker

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
)

// applies is a handler of a function.
type applies func() error

func (applies) Wants(string) bool { return true }

func (a applies) Apply(context.Context, handler.Transaction, []*handler.Event) error { return a() }

// TestACallIsFinishedOnceAndSomebodyGoesOn whatever the handler does: else a segment would be at
// work for ever or for two, or an executor would be missing or one too many.
func TestACallIsFinishedOnceAndSomebodyGoesOn(t *testing.T) {
	failed := errors.New("failed")
	gate := make(chan struct{})
	for name, c := range map[string]struct {
		handler applies
		caller  bool // the caller goes on
		is      func(error) bool
	}{
		"it returns":            {func() error { return nil }, true, func(err error) bool { return err == nil }},
		"it fails":              {func() error { return failed }, true, func(err error) bool { return errors.Is(err, failed) }},
		"it ends its goroutine": {func() error { runtime.Goexit(); return nil }, false, func(err error) bool { return errors.Is(err, handler.ErrExited) }},
		"it returns too late": {func() error { <-gate; return nil }, false, func(err error) bool {
			_, abandoned := errors.AsType[*AbandonedError](err)
			return abandoned
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := &life{Worker: &Worker{options: Options{CallGrace: time.Millisecond}}, nudge: make(chan struct{}, 1)}
			g := &group{name: "calls", traits: handler.Traits{UserCode: true}, handler: c.handler}
			finished, wentOn, returned := make(chan error, 2), make(chan struct{}, 2), make(chan bool, 1)
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if name != "it returns too late" {
				ctx = t.Context()
			}
			go func() {
				goesOn := false
				defer func() { returned <- goesOn }()
				goesOn = l.invoke(ctx, g, transaction{}, &call{events: []*eventsource.Event{{}}}, func(err error) { finished <- err }, func() { wentOn <- struct{}{} })
			}()
			if err := <-finished; !c.is(err) {
				t.Errorf("the call is finished with %v", err)
			}
			if !c.caller {
				<-wentOn
			}
			if name == "it returns too late" {
				if n := l.abandoned.count(); n != 1 {
					t.Errorf("%d calls count as abandoned", n)
				}
				close(gate)
			}
			if goesOn := <-returned; goesOn != c.caller {
				t.Errorf("the caller goes on: %t", goesOn)
			}
			if len(finished)+len(wentOn) > 0 {
				t.Errorf("it was finished %d times more, and %d others go on", len(finished), len(wentOn))
			}
			if n := l.abandoned.count(); n != 0 {
				t.Errorf("%d calls that have ended count as abandoned", n)
			}
		})
	}
}
