package handler

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
)

// Events says how statements get their events. The columns and their types are the same both ways,
// so a statement works with both.
type Events struct {
	// ByValue passes events as parameters, because they are not in the store's database. Otherwise
	// statements look events up by their positions, with Join and At.
	ByValue bool
	// Join finds the event e for each row r by its position.
	Join string
	// At is the table e of the events at the positions in $1, an array in ascending order.
	At string
	// Table is the mapping of the user's own table that events are read from; nil for Sluice's.
	Table *definition.Table
}

// ByValue reports whether statements get the events of a source by value: the store's database does
// not have them.
func ByValue(events definition.Source) bool { return events.Postgres != nil }

// What statements find their events by: the positions of a batch's events with, for each, whether
// it is handled again; or one of each. A single event is passed as scalars, not as a one-element
// array: with an array parameter PostgreSQL plans the statement again for every execution, which
// takes longer than running it. The events of a larger batch are not looked up one by one by a join
// if all of them, or none, are handled again: the table's index finds the positions of an array in
// half of the time.
const (
	fromArrays  = `unnest($1::bigint[], $2::boolean[]) WITH ORDINALITY AS r (position, replay, ordinal) `
	fromScalars = `(SELECT $1::bigint AS position, $2::boolean AS replay, 1::bigint AS ordinal) AS r `
	fromNothing = `(SELECT NULL::bigint AS position, false AS replay, NULL::bigint AS ordinal) AS r `

	replayContext = `$3::jsonb`
	noContext     = `'{}'::jsonb`
)

// The table e of events by value. Nothing is looked up, so one text does for all batches of several
// events. A single event is passed as scalars for the reason above, which holds for statements that
// look their rows up.
//
// Data and metadata are texts, and a column that the statement does not read is not parsed. OFFSET
// 0 has a column parsed once for each event, however often the statement reads it. So an event that
// jsonb cannot hold fails the statements that read it, as it does if they look it up in a table of
// texts.
//
// The server returns the elements of the arrays one after the other and in their order. In FROM,
// unnest would first collect them, in a temporary file if they are larger than work_mem.
const (
	oneByValue = `(SELECT $1::bigint AS position, $4::text AS stream_id, $5::text AS type, $6::text::jsonb AS data, $7::text::jsonb AS metadata,
  $8::timestamptz AS recorded_at, $2::boolean AS replay, 1::bigint AS ordinal OFFSET 0) AS e`
	manyByValue = `(SELECT r.position, r.stream_id, r.type, r.data::jsonb AS data, r.metadata::jsonb AS metadata, r.recorded_at, r.replay, r.ordinal
  FROM (SELECT unnest($1::bigint[]) AS position, unnest($2::boolean[]) AS replay, unnest($4::text[]) AS stream_id, unnest($5::text[]) AS type,
    unnest($6::text[]) AS data, unnest($7::text[]) AS metadata, unnest($8::timestamptz[]) AS recorded_at, unnest($9::bigint[]) AS ordinal) AS r OFFSET 0) AS e`
	nothingByValue = `(SELECT NULL::bigint AS position, NULL::text AS stream_id, NULL::text AS type, NULL::jsonb AS data, NULL::jsonb AS metadata,
  NULL::timestamptz AS recorded_at, false AS replay, NULL::bigint AS ordinal) AS e`
)

// withEvents puts the events, as a common table expression of that name, before a user's statement.
func withEvents(name, text, replay, context, ordinal, from string) string {
	cte := fmt.Sprintf(`%s AS (SELECT e.position, e.stream_id, e.type, e.data, e.metadata, e.recorded_at, %s AS replay,
  CASE WHEN %[2]s THEN %[3]s END AS replay_context, %[4]s AS ordinal
  FROM %[5]s)
`, name, replay, context, ordinal, from)
	before, with, rest := splitWith(trimmed(text))
	if with == "" {
		return before + "WITH " + cte + rest
	}
	return before + with + " " + cte + ", " + rest
}

// over returns what runs the statement over events: a text and its parameters. told is the context
// of the replay.
func (s *statement) over(events []*Event, told string) (text string, args []any) {
	first, one := events[0], s.each || len(events) == 1
	switch {
	case s.byValue && one:
		return s.alone, []any{first.Position, first.Replay != nil, told,
			first.StreamID, first.Type, payload(first.Data), payload(first.Metadata), recordedAt(first.RecordedAt)}
	case s.byValue:
		return s.text, valuesOf(events, told)
	case one:
		return s.alone, []any{first.Position, first.Replay != nil, told}
	case mixed(events):
		return s.mixed, []any{positionsOf(events), replaysOf(events), told}
	default:
		return s.text, []any{positionsOf(events), first.Replay != nil, told}
	}
}

// mixed reports whether some of the events are handled again and some are not, or they are not in
// the order of their positions.
func mixed(events []*Event) bool {
	again := events[0].Replay != nil
	return slices.ContainsFunc(events, func(e *Event) bool { return (e.Replay != nil) != again }) ||
		!slices.IsSortedFunc(events, func(a, b *Event) int { return cmp.Compare(a.Position, b.Position) })
}

func positionsOf(events []*Event) []int64 {
	positions := make([]int64, len(events))
	for i, e := range events {
		positions[i] = e.Position
	}
	return positions
}

func replaysOf(events []*Event) []bool {
	replays := make([]bool, len(events))
	for i, e := range events {
		replays[i] = e.Replay != nil
	}
	return replays
}

// valuesOf are the parameters of manyByValue.
func valuesOf(events []*Event, told string) []any {
	n := len(events)
	streams, types := make([]string, n), make([]string, n)
	data, metadata := make(pgtype.FlatArray[[]byte], n), make(pgtype.FlatArray[[]byte], n)
	times, ordinals := make(pgtype.FlatArray[pgtype.Timestamptz], n), make([]int64, n)
	for i, e := range events {
		streams[i], types[i] = e.StreamID, e.Type
		data[i], metadata[i] = payload(e.Data), payload(e.Metadata)
		times[i], ordinals[i] = recordedAt(e.RecordedAt), int64(i+1)
	}
	return []any{positionsOf(events), replaysOf(events), told, streams, types, data, metadata, times, ordinals}
}

// payload is NULL if there is none: no JSON is empty.
func payload(text json.RawMessage) []byte {
	if len(text) == 0 {
		return nil
	}
	return text
}

// recordedAt is a time as the source's database has it.
func recordedAt(t time.Time) pgtype.Timestamptz {
	switch {
	case t.Equal(eventsource.EndOfTime):
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	case t.Equal(eventsource.BeginningOfTime):
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
}

// complete reports an event whose data were not read, if statements get them from it. Every event
// that was read with its data has some.
func (from Events) complete(events []*Event) error {
	if !from.ByValue {
		return nil
	}
	for _, e := range events {
		if len(e.Data) == 0 {
			return fmt.Errorf("the event at position %d was read without its data, and SQL statements get events by value", e.Position)
		}
	}
	return nil
}
