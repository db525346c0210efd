package eventsource

import (
	"cmp"
	"context"
	"time"
)

// Checker is a Source that can look whether it is as it is declared.
type Checker interface {
	// Check returns an *InvalidError or a *ChangedError if it is not.
	Check(ctx context.Context) error
}

// Diagnoser is a Source that knows whom events wait for.
type Diagnoser interface {
	// OpenWriters returns the transactions that events may still come from, and the time by the
	// source's clock.
	OpenWriters(ctx context.Context) ([]OpenWriter, time.Time, error)
}

// Notifier is a Source that announces new events.
type Notifier interface {
	// Wait returns when there may be new events. After an error some may not have been announced; the
	// next call tries again. Only one goroutine may call it.
	Wait(ctx context.Context) error
}

// OpenWriter is a transaction that has written events, or may have, and has not ended. Its own events
// wait for that; no others do.
type OpenWriter struct {
	Transaction string `json:"transaction"`        // its id, as pg_stat_activity and pg_prepared_xacts have it; its virtual one while it has no other
	PID         int32  `json:"pid,omitempty"`      // of the backend; 0 where it is prepared
	Prepared    string `json:"prepared,omitempty"` // the gid, where it is prepared for two-phase commit
	Application string `json:"application,omitempty"`
	User        string `json:"user,omitempty"`
	// Since when, by the database's clock: its start, or when it was prepared. If the reader's role may
	// not know that, it is when the transaction was first seen.
	Since time.Time `json:"since"`
}

// Compare orders the oldest first.
func (w OpenWriter) Compare(other OpenWriter) int {
	return cmp.Or(w.Since.Compare(other.Since), cmp.Compare(w.Transaction, other.Transaction))
}
