package worker

import (
	"context"
	"log/slog"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// Backend connects the incarnations of a worker with their store and their source. Package backend
// has the one for PostgreSQL.
type Backend interface {
	// Join brings the store up to date if it may, takes the next incarnation, with its session lock
	// if the server has any, and connects it. A *tokenstore.ProtocolError says that the program is
	// too old for the store. After an error nothing is left open.
	Join(ctx context.Context, needs Needs) (Connection, Session, error)
}

// Needs are what an incarnation needs of its connection.
type Needs struct {
	Definition definition.Definition
	// Batches is how many may run at once, those of stand-ins included.
	Batches int
	// Abandoned is how many calls that do not end may keep what they were given.
	Abandoned int
	// Readers is how many pages may be read at once.
	Readers int
	// PageBytes is what a page may take in memory.
	PageBytes int64
	// WithoutPayload says that pages need no data and no metadata of events.
	WithoutPayload bool
	// CatchUpWorkers is how many workers may read a backlog of the store at a time; below 1 for any
	// number.
	CatchUpWorkers int
	Log            *slog.Logger
}

// Identity names an incarnation.
type Identity struct {
	Incarnation int64
	Nonce       string // a UUID
	SessionLock bool   // others notice the end of its session
}

// Connection is what an incarnation has of its store and its source.
type Connection interface {
	Identity() Identity
	Directory() Directory
	Store() Store
	// Source is for everything but pages, and Pages for those.
	Source() Source
	Pages() Source
	// Permits limit how many workers read backlogs; nil for no limit.
	Permits() tokenstore.Permits
	// Reconnect opens another session in place of one that was lost, and takes the session lock
	// back.
	Reconnect(ctx context.Context) (Session, error)
	// Watch opens a watch of another worker's session.
	Watch(ctx context.Context, processor string) (Watch, error)
	// Handlers is what the connection has for handlers.
	Handlers() handler.Env
	// Check has the store look at what a handler is going to send, without running it.
	Check(ctx context.Context, h handler.Checker) error
	// Close ends what Join has opened, but for the session. Calls that were abandoned may still
	// have connections: Close does not wait for them.
	Close(abandoned bool) error
}

// Directory is what a worker needs of one.
type Directory interface {
	tokenstore.Directory
	tokenstore.Setups
	tokenstore.Elector
	tokenstore.Evictor
	tokenstore.Waker
	tokenstore.LiveNotifier
	tokenstore.Prober
}

// Store is what a worker needs of one.
type Store interface {
	tokenstore.Store
	tokenstore.Replays
	tokenstore.Resets
	tokenstore.Commits
	tokenstore.Classifier
}

// Source is what a worker needs of one.
type Source interface {
	eventsource.Source
	eventsource.Checker
	eventsource.Diagnoser
	// NeedContents has pages hold data and metadata from now on.
	NeedContents()
}

// Session receives what others announce. When it ends, others see that the worker is gone.
type Session interface {
	// Next waits for a signal. An error that is not the context's says that the session has ended.
	Next(ctx context.Context) (Signal, error)
	Close() error
}

// Signal is what others have announced.
type Signal struct {
	Kind      SignalKind
	Processor string // of DirectoryChanged; empty for all
}

// SignalKind names a Signal.
type SignalKind int

const (
	// DirectoryChanged says that a processor's row, plan or tokens have changed.
	DirectoryChanged SignalKind = iota
	// EventsAppended says that there are new events.
	EventsAppended
	// LiveEvents says that a worker of the store handles live events.
	LiveEvents
)

// Watch waits for the end of other workers' sessions.
type Watch interface {
	// Ended waits until the session of an incarnation has ended, and reports whether it has: false
	// after a second at most, or when the context ends. After an error the watch is of no use any
	// more.
	Ended(ctx context.Context, incarnation int64) (bool, error)
	Close() error
}
