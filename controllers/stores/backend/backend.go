// Package backend says what the operator needs of a kind of stores. Package
// controllers/stores/postgres has the one there is.
package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

// Backend opens stores.
type Backend interface {
	// Open returns the access to the store that a spec in a namespace declares. It connects to
	// nothing.
	Open(namespace string, store definition.Store) Access
	// Diagnose says what an error means to users, and false if it does not come from this kind of
	// stores. place is where the operator connected to.
	Diagnose(err error, place string) (Diagnosis, bool)
	// Contention reports whether an error is gone with the next try.
	Contention(err error) bool
}

// Diagnosis is what an error means to users.
type Diagnosis struct {
	Reason   string // of the API
	Message  string // what to change; the same for as long as the fault is
	NoTables bool   // the store has none of Sluice's tables
	Secrets  bool   // the error says something about the Secrets' content, which was not tried
}

// Access is the access to one store.
type Access interface {
	// Find reads the Secrets, and returns where they lead to now.
	Find(ctx context.Context) (Place, error)
	// Connect opens a connection to where the Secrets lead. Later connections of the same Connection
	// read them again.
	Connect(ctx context.Context) (Connection, error)
	// Connected returns where it connected to last; nil before.
	Connected() Place
}

// Place is where the Secrets of a store lead to.
type Place interface {
	// String names the place for users, without a password.
	fmt.Stringer
	// Digest of the content of the Secrets.
	Digest() string
	// Meta connects once, and returns which store is there.
	Meta(ctx context.Context) (Meta, error)
}

// Meta says which store it is.
type Meta struct {
	StoreID string // a uuid
	// Elsewhere says that the tables were copied here from another database server: tokens mean
	// nothing here.
	Elsewhere bool
}

// Connection is an open connection to a store. When Wait has returned an error it is lost.
type Connection interface {
	// HasTables reports whether the store has Sluice's tables, of whatever version.
	HasTables(ctx context.Context) (bool, error)
	// Migrate brings the tables up to date, and returns the steps that it took. It is not to be
	// called once Wait was.
	Migrate(ctx context.Context) ([]string, error)
	// Meta returns which store it is. It fails if the tables are older than this program needs, or
	// if the program is too old for them.
	Meta(ctx context.Context) (Meta, error)
	// Wait waits until somebody has changed something about a processor, and returns its name; the
	// empty name stands for all.
	Wait(ctx context.Context) (processor string, err error)
	Directory() Directory
	Store() Store
	// Source returns the source of events that a spec declares. It connects to nothing. If the
	// events are in a database of their own, errors of that database are *SourceErrors, and its
	// connections are open until the Connection is closed.
	Source(declared definition.Source) (Source, error)
	Close() error
}

// SourceError is an error of a database that holds the events and no store. It says nothing of the
// store.
type SourceError struct {
	// Place is where the operator connected to, without a password; empty before.
	Place string
	Err   error
}

func (e *SourceError) Error() string {
	if e.Place == "" {
		return fmt.Sprintf("the source's database: %v", e.Err)
	}
	return fmt.Sprintf("the source's database: %s: %v", e.Place, e.Err)
}

func (e *SourceError) Unwrap() error { return e.Err }

// Directory is what the operator needs of one.
type Directory interface {
	tokenstore.Directory
	tokenstore.Waker
}

// Store is what the operator needs of one.
type Store interface {
	tokenstore.Store
	tokenstore.Replays
}

// Source is what the operator needs of one.
type Source interface {
	eventsource.Source
	eventsource.Checker
	// Waiting returns how old the next event after a position is; false if there is none.
	Waiting(ctx context.Context, after int64) (age time.Duration, waits bool, err error)
}
