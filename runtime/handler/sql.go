package handler

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore"
)

// SQL is a handler whose statements stand in the resource. Each statement is a message of its own; the events are a common
// table expression put before it, of exactly the positions that the batch read, never a range.
type SQL struct {
	statements []statement
	reset      string            // empty where there is none
	table      *definition.Table // of the user's, that events are read from
}

// Events is where statements have their events from.
type Events struct {
	// Join finds the event e for each row r by its position.
	Join string
	// At is the table e of the events at the positions in $1, an array in ascending order.
	At string
	// Table is the mapping of the user's own table that these read; nil for Sluice's.
	Table *definition.Table
}

// NewSQL makes a handler of statements over events.
func NewSQL(spec definition.SQLHandler, from Events) *SQL {
	h := &SQL{reset: spec.Reset, table: from.Table}
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
			var query *pgx.QueuedQuery
			s := &h.statements[call.statement]
			switch {
			case s.each:
				query = batch.Queue(s.text, call.positions[0], call.replay[0], told)
			case len(call.positions) == 1:
				query = batch.Queue(s.alone, call.positions[0], call.replay[0], told)
			case call.mixed():
				query = batch.Queue(s.mixed, call.positions, call.replay, told)
			default:
				query = batch.Queue(s.text, call.positions, call.replay[0], told)
			}
			query.Fn = func(results pgx.BatchResults) error {
				_, err := results.Exec()
				return callFailed(call, events, h.mapped(s.located(query.SQL, err)))
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
	positions []int64
	replay    []bool // by position: the event is handled again
}

// mixed reports whether some of the events are handled again and some are not, or they are not in the order of their positions.
func (c call) mixed() bool {
	return slices.Contains(c.replay, !c.replay[0]) || !slices.IsSorted(c.positions)
}

// plan cuts a batch into rounds. In a round each statement runs once over its events (or once for
// each of them), in the order in which they are declared; a new round begins with an event that
// would have to run an earlier statement than one that an event of its sequence before it has run.
// So within a sequence, statements never run out of the order of the events. The hash stands for
// the sequence key: two keys of one hash cost a round more at most.
func (h *SQL) plan(events []*Event) []call {
	var calls []call
	round := make([]call, len(h.statements))
	last := map[uint32]int{} // by hash of the sequence key: the last statement that one of its events ran in this round
	end := func() {
		for i := range round {
			calls = append(calls, h.calls(i, round[i])...)
			round[i] = call{}
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
				round[i].positions = append(round[i].positions, event.Position)
				round[i].replay = append(round[i].replay, event.Replay != nil)
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
func (h *SQL) calls(statement int, round call) []call {
	round.statement = statement
	if len(round.positions) == 0 {
		return nil
	}
	if !h.statements[statement].each {
		return []call{round}
	}
	var calls []call
	for i := range round.positions {
		calls = append(calls, call{statement, round.positions[i : i+1], round.replay[i : i+1]})
	}
	return calls
}
