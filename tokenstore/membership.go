package tokenstore

import "context"

// Permits is a semaphore that the workers of a store share. A member holds one permit at most. The
// store takes a permit back when its holder's connection ends. One goroutine uses it.
type Permits interface {
	// Acquire acquires a permit if one is free. The caller holds none.
	Acquire(ctx context.Context) (bool, error)

	// Release gives the permit back. After an error the store takes it back by itself.
	Release(ctx context.Context) error

	// Close ends what is kept open for the next Acquire, and releases the permit.
	Close() error
}

// Elector is a Directory that elects the worker that plans.
type Elector interface {
	// PlannerLock tries to become the only worker that plans a processor, runs plan under it, and
	// reports whether it got it. An error of plan is returned.
	PlannerLock(ctx context.Context, processor string, plan func() error) (bool, error)
}

// Evictor is a Directory that can end what incarnations have left.
type Evictor interface {
	// Evict ends the connections that are left of incarnations that have ended, and returns how many
	// there were. A frozen process would keep rows and permits locked by them. Sessions are spared:
	// a process that goes on finds its session lock, and may renew its lease.
	Evict(ctx context.Context, incarnations []int64) (int, error)
}

// Waker is a Directory that can wake workers and the operator.
type Waker interface {
	// Wake announces DirectoryChanged of a processor.
	Wake(ctx context.Context, processor string) error
}

// LiveNotifier is a Directory that can announce live events.
type LiveNotifier interface {
	// NotifyLiveEvents announces LiveEvents: the caller's worker handles some.
	NotifyLiveEvents(ctx context.Context) error
}

// Prober is a Directory that can show how quickly its store commits.
type Prober interface {
	// Probe commits next to nothing for a worker, and returns when that is on the disk.
	Probe(ctx context.Context, incarnation int64) error
}
