package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Version of a stream: how many events it has, 0 for none. As an expectation it can also be Any.
type Version int64

const (
	// NoStream expects a stream without events.
	NoStream Version = 0
	// Any expects nothing.
	Any Version = math.MinInt64
)

// Exactly expects a stream with n events.
func Exactly(n int64) Version { return Version(n) }

func (v Version) String() string {
	switch v {
	case Any:
		return "any"
	case NoStream:
		return "no stream"
	default:
		return fmt.Sprintf("version %d", int64(v))
	}
}

// NewEvent is an event to be appended.
type NewEvent struct {
	Type     string // not empty
	Data     any    // becomes JSON as json.Marshal makes it; {} for nil. Ready JSON is a json.RawMessage
	Metadata any    // the same
	ID       string // a uuid; a random one where empty
}

// ErrConflict is wrapped by every *ConflictError.
var ErrConflict = errors.New("the stream has another version than expected")

// ConflictError says that a stream had another version than an append expected. Nothing was appended.
type ConflictError struct {
	Stream   string
	Expected Version
	Actual   Version // Unknown where a transaction that has failed could not be asked
}

// Unknown is the actual version in a ConflictError where it is not known.
const Unknown Version = -1

func (e *ConflictError) Error() string {
	if e.Actual == Unknown {
		return fmt.Sprintf("stream %q was appended to by another transaction (expected: %s): read it again and decide anew", e.Stream, e.Expected)
	}
	return fmt.Sprintf("stream %q is at version %d (expected: %s): read it again and decide anew", e.Stream, int64(e.Actual), e.Expected)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// Log appends events to the event table of one schema. Several goroutines may use it at once.
type Log struct {
	db        DB
	appendOne string // in a transaction of its own
	appendTx  string // the same in a caller's
	appendSQL string // any number, by the function
	versionOf string
	notifier  notifier
}

// appendOne adds one event and returns its version, or no row where the stream has another version than expected. Its condition is checked
// before a row is made, so that a conflict takes no position. It does what the function append does for one event, for little more than
// a plain INSERT: a function in PL/pgSQL runs several statements.
const appendOne = `
INSERT INTO {{schema}}.event (stream_id, version, id, type, data, metadata)
SELECT $1, s.version + 1, coalesce($3::uuid, gen_random_uuid()), $4, $5::jsonb, $6::jsonb
  FROM (SELECT coalesce(max(version), 0) AS version FROM {{schema}}.event WHERE stream_id = $1) AS s
 WHERE $2::bigint IS NULL OR s.version = $2
%sRETURNING version`

// unlessTaken has appendOne make no row, instead of failing, where another transaction has just taken the version. It costs a look at the
// index for each event, so that it is asked for only where a failure would end a caller's transaction.
const unlessTaken = "ON CONFLICT (stream_id, version) DO NOTHING\n"

// NewLog returns the log that appends to the event table of the schema. db has to be a pool: notifications are sent beside other
// statements. Close the log before the pool, so that the last notification is sent.
func NewLog(db DB, schema string) *Log {
	quoted := pgx.Identifier{schema}.Sanitize()
	return &Log{
		db:        db,
		appendOne: strings.ReplaceAll(fmt.Sprintf(appendOne, ""), "{{schema}}", quoted),
		appendTx:  strings.ReplaceAll(fmt.Sprintf(appendOne, unlessTaken), "{{schema}}", quoted),
		appendSQL: "SELECT " + quoted + ".append($1, $2, $3::jsonb)",
		versionOf: "SELECT coalesce(max(version), 0) FROM " + quoted + ".event WHERE stream_id = $1",
		notifier:  notifier{db: db, channel: Channel(schema)},
	}
}

// Append adds events to a stream, all or none, in a transaction of its own, and returns the stream's new version. Readers are notified after the
// commit. A *ConflictError says that the stream had another version than expected; it took no position, unless
// another transaction appended at the same moment.
//
// With Any there is no conflict, but for writers that insert into the table themselves.
func (l *Log) Append(ctx context.Context, stream string, expected Version, events ...NewEvent) (Version, error) {
	version, err := l.append(ctx, l.db, true, stream, expected, events)
	if conflict, ok := errors.AsType[*ConflictError](err); ok && conflict.Actual == Unknown {
		if failed := l.db.QueryRow(ctx, l.versionOf, stream).Scan(&conflict.Actual); failed != nil {
			return 0, errors.Join(err, failed)
		}
	}
	if err != nil {
		return 0, err
	}
	l.notifier.notify()
	return version, nil
}

// AppendTx is Append within the caller's transaction. After an error the transaction can only be rolled back, or back to a savepoint. It does
// not notify, as within a transaction that would serialise all commits of the server: readers find the events when they look next,
// or at once after a [Log.Notify] that follows the commit.
func (l *Log) AppendTx(ctx context.Context, tx pgx.Tx, stream string, expected Version, events ...NewEvent) (Version, error) {
	return l.append(ctx, tx, false, stream, expected, events)
}

// Notify wakes readers up. Not before the commit: they would find nothing.
func (l *Log) Notify() { l.notifier.notify() }

// Close sends the notification that is due, if any. Appending afterwards still works, and notifies nobody. The error is that of the last
// notification; the events themselves are safe.
func (l *Log) Close() error {
	if err := l.notifier.close(); err != nil {
		return fmt.Errorf("notifying readers of events: %w", err)
	}
	return nil
}

func (l *Log) append(ctx context.Context, db querier, alone bool, stream string, expected Version, events []NewEvent) (Version, error) {
	var want *int64
	switch {
	case stream == "":
		return 0, errors.New("appending events: the stream id is empty")
	case expected < 0 && expected != Any:
		return 0, fmt.Errorf("appending to stream %q: the expected version %d is below 0: choose Any, NoStream or Exactly(n)", stream, int64(expected))
	case expected != Any:
		want = (*int64)(&expected)
	}
	all, err := encode(events)
	if err != nil {
		return 0, fmt.Errorf("appending to stream %q: %w", stream, err)
	}
	version, err := l.insert(ctx, db, alone, stream, want, all)
	if err != nil {
		if actual, ok := conflict(err); ok {
			return 0, &ConflictError{Stream: stream, Expected: expected, Actual: actual}
		}
		return 0, fmt.Errorf("appending to stream %q: %w", stream, err)
	}
	return version, nil
}

// insert tries the short way for one event first. Where that makes no row, the function says what is wrong, or waits for its turn. Alone is an
// append whose transaction is its own, so that a failure ends no other's.
func (l *Log) insert(ctx context.Context, db querier, alone bool, stream string, want *int64, events []encoded) (version Version, err error) {
	if len(events) == 1 {
		e, one := events[0], l.appendTx
		if alone {
			one = l.appendOne
		}
		err = db.QueryRow(ctx, one, stream, want, e.ID, e.Type, orEmpty(e.Data), orEmpty(e.Metadata)).Scan(&version)
		again := errors.Is(err, pgx.ErrNoRows) || alone && taken(err)
		if !again {
			return version, err
		}
	}
	document, err := json.Marshal(events)
	if err != nil {
		return 0, err
	}
	err = db.QueryRow(ctx, l.appendSQL, stream, want, string(document)).Scan(&version)
	return version, err
}

// encoded is an event as the database's function takes it.
type encoded struct {
	Type     string          `json:"type"`
	Data     json.RawMessage `json:"data,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	ID       *string         `json:"id,omitempty"`
}

// orEmpty is a document, or {} for none.
func orEmpty(document json.RawMessage) string {
	if len(document) == 0 || string(document) == "null" {
		return "{}"
	}
	return string(document)
}

func encode(events []NewEvent) ([]encoded, error) {
	if len(events) == 0 {
		return nil, errors.New("there are no events to append")
	}
	all := make([]encoded, len(events))
	for i, e := range events {
		if e.Type == "" {
			return nil, fmt.Errorf("event %d of %d: Type is empty", i+1, len(events))
		}
		all[i].Type = e.Type
		if e.ID != "" {
			if err := new(pgtype.UUID).Scan(e.ID); err != nil {
				return nil, fmt.Errorf("event %d of %d: ID %q is not a uuid", i+1, len(events), e.ID)
			}
			all[i].ID = &e.ID
		}
		var err error
		if all[i].Data, err = document(e.Data); err != nil {
			return nil, err
		}
		if all[i].Metadata, err = document(e.Metadata); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// document makes JSON of what a caller gives as data or metadata; nothing of nil.
func document(value any) (json.RawMessage, error) {
	if value == nil {
		return nil, nil
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("data and metadata have to become JSON: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// conflict tells whether an error says that the stream has another version, and which, if it says that too.
func conflict(err error) (actual Version, ok bool) {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return 0, false
	}
	switch {
	case pg.Code == "SL002":
		var detail struct{ Actual Version }
		if json.Unmarshal([]byte(pg.Detail), &detail) != nil {
			return Unknown, true
		}
		return detail.Actual, true
	case taken(err):
		return Unknown, true
	}
	return 0, false
}

// taken tells whether an error says that the version is another event's.
func taken(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "23505" && pg.ConstraintName == "event_stream_id_version_key"
}
