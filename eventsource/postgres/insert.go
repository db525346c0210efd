package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// insertion is a statement that appends: it looks which version the stream has, and makes rows where that is as expected. It takes no
// position where it makes none. It does what the function append does, for little more than a plain INSERT: a function in PL/pgSQL takes
// JSON apart and runs several statements. Each part that is not needed is left out, because each costs.
type insertion struct {
	expected expectation
	several  bool // events come as arrays
	metadata bool // some is not {}
	shared   bool // in a transaction of the caller's, which a failure would end
}

// expectation is what decides a statement's condition.
type expectation uint8

const (
	anyVersion expectation = iota
	noStream
	someVersion
)

func expectationOf(v Version) expectation {
	switch v {
	case Any:
		return anyVersion
	case NoStream:
		return noStream
	default:
		return someVersion
	}
}

// insertions are all statements, for a schema's quoted name.
func insertions(schema string) map[insertion]string {
	all := map[insertion]string{}
	for _, expected := range []expectation{anyVersion, noStream, someVersion} {
		for _, metadata := range []bool{false, true} {
			for _, i := range []insertion{{}, {several: true}, {shared: true}} {
				i.expected, i.metadata = expected, metadata
				all[i] = strings.ReplaceAll(i.sql(), "{{schema}}", schema)
			}
		}
	}
	return all
}

// last is the stream's last version. Not by EXISTS or max: for EXISTS the planner may read the whole table where it believes it full of the
// stream's events, and max costs more.
const last = "(SELECT version FROM {{schema}}.event WHERE stream_id = $1 ORDER BY version DESC LIMIT 1)"

// sql is the statement. Its parameters are the stream, id, type and data, metadata where there is some, and the version for someVersion;
// several events come as arrays. Nothing sorts these: their scan, which nothing is joined to, gives them in their order.
func (i insertion) sql() string {
	columns, values, arrays, want := "id, type, data", "$2::uuid, $3::text, $4::jsonb", "$2::uuid[], $3::text[], $4::jsonb[]", "$5::bigint"
	if i.metadata {
		columns, values, arrays, want = columns+", metadata", values+", $5::jsonb", arrays+", $5::jsonb[]", "$6::bigint"
	}
	nth, from := "1", ""
	if i.several {
		nth, values, from = "n", columns, " FROM unnest("+arrays+") WITH ORDINALITY AS e ("+columns+", n)"
	}
	var version, where string
	switch {
	case i.expected == anyVersion:
		version = "coalesce(" + last + ", 0) + " + nth
	case i.expected == noStream:
		version, where = nth, " WHERE "+last+" IS NULL"
	case i.several:
		version, where = want+" + n", " WHERE "+last+" = "+want
	default: // a little cheaper than the same as for several
		version, from, where = "s.version + 1", " FROM "+last+" AS s", " WHERE s.version = "+want
	}
	sql := "INSERT INTO {{schema}}.event (stream_id, version, " + columns + ") SELECT $1, " + version + ", " + values + from + where
	if i.shared { // makes no row, instead of failing, where another transaction has just taken the version; costs one more look at the index
		sql += " ON CONFLICT (stream_id, version) DO NOTHING"
	}
	if i.expected == anyVersion {
		sql += " RETURNING version"
	}
	return sql
}

// insertion returns the statement that appends, and its arguments. Shared makes no row, instead of failing, where another transaction has just taken
// the version: of several events, which are to be made all or none, it is not.
func (l *Log) insertion(shared bool, stream string, expected Version, events []encoded) (sql string, args []any) {
	i := insertion{
		expected: expectationOf(expected), several: len(events) > 1, shared: shared,
		metadata: slices.ContainsFunc(events, func(e encoded) bool { return e.Metadata != nil }),
	}
	args = make([]any, 1, 6)
	args[0] = stream
	if i.several {
		args = appendArrays(args, events, i.metadata)
	} else {
		e := &events[0]
		args = append(args, e.ID, e.Type, orEmpty(e.Data))
		if i.metadata {
			args = append(args, string(e.Metadata))
		}
	}
	if i.expected == someVersion {
		args = append(args, int64(expected))
	}
	return l.insertions[i], args
}

// insert appends by one statement, and returns no version and no error where that has made no row.
func (l *Log) insert(ctx context.Context, db DB, shared bool, stream string, expected Version, events []encoded) (Version, error) {
	sql, args := l.insertion(shared, stream, expected, events)
	if expected == Any {
		var first Version
		err := db.QueryRow(ctx, sql, args...).Scan(&first)
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, nil
		}
		return first + Version(len(events)) - 1, err
	}
	tag, err := db.Exec(ctx, sql, args...)
	if err != nil || tag.RowsAffected() == 0 {
		return 0, err
	}
	return expected + Version(len(events)), nil
}

// appendArrays adds several events' parameters.
func appendArrays(args []any, events []encoded, withMetadata bool) []any {
	ids, types, data, metadata := make([]pgtype.UUID, len(events)), make([]string, len(events)), make([]string, len(events)), make([]string, len(events))
	for i, e := range events {
		ids[i], types[i], data[i], metadata[i] = e.ID, e.Type, orEmpty(e.Data), orEmpty(e.Metadata)
	}
	args = append(args, ids, types, data)
	if withMetadata {
		args = append(args, metadata)
	}
	return args
}

// call appends by the database's function. It says what is wrong, or waits for its turn.
func (l *Log) call(ctx context.Context, db DB, stream string, expected Version, events []encoded) (version Version, err error) {
	document, err := json.Marshal(events)
	if err != nil {
		return 0, err
	}
	var want *int64
	if expected != Any {
		want = (*int64)(&expected)
	}
	err = db.QueryRow(ctx, l.function, stream, want, string(document)).Scan(&version)
	return version, err
}
