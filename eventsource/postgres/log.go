package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
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

// Log appends events to the event table of one schema. Several goroutines may use it at once.
type Log struct {
	db         DB
	insertions map[insertion]string
	function   string
	versionOf  string
	sharing    sharing
	notifier   notifier
}

// NewLog returns the log that appends to the event table of the schema. db has to be a pool: notifications are sent beside other
// statements. Close the log before the pool, so that the last notification is sent.
func NewLog(db DB, schema string) *Log {
	quoted := pgx.Identifier{schema}.Sanitize()
	return &Log{
		db:         db,
		insertions: insertions(quoted),
		function:   "SELECT " + quoted + ".append($1, $2, $3::jsonb)",
		versionOf:  "SELECT coalesce(max(version), 0) FROM " + quoted + ".event WHERE stream_id = $1",
		notifier:   notifier{db: db, channel: Channel(schema)},
	}
}

// Append adds events to a stream, all or none, and returns the stream's new version. Readers are notified after the
// commit. A *ConflictError says that the stream had another version than expected; it took no position, unless
// another transaction appended at the same moment.
//
// With Any there is no conflict, but for writers that insert into the table themselves. Appends that are made at the same time may share a
// transaction; what one of them meets is not felt by the others. When the context ends first, it is not known whether the events
// were appended.
func (l *Log) Append(ctx context.Context, stream string, expected Version, events ...NewEvent) (Version, error) {
	all, err := check(stream, expected, events)
	if err != nil {
		return 0, err
	}
	return l.appendShared(ctx, stream, expected, all)
}

// appendAlone appends in a transaction of its own, and notifies.
func (l *Log) appendAlone(ctx context.Context, stream string, expected Version, events []encoded) (Version, error) {
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
	all, err := check(stream, expected, events)
	if err != nil {
		return 0, err
	}
	return l.append(ctx, tx, false, stream, expected, all)
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

// check returns events as statements take them, or says what is wrong with an append.
func check(stream string, expected Version, events []NewEvent) ([]encoded, error) {
	switch {
	case stream == "":
		return nil, errors.New("appending events: the stream id is empty")
	case expected < 0 && expected != Any:
		return nil, fmt.Errorf("appending to stream %q: the expected version %d is below 0: choose Any, NoStream or Exactly(n)", stream, int64(expected))
	}
	all, err := encode(events)
	if err != nil {
		return nil, fmt.Errorf("appending to stream %q: %w", stream, err)
	}
	return all, nil
}

// append appends by one statement. Where that makes no row or loses against another transaction, the function says what is wrong, or waits
// for its turn. Alone is an append whose transaction is its own, so that a failure ends no other's.
func (l *Log) append(ctx context.Context, db DB, alone bool, stream string, expected Version, events []encoded) (version Version, err error) {
	if alone || len(events) == 1 {
		version, err = l.insert(ctx, db, !alone, stream, expected, events)
	}
	if version == 0 && err == nil || alone && taken(err) {
		version, err = l.call(ctx, db, stream, expected, events)
	}
	if err != nil {
		if actual, ok := conflict(err); ok {
			return 0, &ConflictError{Stream: stream, Expected: expected, Actual: actual}
		}
		return 0, fmt.Errorf("appending to stream %q: %w", stream, err)
	}
	return version, nil
}
