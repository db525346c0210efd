package handler

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CallError says which statement the server refused to run, and over which events. It is never about Sluice's own
// statements, nor about a connection that was lost: that leaves open how far the server has come.
type CallError struct {
	Statement int
	Positions []int64 // of the call's events, in the order in which it has them
	Err       error

	first *Event
}

func (e *CallError) Error() string {
	if n := len(e.Positions); n > 1 {
		return fmt.Sprintf("statements[%d] over %d events, positions %d to %d: %s", e.Statement, n, slices.Min(e.Positions), slices.Max(e.Positions), e.Err)
	}
	return fmt.Sprintf("statements[%d] at position %d (%s of stream %s): %s", e.Statement, e.first.Position, e.first.Type, e.first.StreamID, e.Err)
}

func (e *CallError) Unwrap() error { return e.Err }

// callFailed adds to the server's answer to a call which call that was. Other errors stay as they are.
func callFailed(c call, events []*Event, err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return err
	}
	first := slices.IndexFunc(events, func(e *Event) bool { return e.Position == c.positions[0] })
	return &CallError{Statement: c.statement, Positions: c.positions, Err: err, first: events[first]}
}

// prepareFailed does the same where the server refused to prepare a statement: it was meant for all events of its types.
func (h *SQL) prepareFailed(events []*Event, err error) error {
	var prepare pgx.ErrPreprocessingBatch
	if !errors.As(err, &prepare) {
		return err
	}
	for i, s := range h.statements {
		if prepare.SQL() != s.text && prepare.SQL() != s.mixed {
			continue
		}
		all := call{statement: i}
		for _, e := range events {
			if s.Wants(e.Type) {
				all.positions = append(all.positions, e.Position)
			}
		}
		if len(all.positions) > 0 {
			return callFailed(all, events, err)
		}
	}
	return err
}
