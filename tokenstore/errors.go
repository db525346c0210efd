package tokenstore

import (
	"errors"
	"fmt"
)

var (
	// ErrFenced is returned where a token has another epoch or version than the caller believes: somebody else has claimed,
	// split, merged or reset it, or an earlier write of the caller's own did commit. Nothing was written. Claim again first.
	ErrFenced = errors.New("fenced: the token has moved on")

	// ErrManagedTransaction is returned to a handler, a reset or a setup that would begin or end a
	// transaction. Sluice commits what they write together with the tokens, or with the record of
	// the setup, and nothing of it without them.
	ErrManagedTransaction = errors.New("Sluice ends this transaction: return nil instead of committing, an error instead of rolling back") //nolint:staticcheck // Sluice is a name

	// ErrNoConnection is returned where a batch got no connection in time: nothing of it was sent.
	// The handler was not called, except for code that only queues statements.
	ErrNoConnection = errors.New("the batch got no connection to the database")

	// ErrWorkerEnded is returned to a worker whose row says that it has ended or is gone; it has to register anew.
	ErrWorkerEnded = errors.New("this worker's registration has ended")

	// ErrPlanOutdated is returned by Assign when another plan was written since the caller looked.
	ErrPlanOutdated = errors.New("another plan was written in the meantime")

	// ErrNoProcessor is returned where the directory does not know the processor (yet).
	ErrNoProcessor = errors.New("the directory does not know this processor")

	// ErrLayoutChanged is returned when a group does not have the segment that the caller believes.
	ErrLayoutChanged = errors.New("the group's layout has changed in the meantime")
)

// ProtocolError says that this program is too old for the store.
type ProtocolError struct{ Have, Want int }

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("this runtime speaks protocol %d, the store needs at least %d: use a newer image", e.Have, e.Want)
}

// CommitError is an error that the COMMIT of a batch raised, after the batch's token had moved in
// the same transaction: a deferred constraint of the user's. Nothing was committed.
type CommitError struct{ Err error }

func (e *CommitError) Error() string { return "committing: " + e.Err.Error() }
func (e *CommitError) Unwrap() error { return e.Err }

// PanicError is a panic of users' code outside of the handler's goroutine: pgx asks for rows to copy
// in one of its own.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("the rows to copy panicked: %v", e.Value) }

// ErrSwallowed is returned where a handler returned nil although one of its statements had failed,
// which aborts its transaction. Nothing was committed.
var ErrSwallowed = errors.New("a statement of the handler failed and the handler returned nil, although its transaction cannot commit any more: return the statement's error")
