package memory

import (
	"context"
	"fmt"
	"time"

	store "github.com/sluice-project/sluice/tokenstore/memory"
)

// Call is one call of a worker to its store or to its log.
type Call struct {
	Name   string // of the method
	Detail string // what it is about
	Writes bool   // it may change something
}

// Delivery says what happens to a call on its way.
type Delivery struct {
	Request time.Duration // how long it takes until the call has its effect
	Answer  time.Duration // how long its answer takes then
	Loss    Loss
	Late    time.Duration // how long a LateRequest takes in addition
}

// Loss is what gets lost of a call. In each case the worker learns that its connection was lost, and
// does not know whether the call has had its effect.
type Loss int

const (
	// NoLoss delivers the call and its answer.
	NoLoss Loss = iota
	// LostRequest loses the call: it has no effect.
	LostRequest
	// LostAnswer loses the answer of a call that has had its effect.
	LostAnswer
	// LateRequest gives the connection up while the call is on its way: it has its effect later. It
	// is for calls of Commits only; for others it is a LostAnswer.
	LateRequest
)

// silence is how long a connection without any answer is kept: as with the keepalives of a
// connection to PostgreSQL.
const silence = 2500 * time.Millisecond

// Kill cuts all connections and refuses new ones, as the end of the process does: its sessions end,
// and all its calls fail.
func (b *Backend) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
	b.cut()
}

// Cut cuts all connections. Their workers may connect again.
func (b *Backend) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut()
}

// cut is Cut for those who hold the lock.
func (b *Backend) cut() {
	for _, c := range b.connections {
		c.cut()
	}
}

// Freeze has all calls wait, as in a process that is stopped for a while. Sessions stay open
// meanwhile.
func (b *Backend) Freeze(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = time.Now().Add(d)
}

// Partition cuts the network between the process and the store for a while. Both sides give their
// connections up if that lasts, the store's sessions included.
func (b *Backend) Partition(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.partitioned = time.Now().Add(d)
	if d > silence {
		time.AfterFunc(silence, b.Cut)
	}
}

// waits are what calls wait for.
func (b *Backend) waits() (dead bool, frozen, partitioned time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead, time.Until(b.frozen), time.Until(b.partitioned)
}

// delivery asks what happens to a call.
func (b *Backend) delivery(call Call) Delivery {
	if b.Network == nil {
		return Delivery{}
	}
	return b.Network(call)
}

// travel takes the time that a request or an answer takes. It waits while the process is frozen or
// cut off, and fails once the process is dead or has lost its connections.
func (b *Backend) travel(ctx context.Context, d time.Duration) error {
	if err := sleep(ctx, d); err != nil {
		return err
	}
	for {
		dead, frozen, partitioned := b.waits()
		switch {
		case dead:
			return store.ErrLost
		case frozen > 0:
			time.Sleep(frozen + d) // whatever its context says: nothing runs there
		case partitioned > silence:
			if err := sleep(ctx, silence+d); err != nil {
				return err
			}
			return store.ErrLost
		case partitioned > 0:
			if err := sleep(ctx, partitioned+d); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// sleep waits. A connection whose call was given up is lost.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", store.ErrLost, ctx.Err())
	}
}

// reach is travel on a connection that may be lost meanwhile.
func (c *connection) reach(ctx context.Context, d time.Duration) error {
	if err := c.backend.travel(ctx, d); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		return store.ErrLost
	}
	return nil
}

// do makes a call that only has an error.
func (c *connection) do(ctx context.Context, call Call, effect func() error) error {
	_, err := ask(ctx, c, call, func() (struct{}, error) { return struct{}{}, effect() })
	return err
}

// ask makes a call.
func ask[T any](ctx context.Context, c *connection, call Call, effect func() (T, error)) (answer T, err error) {
	var none T
	delivery := c.backend.delivery(call)
	if err := c.reach(ctx, delivery.Request); err != nil {
		return none, err
	}
	if delivery.Loss == LostRequest {
		return none, store.ErrLost
	}
	answer, err = effect()
	if lost := c.reach(ctx, delivery.Answer); lost != nil {
		return none, lost
	}
	if delivery.Loss != NoLoss {
		return none, store.ErrLost
	}
	return answer, err
}
