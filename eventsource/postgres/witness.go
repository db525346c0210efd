package postgres

import (
	"cmp"
	"context"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
)

// witness is an event that was in a database, as far as has to be known to find it again. The zero
// value is none.
//
// A coverage never goes beyond the position of its witness. Positions are given out again only if a
// database is set back to a time before they were: then the event is gone that was there, or another
// one has its position.
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

// digestOf is what a witness keeps of an event, and digest is the same as an expression of the row e.
func digestOf(stream, kind, micros string) uint64 {
	sum := md5.Sum([]byte(strings.Join([]string{strconv.Itoa(len(stream)), stream, kind, micros}, "|")))
	return binary.BigEndian.Uint64(sum[:8])
}

func (m mapping) digest() string {
	micros := "'" + noTime + "'"
	if m.timed {
		micros = "CASE WHEN isfinite(" + m.time + ") THEN (extract(epoch FROM " + m.time + ") * 1000000)::bigint::text ELSE " + micros + " END"
	}
	stream, kind := m.fields[fieldStream].expression, m.fields[fieldType].expression
	return fmt.Sprintf("left(md5(concat_ws('|', octet_length(%s), %[1]s, %s, %s)), 16)", stream, kind, micros)
}

// noTime stands for a time that does not count.
const noTime = "-"

// newest is an expression for the newest event that the statement's snapshot sees, as a witness;
// empty if there is none.
func (m mapping) newest() string {
	m.separate = false // pages say this themselves
	return m.in("coalesce((SELECT e.{{position}}::bigint || '.' || {{digest}} FROM {{table}} e ORDER BY e.{{position}} DESC LIMIT 1), '')")
}

// newestOf is the readable event with the highest position as a witness.
func (m mapping) newestOf(events []*eventsource.Event) (w witness) {
	var newest *eventsource.Event
	for _, e := range events {
		if e.Unreadable == nil && (newest == nil || e.Position > newest.Position) {
			newest = e
		}
	}
	if newest == nil {
		return w
	}
	micros := noTime
	if m.timed && !newest.RecordedAt.Equal(eventsource.EndOfTime) && !newest.RecordedAt.Equal(eventsource.BeginningOfTime) {
		micros = strconv.FormatInt(newest.RecordedAt.UnixMicro(), 10)
	}
	return witness{newest.Position, digestOf(newest.StreamID, newest.Type, micros)}
}

// witnessesStatement gives the events at some positions, and after them the oldest event, the origin
// and the highest position of events that were deleted.
const witnessesStatement = `SELECT e.{{position}}::bigint, {{digest}}, NULL::text, NULL::bigint FROM {{table}} e WHERE e.{{position}} = ANY ($1::bigint[])
UNION ALL SELECT (SELECT e.{{position}}::bigint FROM {{table}} e ORDER BY e.{{position}} LIMIT 1), NULL, {{origin}}, ({{deleted}})`

// newestNow is the newest event; none if there is none.
func (s *Source) newestNow(ctx context.Context) (w witness, err error) {
	var text string
	if err := s.steadily(ctx, func(k *known) error { return s.queryRow(ctx, k.newest, nil, &text) }); err != nil {
		return w, fmt.Errorf("looking for the newest event: %w", err)
	}
	if text == "" {
		return w, nil
	}
	return parseWitness(text)
}

// findWitnesses looks for the witnesses of coverages, and returns where it has looked.
func (s *Separate) findWitnesses(ctx context.Context, from []*separateCoverage) (at origin, err error) {
	missing := map[witness]bool{}
	var positions []int64
	for _, c := range from {
		if c.witness != (witness{}) && !missing[c.witness] {
			missing[c.witness] = true
			positions = append(positions, c.witness.position)
		}
	}
	var oldest, deleted *int64
	others := map[int64]bool{} // positions at which there is another event
	err = s.steadily(ctx, func(k *known) error {
		return s.query(ctx, refuseHiding, k.witnesses, []any{positions}, func(rows pgx.Rows) error {
			for rows.Next() {
				var position, passed *int64
				var digest, text *string
				if err := rows.Scan(&position, &digest, &text, &passed); err != nil {
					return err
				}
				if digest == nil {
					oldest, deleted = position, passed
					if text == nil {
						return ErrStandby
					}
					if at, err = parseOrigin(*text); err != nil {
						return err
					}
					continue
				}
				found, err := parseWitness(fmt.Sprint(*position, ".", *digest))
				if err != nil {
					return err
				}
				others[found.position] = true
				delete(missing, found)
			}
			return lost(rows.Err())
		})
	})
	if err != nil {
		return at, err
	}
	for _, c := range from {
		if c.database != "" && c.database != at.database {
			return at, replaced(at.database, c.database)
		}
	}
	for _, w := range slices.SortedFunc(maps.Keys(missing), func(a, b witness) int { return cmp.Compare(a.position, b.position) }) {
		switch {
		case others[w.position]:
			return at, lostEvents(w.position, "there is another event")
		case deleted != nil && *deleted >= w.position, oldest == nil || *oldest > w.position: // it was deleted, or all up to there were
		default:
			return at, lostEvents(w.position, "there is none")
		}
	}
	return at, nil
}

// lostEvents says that events are gone that were read.
func lostEvents(position int64, instead string) error {
	return &eventsource.ChangedError{Problem: fmt.Sprintf("when a group read last, there was an event at position %d, and %s now. The database of spec.source was restored from a backup, "+
		"or a failover has lost its latest transactions, or events before others were deleted. New events may have the positions of lost ones, and would be skipped. "+
		"Declare a group with another name, which handles all events that are there", position, instead)}
}
