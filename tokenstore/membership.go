package tokenstore

import "context"

// Membership lets workers join a store, each as an incarnation of its own.
//
// A member's registration, lease and state are the Directory's. Its session is apart from them: a
// session waits for signals, and the end of its connection is the quickest sign that a worker has
// ended.
type Membership interface {
	// Join takes the next incarnation and opens its session, with the session lock if the store has
	// such locks. A *ProtocolError says that the program is too old for the store. After an error
	// nothing is left open.
	Join(ctx context.Context) (Member, Session, error)
}

// Identity names an incarnation.
type Identity struct {
	Incarnation int64
	Nonce       string // a UUID; the pair (incarnation, nonce) is unique also after a restore
	SessionLock bool   // others notice the end of its session
}

// Member is an incarnation that has joined. It may also be a PeerWatcher and a Limiter.
type Member interface {
	Identity() Identity

	// Rejoin opens another session in place of one that was lost, and takes the session lock back.
	// It waits until the store has let go of the lock.
	Rejoin(ctx context.Context) (Session, error)
}

// Session receives what is announced after it was opened. When it ends, others see that the worker
// has ended. One goroutine uses it.
type Session interface {
	// Next waits for a signal. An error that is not the context's says that the session has ended.
	Next(ctx context.Context) (Signal, error)

	// Close ends the session, and releases the session lock.
	Close() error
}

// Signal is what others have announced. Sessions receive signals in the order of their
// announcements. A signal that was announced several times may be received once.
type Signal struct {
	Kind      SignalKind
	Processor string // of DirectoryChanged; empty for all
}

// SignalKind names a Signal.
type SignalKind int

const (
	// DirectoryChanged says that a processor's row, plan or tokens have changed.
	DirectoryChanged SignalKind = iota
	// EventsAppended says that there are new events, if the source announces them in the store.
	EventsAppended
	// LiveEvents says that a worker of the store handles live events.
	LiveEvents
)

// PeerWatcher is a Member that can wait for the end of other workers' sessions. It is of use only
// for sessions with a session lock.
type PeerWatcher interface {
	// WatchPeers opens a watch for a processor's workers.
	WatchPeers(ctx context.Context, processor string) (PeerWatch, error)
}

// PeerWatch waits for the end of other workers' sessions. One goroutine uses it.
type PeerWatch interface {
	// WaitSessionEnd waits until the session of an incarnation has ended, and reports whether it
	// has: false after a second at most, or when the context ends. If the session has ended, it
	// announces DirectoryChanged of the processor. After an error the watch is of no use any more.
	WaitSessionEnd(ctx context.Context, incarnation int64) (bool, error)

	Close() error
}

// Limiter is a Member that can limit how many workers of a store read a backlog at the same time.
type Limiter interface {
	// Permits returns the member's access to the permits of the store, of which there are limit.
	// Members with different limits get along: together they hold at most as many permits as the
	// largest limit. It returns nil if limit is below 1, or if the store cannot tell who holds one.
	Permits(limit int) Permits
}

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
