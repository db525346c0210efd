package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
)

// directory is a directory whose calls travel.
type directory struct {
	store.Directory
	connection *connection
}

// Register implements tokenstore.Directory.
func (d directory) Register(ctx context.Context, processor string, w tokenstore.Worker) error {
	return d.connection.do(ctx, Call{"Register", "", true}, func() error { return d.Directory.Register(ctx, processor, w) })
}

// Heartbeat implements tokenstore.Directory.
func (d directory) Heartbeat(ctx context.Context, w tokenstore.Worker) (tokenstore.HeartbeatResponse, error) {
	return ask(ctx, d.connection, Call{"Heartbeat", "", true}, func() (tokenstore.HeartbeatResponse, error) { return d.Directory.Heartbeat(ctx, w) })
}

// SetState implements tokenstore.Directory.
func (d directory) SetState(ctx context.Context, incarnation int64, state tokenstore.State) error {
	return d.connection.do(ctx, Call{"SetState", fmt.Sprint(incarnation, " ", state), true}, func() error { return d.Directory.SetState(ctx, incarnation, state) })
}

// Leave implements tokenstore.Directory.
func (d directory) Leave(ctx context.Context, processor string, pods []string) error {
	return d.connection.do(ctx, Call{"Leave", fmt.Sprint(pods), true}, func() error { return d.Directory.Leave(ctx, processor, pods) })
}

// Acknowledge implements tokenstore.Directory.
func (d directory) Acknowledge(ctx context.Context, processor string, plan int64) error {
	return d.connection.do(ctx, Call{"Acknowledge", fmt.Sprint(plan), true}, func() error { return d.Directory.Acknowledge(ctx, processor, plan) })
}

// View implements tokenstore.Directory.
func (d directory) View(ctx context.Context, processor string) (tokenstore.View, error) {
	return ask(ctx, d.connection, Call{"View", "", false}, func() (tokenstore.View, error) { return d.Directory.View(ctx, processor) })
}

// Assign implements tokenstore.Directory.
func (d directory) Assign(ctx context.Context, processor string, p tokenstore.Plan) error {
	return d.connection.do(ctx, Call{"Assign", fmt.Sprint(p.Last), true}, func() error { return d.Directory.Assign(ctx, processor, p) })
}

// Adopt implements tokenstore.Directory.
func (d directory) Adopt(ctx context.Context, processor string, worker int64, orphans []tokenstore.Assignment) ([]tokenstore.Key, error) {
	return ask(ctx, d.connection, Call{"Adopt", fmt.Sprint(worker, " ", orphans), true}, func() ([]tokenstore.Key, error) {
		return d.Directory.Adopt(ctx, processor, worker, orphans)
	})
}

// PlannerLock implements tokenstore.Elector.
func (d directory) PlannerLock(ctx context.Context, processor string, plan func() error) (bool, error) {
	return ask(ctx, d.connection, Call{"PlannerLock", "", true}, func() (bool, error) { return d.Directory.PlannerLock(ctx, processor, plan) })
}

// Evict implements tokenstore.Evictor.
func (d directory) Evict(ctx context.Context, incarnations []int64) (int, error) {
	return ask(ctx, d.connection, Call{"Evict", fmt.Sprint(incarnations), true}, func() (int, error) { return d.Directory.Evict(ctx, incarnations) })
}

// Wake implements tokenstore.Waker.
func (d directory) Wake(ctx context.Context, processor string) error {
	return d.connection.do(ctx, Call{"Wake", "", true}, func() error { return d.Directory.Wake(ctx, processor) })
}

// NotifyLiveEvents implements tokenstore.LiveNotifier.
func (d directory) NotifyLiveEvents(ctx context.Context) error {
	return d.connection.do(ctx, Call{"NotifyLiveEvents", "", true}, func() error { return d.Directory.NotifyLiveEvents(ctx) })
}

// Probe implements tokenstore.Prober.
func (d directory) Probe(ctx context.Context, incarnation int64) error {
	return d.connection.do(ctx, Call{"Probe", "", false}, func() error { return d.Directory.Probe(ctx, incarnation) })
}

// SetupDone implements tokenstore.Setups.
func (d directory) SetupDone(ctx context.Context, processor, definition, group string) (bool, error) {
	return ask(ctx, d.connection, Call{"SetupDone", group, false}, func() (bool, error) { return d.Directory.SetupDone(ctx, processor, definition, group) })
}

// SetupOnce implements tokenstore.Setups.
func (d directory) SetupOnce(ctx context.Context, processor, definition, group, sql string, limit time.Duration) error {
	return d.connection.do(ctx, Call{"SetupOnce", group, true}, func() error {
		return d.Directory.SetupOnce(ctx, processor, definition, group, sql, limit)
	})
}
