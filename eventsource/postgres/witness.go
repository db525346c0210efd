package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
)

// witness is an event that was in a database, as far as has to be known to find it again: one of
// the newest that a token has had. If a database is restored from a backup, or a failover loses its
// latest transactions, its newest events are the ones that are gone. The zero value is none.
type witness struct {
	position int64
	digest   uint64 // of its stream, its type and its time
}

// String is the position and the digest, "12.00000000000000ff".
func (w witness) String() string { return fmt.Sprintf("%d.%016x", w.position, w.digest) }

func parseWitness(text string) (w witness, err error) {
	position, digest, _ := strings.Cut(text, ".")
	if w.position, err = strconv.ParseInt(position, 10, 64); err != nil || w.position <= 0 {
		return w, fmt.Errorf("the witness %q has no position", text)
	}
	if w.digest, err = strconv.ParseUint(digest, 16, 64); err != nil {
		return w, fmt.Errorf("the witness %q has no digest", text)
	}
	return w, nil
}

// noTime stands for a time that does not count.
const noTime = math.MinInt64

// witnessOf is an event as a witness. micros is its time.
func witnessOf(position int64, stream, kind string, micros int64) witness {
	h := fnv.New64a()
	for _, text := range []string{stream, kind} {
		h.Write(binary.AppendUvarint(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(micros)))
	return witness{position, h.Sum64()}
}

// newestOf is the readable event with the highest position as a witness.
func newestOf(events []*eventsource.Event, timed bool) (w witness) {
	var newest *eventsource.Event
	for _, e := range events {
		if e.Unreadable == nil && (newest == nil || e.Position > newest.Position) {
			newest = e
		}
	}
	if newest == nil {
		return w
	}
	micros := int64(noTime)
	if timed && !newest.RecordedAt.Equal(eventsource.EndOfTime) && !newest.RecordedAt.Equal(eventsource.BeginningOfTime) {
		micros = newest.RecordedAt.UnixMicro()
	}
	return witnessOf(newest.Position, newest.StreamID, newest.Type, micros)
}

// timed reports whether the time of an event is the same for whoever reads it. That of a column
// without a time zone depends on the settings of the role.
func (s *Source) timed() bool {
	if s.events.table == nil {
		return true
	}
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	return s.watch.known != nil && s.watch.known.facts.columns[s.events.table.Columns.RecordedAt].kind == "timestamptz"
}

// witnessesStatement gives the events at some positions, and the oldest event. newestStatement gives
// the newest up to a position.
const (
	witnessesStatement = `SELECT e.{{position}}::bigint, {{stream}}, {{type}}, {{micros}} FROM {{table}} e WHERE e.{{position}} = ANY ($1::bigint[])
UNION ALL (SELECT e.{{position}}::bigint, NULL, NULL, NULL FROM {{table}} e ORDER BY e.{{position}} LIMIT 1)`
	newestStatement = `SELECT e.{{position}}::bigint, {{stream}}, {{type}}, {{micros}} FROM {{table}} e WHERE e.{{position}} <= $1::bigint ORDER BY e.{{position}} DESC LIMIT 1`
)

func (s *Source) witnessSQL(statement string, timed bool) string {
	micros := "NULL::bigint"
	if timed {
		micros = "CASE WHEN isfinite(" + s.events.time + ") THEN (extract(epoch FROM " + s.events.time + ") * 1000000)::bigint END"
	}
	return s.events.in(strings.NewReplacer("{{stream}}", s.events.fields[fieldStream].expression, "{{type}}", s.events.fields[fieldType].expression, "{{micros}}", micros).Replace(statement))
}

// scanWitness scans a row of these statements; found is false if it is not an event's.
func scanWitness(row pgx.CollectableRow) (w witness, found bool, err error) {
	var stream, kind *string
	var micros *int64
	if err := row.Scan(&w.position, &stream, &kind, &micros); err != nil || stream == nil || kind == nil {
		return w, false, err
	}
	if micros == nil {
		return witnessOf(w.position, *stream, *kind, noTime), true, nil
	}
	return witnessOf(w.position, *stream, *kind, *micros), true, nil
}

// newest is the newest event up to a position; none if there is none that can be read.
func (s *Source) newest(ctx context.Context, upTo int64) (w witness, err error) {
	err = s.steadily(ctx, func(*known) error {
		return s.query(ctx, refuseHiding, s.witnessSQL(newestStatement, s.timed()), []any{upTo}, func(rows pgx.Rows) (err error) {
			w = witness{}
			for rows.Next() {
				if found, is, err := scanWitness(rows); err != nil {
					return err
				} else if is {
					w = found
				}
			}
			return lost(rows.Err())
		})
	})
	if err != nil && notRead(err) {
		return witness{}, nil // the row has what cannot be read, so that it is no witness
	}
	if err != nil {
		return witness{}, fmt.Errorf("looking for the newest event: %w", err)
	}
	return w, nil
}

// findWitnesses looks for the witnesses of coverages that nobody has looked for, on the server that
// a page comes from.
func (s *Separate) findWitnesses(ctx context.Context, from []*separateCoverage, at origin) error {
	missing := map[int64]witness{}
	var positions []int64
	for _, c := range from {
		if c.server == "" && c.witness != (witness{}) && missing[c.witness.position] == (witness{}) {
			missing[c.witness.position] = c.witness
			positions = append(positions, c.witness.position)
		}
	}
	if len(positions) == 0 {
		return nil
	}
	oldest := int64(math.MaxInt64)
	err := s.query(ctx, refuseHiding, s.witnessSQL(witnessesStatement, s.timed()), []any{positions}, func(rows pgx.Rows) error {
		for rows.Next() {
			found, is, err := scanWitness(rows)
			switch {
			case err != nil:
				return err
			case !is:
				oldest = min(oldest, found.position)
			case found != missing[found.position]:
				return lostEvents(found.position, "there is another event")
			default:
				delete(missing, found.position)
			}
		}
		return lost(rows.Err())
	})
	if err != nil {
		return err
	}
	for position := range missing {
		if oldest <= position { // or all up to there were deleted
			return lostEvents(position, "there is none")
		}
	}
	return s.stillAt(ctx, at)
}

// lostEvents says that events are gone that were handled.
func lostEvents(position int64, instead string) error {
	return &eventsource.ChangedError{Problem: fmt.Sprintf("the newest event that a group has handled was at position %d, and %s now. The database of spec.source was restored from a backup, "+
		"or a failover has lost its latest transactions, or events before others were deleted. New events may have the positions of lost ones, and would be skipped. "+
		"Replay the group from a position before that, or from Earliest", position, instead)}
}
