package handler

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore"
)

// SQL is a handler whose statements stand in the resource. Each statement is a message of its own.
// The events are a common table expression put before it, of exactly the events that the batch
// read, never of a range of positions.
type SQL struct {
	statements []statement
	reset      string // empty if there is none
	events     Events
}

// NewSQL makes a handler of statements over events.
func NewSQL(spec definition.SQLHandler, from Events) *SQL {
	h := &SQL{reset: spec.Reset, events: from}
	for _, s := range spec.Statements {
		h.statements = append(h.statements, newStatement(s, from))
	}
	return h
}

// Wants implements Handler.
func (h *SQL) Wants(eventType string) bool {
	return slices.ContainsFunc(h.statements, func(s statement) bool { return s.Wants(eventType) })
}

// Apply implements Handler.
func (h *SQL) Apply(ctx context.Context, t Transaction, events []*Event) error {
	if err := h.events.complete(events); err != nil {
		return err
	}
	err := t.Pipeline(ctx, func(statements tokenstore.Statements) error {
		batch, err := postgresBatch(statements)
		if err != nil {
			return err
		}
		told, err := contextJSON(contextOf(events))
		if err != nil {
			return err
		}
		for _, call := range h.plan(events) {
			s := &h.statements[call.statement]
			text, args := s.over(call.events, told)
			batch.Queue(text, args...).Fn = func(results pgx.BatchResults) error {
				_, err := results.Exec()
				return callFailed(call, h.mapped(s.located(text, err)))
			}
		}
		return nil
	})
	return h.prepareFailed(events, err)
}

// contextOf returns that of the replay that some of the events are of: a group is in the middle of one at most.
func contextOf(events []*Event) map[string]string {
	for _, event := range events {
		if event.Replay != nil {
			return event.Replay.Context
		}
	}
	return nil
}

// Check implements Checker: it has the server parse every statement.
func (h *SQL) Check(ctx context.Context, in tokenstore.Tx) error {
	tx, err := postgresTx(in)
	if err != nil {
		return err
	}
	for i, s := range h.statements {
		if err := s.check(ctx, tx.Conn(), i); err != nil {
			return fmt.Errorf("handler.sql.%w", err)
		}
	}
	return nil
}

// call is one run of a statement over events.
type call struct {
	statement int
	events    []*Event // in the order in which the statement has them
}

// plan cuts a batch into rounds. In a round each statement runs once over its events (or once for
// each of them), in the order in which they are declared; a new round begins with an event that
// would have to run an earlier statement than one that an event of its sequence before it has run.
// So within a sequence, statements never run out of the order of the events. The hash stands for
// the sequence key: two keys of one hash cost a round more at most.
func (h *SQL) plan(events []*Event) []call {
	var calls []call
	round := make([][]*Event, len(h.statements))
	last := map[uint32]int{} // by hash of the sequence key: the last statement that one of its events ran in this round
	end := func() {
		for i := range round {
			calls = append(calls, h.calls(i, round[i])...)
			round[i] = nil
		}
		clear(last)
	}
	for _, event := range events {
		first, final := h.span(event.Type)
		if ran, there := last[event.Hash]; there && first < ran {
			end()
		}
		for i := first; i <= final; i++ {
			if h.statements[i].Wants(event.Type) {
				round[i] = append(round[i], event)
			}
		}
		last[event.Hash] = final
	}
	end()
	return calls
}

// span returns the first and the last statement that want a type; the first is behind the last where none does.
func (h *SQL) span(eventType string) (first, final int) {
	first, final = len(h.statements), -1
	for i, s := range h.statements {
		if s.Wants(eventType) {
			first, final = min(first, i), i
		}
	}
	return first, final
}

// calls runs a statement once for a round's events, or once for each of them.
func (h *SQL) calls(statement int, events []*Event) []call {
	if len(events) == 0 {
		return nil
	}
	if !h.statements[statement].each {
		return []call{{statement, events}}
	}
	var calls []call
	for i := range events {
		calls = append(calls, call{statement, events[i : i+1]})
	}
	return calls
}
