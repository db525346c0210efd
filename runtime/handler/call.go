package handler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/definition"
)

// CallError says which statement the server refused to run, and over which events. It is never
// about Sluice's own statements, nor about a connection that was lost: that leaves open how far the
// server has come.
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

// MappingError says that an event's row may not hold what the mapping of its table says that it
// does. The server's error does not tell whether it read the row or ran what the user wrote.
type MappingError struct {
	Advice string
	Err    error
}

func (e *MappingError) Error() string { return e.Err.Error() + "; " + e.Advice }
func (e *MappingError) Unwrap() error { return e.Err }

// mapped adds to an error the part of the mapping that it may come from.
func (h *SQL) mapped(err error) error {
	var server *pgconn.PgError
	if h.events.Table == nil || !errors.As(err, &server) {
		return err
	}
	table := h.events.Table
	var advice []string
	read := func(field, column, as string) {
		advice = append(advice, fmt.Sprintf("spec.source.table.%s says that column %s holds %s", field, column, as))
	}
	isJSON := func(field string, p definition.Payload) {
		if p.Content == definition.ContentJSON && p.Type != definition.PayloadJSONB {
			read(field, p.Column, "JSON")
		}
	}
	instead := "if the row holds something else, correct it"
	switch server.Code {
	// No JSON; an escape that jsonb cannot hold; no UTF-8.
	case pgerrcode.InvalidTextRepresentation, pgerrcode.UntranslatableCharacter, pgerrcode.CharacterNotInRepertoire:
		if server.Code == pgerrcode.InvalidTextRepresentation && !strings.Contains(server.Message, "json") {
			return err
		}
		instead += ", or set content to Text or Base64"
		isJSON("data.content", table.Data)
		if table.Metadata != nil {
			isJSON("metadata.content", *table.Metadata)
		}
	case pgerrcode.InvalidDatetimeFormat, pgerrcode.DatetimeFieldOverflow:
		if !h.events.ByValue { // else the source has read the time
			read("columns.recordedAt", table.Columns.RecordedAt, "a time")
		}
	}
	if advice == nil {
		return err
	}
	return &MappingError{strings.Join(advice, ", and ") + ": " + instead, err}
}

// callFailed adds to the server's answer to a call which call that was. Other errors stay as they
// are.
func callFailed(c call, err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return err
	}
	return &CallError{Statement: c.statement, Positions: positionsOf(c.events), Err: err, first: c.events[0]}
}

// prepareFailed does the same where the server refused to prepare a statement: it was meant for all
// events of its types.
func (h *SQL) prepareFailed(events []*Event, err error) error {
	var prepare pgx.ErrPreprocessingBatch
	if !errors.As(err, &prepare) {
		return err
	}
	for i, s := range h.statements {
		if !slices.Contains([]string{s.text, s.alone, s.mixed}, prepare.SQL()) {
			continue
		}
		all := call{statement: i}
		for _, e := range events {
			if s.Wants(e.Type) {
				all.events = append(all.events, e)
			}
		}
		if len(all.events) > 0 {
			return callFailed(all, s.located(prepare.SQL(), err))
		}
	}
	return err
}
