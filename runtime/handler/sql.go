package handler

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
)

// SQL is a handler whose statements stand in the resource. Each statement is a message of its own; the events are a common
// table expression put before it, of exactly the positions that the batch read, never a range.
type SQL struct {
	statements []statement
	reset      string // empty where there is none
}

// statement is one of them, as it is sent.
type statement struct {
	types
	text  string
	mixed string // of a batch of which some events are handled again and some are not, or that is not in the order of positions
	each  bool   // once for each event, not once for all
}

// Names of the common table expression: `events` for a batch, `event` for a single one.
const (
	eventsName = "events"
	eventName  = "event"
)

// Events is where statements have their events from.
type Events struct {
	// Join finds the event e for each row r by its position.
	Join string
	// At is the table e of the events at the positions in $1, an array in ascending order.
	At string
}

// NewSQL makes a handler of statements over events.
func NewSQL(spec definition.SQLHandler, from Events) *SQL {
	h := &SQL{reset: spec.Reset}
	for _, s := range spec.Statements {
		if s.Each != "" {
			h.statements = append(h.statements, statement{types: typesOf(s.EventTypes), text: withEvents(eventName, s.Each, "r.replay", "r.ordinal", fromScalars+from.Join), each: true})
			continue
		}
		h.statements = append(h.statements, statement{types: typesOf(s.EventTypes), text: withEvents(eventsName, s.Batch, "$2::boolean", "row_number() OVER (ORDER BY e.position)", from.At),
			mixed: withEvents(eventsName, s.Batch, "r.replay", "r.ordinal", fromArrays+from.Join+" ORDER BY r.ordinal")})
	}
	return h
}

// Where a statement's parameters come from: the positions of a batch's events with, for each, whether it is handled again; or one of each.
// One event is no array of one: of a look-up by arrays the server believes that it finds more with other arrays, so that it plans the statement
// anew for each event, which takes ten times as long as running it. Nor are the events of a batch looked up one by one by a join, where one answer
// does for all of them as to whether they are handled again: the table's index finds the positions of an array in half of the time.
const (
	fromArrays  = `unnest($1::bigint[], $2::boolean[]) WITH ORDINALITY AS r (position, replay, ordinal) `
	fromScalars = `(SELECT $1::bigint AS position, $2::boolean AS replay, 1::bigint AS ordinal) AS r `
)

// withEvents puts the events, as a common table expression of that name, before a user's statement.
func withEvents(name, text, replay, ordinal, from string) string {
	cte := fmt.Sprintf(`%s AS (SELECT e.position, e.stream_id, e.type, e.data, e.metadata, e.recorded_at, %s AS replay,
  CASE WHEN %[2]s THEN $3::jsonb END AS replay_context, %s AS ordinal
  FROM %s)
`, name, replay, ordinal, from)
	before, rest := splitLeading(strings.TrimRight(text, "; \t\r\n"))
	word, after := firstWord(rest)
	if !strings.EqualFold(word, "WITH") {
		return before + "WITH " + cte + rest
	}
	if next, afterNext := firstWord(strings.TrimLeft(after, " \t\r\n")); strings.EqualFold(next, "RECURSIVE") {
		return before + "WITH RECURSIVE " + cte + ", " + afterNext
	}
	return before + "WITH " + cte + ", " + after
}

// splitLeading splits off blanks and comments at the beginning.
func splitLeading(text string) (leading, rest string) {
	rest = text
	for {
		trimmed := strings.TrimLeft(rest, " \t\r\n\f\v")
		switch {
		case strings.HasPrefix(trimmed, "--"):
			_, after, found := strings.Cut(trimmed, "\n")
			if !found {
				return text, ""
			}
			rest = after
		case strings.HasPrefix(trimmed, "/*"):
			rest = afterComment(trimmed)
		default:
			return text[:len(text)-len(trimmed)], trimmed
		}
	}
}

// afterComment skips a comment, which may hold others.
func afterComment(text string) string {
	depth := 0
	for i := 0; i+1 < len(text); i++ {
		switch text[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return text[i+1:]
			}
		}
	}
	return ""
}

// firstWord splits an identifier off the beginning.
func firstWord(text string) (word, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_'
	})
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}

// Wants implements Handler.
func (h *SQL) Wants(eventType string) bool {
	return slices.ContainsFunc(h.statements, func(s statement) bool { return s.Wants(eventType) })
}

// Apply implements Handler.
func (h *SQL) Apply(ctx context.Context, t Transaction, events []*Event) error {
	return t.Pipeline(ctx, func(batch *pgx.Batch) error {
		told, err := contextJSON(contextOf(events))
		if err != nil {
			return err
		}
		for _, call := range h.plan(events) {
			switch s := h.statements[call.statement]; {
			case s.each:
				batch.Queue(s.text, call.positions[0], call.replay[0], told)
			case call.mixed():
				batch.Queue(s.mixed, call.positions, call.replay, told)
			default:
				batch.Queue(s.text, call.positions, call.replay[0], told)
			}
		}
		return nil
	})
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

// Check has the server parse every statement, without running any.
func (h *SQL) Check(ctx context.Context, conn *pgx.Conn) error {
	for i, s := range h.statements {
		parsed, err := conn.Prepare(ctx, "", s.text)
		if err != nil {
			return fmt.Errorf("statements[%d]: %w", i, err)
		}
		if n := len(parsed.ParamOIDs); n != 3 {
			return &ParameterError{Statement: i}
		}
	}
	return nil
}

// ParameterError says that a statement has parameters of its own.
type ParameterError struct{ Statement int }

func (e *ParameterError) Error() string {
	return fmt.Sprintf("statements[%d] has a parameter ($4 or higher): read what it needs from the events instead", e.Statement)
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

// plan cuts a batch into rounds. In a round each statement runs once over its events (or once for each of them), in the
// order in which they are declared; a new round begins with an event that would have to run an earlier statement than one
// that an event of its sequence before it has run. So within a sequence, statements never run out of the order of the events.
// The hash stands for the sequence key: two keys of one hash cost a round more at most.
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
