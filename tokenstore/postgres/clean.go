package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/tokenstore"
)

// Whatever users' statements leave in a session is taken back before the connection goes to the
// pool: settings, the role, advisory locks, LISTEN, cursors and temporary tables. A batch that
// commits is cleaned behind its commit, in the same round trip. What cleaning cannot take back, or
// a cleaning that fails, closes the connection.

// cleaning takes a session back to what it was when it was made. It also says whether events may
// have been added since the session was last at rest, by statistics that the session keeps for
// itself at first: to ask takes no look at a table. They may still have what the transactions of the
// last seconds have added. That is asked behind the commit, in which deferred triggers may add some.
const cleaning = `SELECT {{schema}}.clean_session(), pg_catalog.pg_advisory_unlock_all(),
	COALESCE(pg_catalog.pg_stat_get_xact_tuples_inserted(pg_catalog.to_regclass('{{schema}}.event')) OPERATOR(pg_catalog.>) 0, true)
	OR pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'off'`

// commitWith sends a batch with the commit and the cleaning behind it, and reports whether it may
// have added events. Its error is that of what comes before the cleaning.
func commitWith(ctx context.Context, conn *pgx.Conn, guard *guard, batch *pgx.Batch, clean string) (appended bool, err error) {
	committed := false
	batch.Queue(commitText).Fn = func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		if committed = err == nil && tag.String() == "COMMIT"; err == nil && !committed {
			return pgx.ErrTxCommitRollback
		}
		return ofCommit(err)
	}
	batch.Queue(clean).QueryRow(func(row pgx.Row) error { return row.Scan(nil, nil, &appended) })
	var results pgx.BatchResults
	guard.own(func() { results = conn.SendBatch(ctx, batch) }, beginText, beginDeferrable, commitText, clean)
	err = results.Close()
	if err != nil && committed {
		shut(conn) // it is not clean
		return true, nil
	}
	return appended, err
}

// ofCommit makes an answer of the server to a COMMIT a *tokenstore.CommitError.
func ofCommit(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) && !IsLost(err) {
		return &tokenstore.CommitError{Err: err}
	}
	return err
}

// takeBack takes a connection from users' code after a batch that has succeeded, or failed with an
// error: it is clean afterwards, or closed. What has not been committed is undone.
func takeBack(ctx context.Context, conn *pgx.Conn, guard *guard, clean string, err error) {
	switch {
	case conn.IsClosed() && guard.refusal() == nil: // pgx is closing it, or it was hijacked
		time.AfterFunc(closePatience, func() { _ = guard.socket.Close() })
		return
	case conn.IsClosed() || conn.PgConn().IsBusy() || guard.spoilt() || aboutPrepared(err):
		abandon(conn, guard)
		return
	}
	defer guard.rest()
	if err == nil {
		return // it was cleaned behind the commit
	}
	if conn.PgConn().TxStatus() != 'I' {
		clean = "rollback; " + clean
	}
	// The guard goes on meanwhile: what a handler has left running must not commit before.
	guard.own(func() { _, err = conn.PgConn().Exec(ctx, clean).ReadAll() }, clean)
	if err != nil {
		abandon(conn, guard)
	}
}

// closePatience is how long pgx may take to cancel what runs and to tell the server of the end.
const closePatience = time.Second

// abandon ends a connection with its transaction at once. pgx would wait for the server, which may
// not have been told of the end.
func abandon(conn *pgx.Conn, guard *guard) {
	shut(conn)
	_ = guard.socket.Close() // it may be closed already
}

// aboutPrepared reports whether an error says that the session's prepared statements are not those
// that are believed to be there.
func aboutPrepared(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == pgerrcode.InvalidSQLStatementName || pg.Code == pgerrcode.DuplicatePreparedStatement)
}

// shut closes a connection without waiting for its server.
func shut(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx) // it is given up
}
