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
	// Join brings the store up to date if it may, joins its tokenstore.Membership, and connects the
	// incarnation. A *tokenstore.ProtocolError says that the program is too old for the store. After
	// an error nothing is left open.
	Join(ctx context.Context, needs Needs) (Connection, tokenstore.Session, error)
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
	Log            *slog.Logger
}

// Connection is what an incarnation has of its store and its source.
type Connection interface {
	tokenstore.Member
	tokenstore.PeerWatcher
	tokenstore.Limiter
	Directory() Directory
	Store() Store
	// Source is for everything but pages, and Pages for those.
	Source() Source
	Pages() Source
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
