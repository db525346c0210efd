package postgres

import (
	"context"
	"encoding/json"
	"errors"
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
	metadata bool // not {}; several events always have some
	shared   bool // in a transaction of the caller's, which a failure would end
}

// expectation is what decides a statement's condition.
type expectation string

const (
	anyVersion  expectation = "any"
	noStream    expectation = "no stream"
	someVersion expectation = "some version"
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
		all[insertion{expected: expected, several: true, metadata: true}] = ""
		for _, metadata := range []bool{false, true} {
			all[insertion{expected: expected, metadata: metadata}] = ""
			all[insertion{expected: expected, metadata: metadata, shared: true}] = ""
		}
	}
	for i := range all {
		all[i] = strings.ReplaceAll(i.sql(), "{{schema}}", schema)
	}
	return all
}

// last is the stream's last version. Not by EXISTS or max: for EXISTS the planner may read the whole table where it believes it full of the
// stream's events, and max costs more.
const last = "(SELECT version FROM {{schema}}.event WHERE stream_id = $1 ORDER BY version DESC LIMIT 1)"

// sql is the statement. Its first parameters are the stream, then ids, types, data and metadata, and at last the version for someVersion.
func (i insertion) sql() string {
	columns, values, want, nth := "stream_id, version, id, type, data", "$2::uuid, $3::text, $4::jsonb", "$5::bigint", "1"
	if i.metadata {
		columns, values, want = columns+", metadata", values+", $5::jsonb", "$6::bigint"
	}
	var from []string
	if i.several {
		values, nth = "e.id, e.type, e.data, e.metadata", "e.n"
		from = []string{"unnest($2::uuid[], $3::text[], $4::jsonb[], $5::jsonb[]) WITH ORDINALITY AS e (id, type, data, metadata, n)"}
	}
	var version, where string
	switch i.expected {
	case anyVersion:
		version = "coalesce(" + last + ", 0) + " + nth
	case noStream:
		version, where = nth, " WHERE "+last+" IS NULL"
	default:
		version, where = "s.version + "+nth, " WHERE s.version = "+want
		from = append(from, last+" AS s")
	}
	sql := "INSERT INTO {{schema}}.event (" + columns + ") SELECT $1, " + version + ", " + values
	if len(from) > 0 {
		sql += " FROM " + strings.Join(from, ", ")
	}
	sql += where
	if i.several {
		sql += " ORDER BY e.n"
	}
	if i.shared { // makes no row, instead of failing, where another transaction has just taken the version; costs one more look at the index
		sql += " ON CONFLICT (stream_id, version) DO NOTHING"
	}
	if i.expected == anyVersion {
		sql += " RETURNING version"
	}
	return sql
}

// insert appends by one statement, and returns no version and no error where that has made no row. Several events in a transaction of the
// caller's need more than one: of those whose versions others have just taken it is to make all or none.
func (l *Log) insert(ctx context.Context, db DB, shared bool, stream string, expected Version, events []encoded) (Version, error) {
	i := insertion{expected: expectationOf(expected), shared: shared, several: len(events) > 1}
	args := make([]any, 1, 6)
	args[0] = stream
	if i.several {
		i.metadata = true
		args = append(args, arrays(events)...)
	} else {
		e := &events[0]
		args = append(args, e.ID, e.Type, orEmpty(e.Data))
		if i.metadata = e.Metadata != nil; i.metadata {
			args = append(args, orEmpty(e.Metadata))
		}
	}
	if i.expected == anyVersion {
		var first Version
		err := db.QueryRow(ctx, l.insertions[i], args...).Scan(&first)
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, nil
		}
		return first + Version(len(events)) - 1, err
	}
	if i.expected == someVersion {
		args = append(args, int64(expected))
	}
	tag, err := db.Exec(ctx, l.insertions[i], args...)
	if err != nil || tag.RowsAffected() == 0 {
		return 0, err
	}
	return expected + Version(len(events)), nil
}

// arrays are several events as parameters.
func arrays(events []encoded) []any {
	n := len(events)
	ids, types, data, metadata := make([]pgtype.UUID, n), make([]string, n), make([]string, n), make([]string, n)
	for i, e := range events {
		ids[i], types[i], data[i], metadata[i] = e.ID, e.Type, orEmpty(e.Data), orEmpty(e.Metadata)
	}
	return []any{ids, types, data, metadata}
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
