package postgres

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

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

// AppendConflict tells the runtime, which does not know where events are appended, that trying
// again may help.
func (e *ConflictError) AppendConflict() bool { return true }

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
	return ok && pg.Code == pgerrcode.UniqueViolation && pg.ConstraintName == "event_stream_id_version_key"
}
