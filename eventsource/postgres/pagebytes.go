package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// defaultPageBytes is the size at which a page ends where none is given.
const defaultPageBytes = 4 << 20

// WithPageBytes returns the source with another limit of the size of pages, 4 MiB by default, at least 1: a page ends with the event
// that reaches it. So it holds at most that and one event, and at least one event.
//
// The server is not told: to have it add up the sizes would cost more than it saves. Whoever reads events of such a size is to ask for as
// few of them as make a page; what comes nevertheless is thrown away.
func (s *Source) WithPageBytes(n int64) *Source {
	limited := *s
	limited.pageBytes = n
	return &limited
}

// excess is what the server sends of a page that has ended: rows beyond the limit of events, of which there may be as many again, and
// those beyond the limit of bytes. They are thrown away; where they are many, the statement is cancelled. That costs a connection for a
// moment, and a line in the server's log, and is better than to have two thousand documents of a megabyte each printed that nobody
// wants; it happens only where events are of another size than those before them.
type excess struct {
	limit     int64
	bytes     int64
	cancelled bool
}

// add throws a row away.
func (e *excess) add(ctx context.Context, rows pgx.Rows) {
	for _, value := range rows.RawValues() {
		e.bytes += int64(len(value))
	}
	if e.bytes > e.limit && !e.cancelled {
		e.cancelled = true
		// When it returns, the server's process has been told: no later statement can be meant. Where it fails, all rows come.
		_ = rows.Conn().PgConn().CancelRequest(ctx)
	}
}

// ended reports whether an error only says that the statement was cancelled, as it was asked for. With any other one the connection
// may be lost.
func (e *excess) ended(err error) bool {
	var told *pgconn.PgError
	return e.cancelled && errors.As(err, &told) && told.Code == pgerrcode.QueryCanceled
}
