package dev

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-project/sluice/runtime/handler"
)

// calls are those of Go handlers that are running.
type calls struct {
	mu      sync.Mutex
	running []*call
}

type call struct {
	handler string
	events  []*handler.Event
	began   time.Time
}

// watched are the handlers, whose calls are taken note of.
func (c *calls) watched(handlers map[string]handler.Handler) map[string]handler.Handler {
	if handlers == nil {
		return nil
	}
	all := map[string]handler.Handler{}
	for name, h := range handlers {
		w := watched{h, name, c}
		all[name] = w
		if resetter, ok := handler.ResetterOf(h); ok {
			all[name] = struct {
				watched
				handler.Resetter
			}{w, resetter}
		}
	}
	return all
}

type watched struct {
	handler.Handler
	name  string
	calls *calls
}

// Apply implements handler.Handler.
func (w watched) Apply(ctx context.Context, t handler.Transaction, events []*handler.Event) error {
	defer w.calls.begin(w.name, events)()
	return w.Handler.Apply(ctx, t, events)
}

func (c *calls) begin(name string, events []*handler.Event) (end func()) {
	this := &call{name, events, time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = append(c.running, this)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running = slices.DeleteFunc(c.running, func(other *call) bool { return other == this })
	}
}

// String names what runs; of SQL, nothing is known here.
func (c *calls) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, one := range c.running {
		first, last := one.events[0], one.events[len(one.events)-1]
		what := fmt.Sprintf("%s at position %d of stream %s", first.Type, first.Position, first.StreamID)
		if len(one.events) > 1 {
			what = fmt.Sprintf("%s, positions %d to %d", counted(len(one.events), "event"), first.Position, last.Position)
		}
		all = append(all, fmt.Sprintf("the handler %s, which has run for %s (%s)", one.handler, rounded(time.Since(one.began)), what))
	}
	if len(all) == 0 {
		return "the statements of a batch"
	}
	return strings.Join(all, " and ")
}
