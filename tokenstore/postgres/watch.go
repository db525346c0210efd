package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/sluice-project/sluice/tokenstore"
)

// PeerWatch is a connection of its own that waits for the end of another worker's session: it
// queues behind that one's session lock, and is served when the server lets go of it.
//
// Nothing is left behind, whatever becomes of the watcher: the lock that it gets belongs to a
// transaction that ends in the server at once, whether or not the watcher's process still runs. It
// is a shared one, which does not count as a sign of life, and the watchers of one session do not
// wait for each other.
type PeerWatch struct {
	conn      *pgx.Conn
	schema    string
	processor string
}

var _ tokenstore.PeerWatch = (*PeerWatch)(nil)

const (
	// watchSlice is how long one transaction waits. A statement that waits keeps its snapshot, and with it all row versions that
	// became obsolete meanwhile; the token's row gets new ones with every batch.
	watchSlice = 50 * time.Millisecond
	// watchFor is how long one statement goes on waiting, slice by slice.
	watchFor = time.Second
)

// OpenPeerWatch connects. The end of a session is announced on the schema's channel, with the
// processor's name.
func OpenPeerWatch(ctx context.Context, o Options, schema, processor string) (*PeerWatch, error) {
	conn, err := connect(ctx, o, func(config *pgx.ConnConfig) {
		// Whoever no longer wants to wait ends the statement, not the connection. The statement
		// ends by itself within watchFor, also if a busy server is late to cancel it.
		config.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 3 * watchFor}
		}
	})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", watchSlice.Milliseconds())); err != nil {
		conn.Close(ctx)
		return nil, fmt.Errorf("preparing to watch a session: %w", err)
	}
	return &PeerWatch{conn: conn, schema: schema, processor: processor}, nil
}

// WaitSessionEnd implements tokenstore.PeerWatch. The transaction that gets the lock announces the
// session's end.
func (w *PeerWatch) WaitSessionEnd(ctx context.Context, incarnation int64) (bool, error) {
	// Errors that a block catches are not logged by the server; a statement that fails every second would be.
	_, err := w.conn.Exec(ctx, fmt.Sprintf(`DO $watch$
		DECLARE
		  class integer := coalesce((SELECT coalesce(lock_class, %d) FROM %s.worker WHERE incarnation = %d), %d);
		  until timestamptz := clock_timestamp() + interval '%d ms';
		BEGIN
		  PERFORM set_config('sluice.session_ended', 'false', false);
		  WHILE clock_timestamp() < until LOOP
		    BEGIN
		      PERFORM pg_advisory_xact_lock_shared(class, %d);
		      PERFORM pg_notify(%s, %s);
		      PERFORM set_config('sluice.session_ended', 'true', false);
		      EXIT;
		    EXCEPTION
		      WHEN lock_not_available THEN NULL;
		      WHEN query_canceled THEN EXIT;
		    END;
		    COMMIT; -- and take a new snapshot
		  END LOOP;
		END $watch$`, formerClass, quoted(w.schema), incarnation, sessionClass(w.schema),
		watchFor.Milliseconds(), lockKey(incarnation), literal(Channel(w.schema)), literal(w.processor)))
	switch turnedAway := ctx.Err() != nil && !w.conn.IsClosed(); {
	case turnedAway:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("watching the session of worker %d: %w", incarnation, err)
	}
	var ended bool
	if err := w.conn.QueryRow(ctx, `SELECT current_setting('sluice.session_ended')::bool`).Scan(&ended); err != nil && ctx.Err() == nil {
		return false, fmt.Errorf("watching the session of worker %d: %w", incarnation, err)
	}
	return ended, nil
}

// Close ends the connection.
func (w *PeerWatch) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return w.conn.Close(ctx)
}

// literal quotes a text for where parameters cannot be.
func literal(text string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, `$`, `\x24`).Replace(text) + "'"
}
