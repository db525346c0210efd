package tokenstore

import (
	"context"
	"fmt"
	"time"
)

// Setups runs the setups of SQL handlers in the store that their projections are in.
type Setups interface {
	// SetupDone reports whether the setup of a group has been run for a definition.
	SetupDone(ctx context.Context, processor, definition, group string) (done bool, err error)

	// SetupOnce runs the setup of a group unless it has been run for this definition, in the
	// transaction that records it, and in a session of its own. Workers that come at the same time
	// wait for each other for a moment; then it is a *SetupRunsError. A *SetupError is one of the
	// user's commands. These end with the context, or at their time limit, 0 for none, whatever they
	// do: that is a *SetupTimeoutError.
	SetupOnce(ctx context.Context, processor, definition, group, sql string, limit time.Duration) error
}

// SetupError is an error of a setup's commands.
type SetupError struct {
	Err error
	// BlockedBy describes the sessions that held the lock that the setup did not get; it is empty if
	// there was none, or if they are not known.
	BlockedBy string
}

func (e *SetupError) Error() string {
	if e.BlockedBy == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v: it waits for a lock held by %s: end it, or wait; the setup is tried again", e.Err, e.BlockedBy)
}

func (e *SetupError) Unwrap() error { return e.Err }

// SetupRunsError says that another worker has been running the setup for some time.
type SetupRunsError struct {
	Group string
	By    string // describes the other worker's session; empty if it is not known
}

func (e *SetupRunsError) Error() string {
	if e.By == "" {
		return "another worker runs the setup of group " + e.Group
	}
	return fmt.Sprintf("another worker runs the setup of group %s: %s", e.Group, e.By)
}

// SetupTimeoutError says that a setup was not done within its time limit.
type SetupTimeoutError struct {
	Limit time.Duration
	Err   error
}

func (e *SetupTimeoutError) Error() string {
	return fmt.Sprintf("not done within the time limit of %s (processingGroups[].timeout): %v", e.Limit, e.Err)
}

func (e *SetupTimeoutError) Unwrap() error { return e.Err }
