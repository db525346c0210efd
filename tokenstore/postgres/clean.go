package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Whatever users' statements leave in a session is taken back before the connection goes to the pool: settings, the role,
// advisory locks, LISTEN, cursors and temporary tables. A batch that commits is cleaned behind its commit, in the same round trip. What cleaning
// cannot take back, or a cleaning that fails, closes the connection.

// cleaning takes a session back to what it was when it was made.
const cleaning = `SELECT {{schema}}.clean_session()`

// commitWith sends a batch with the commit and the cleaning behind it. Its error is that of what comes before the cleaning.
func commitWith(ctx context.Context, conn *pgx.Conn, guard *guard, batch *pgx.Batch, clean string) error {
	committed := false
	batch.Queue(commitText).Exec(func(tag pgconn.CommandTag) error {
		if committed = tag.String() == "COMMIT"; !committed {
			return pgx.ErrTxCommitRollback
		}
		return nil
	})
	batch.Queue(clean)
	var results pgx.BatchResults
	guard.own(func() { results = conn.SendBatch(ctx, batch) })
	err := results.Close()
	if err != nil && committed {
		shut(conn) // it is not clean
		return nil
	}
	return err
}

// takeBack takes a connection from users' code: it is clean afterwards, or closed. What has not been committed is undone.
func takeBack(ctx context.Context, conn *pgx.Conn, guard *guard, cleaned bool, clean string) {
	switch {
	case conn.IsClosed(): // or was hijacked, with the transaction: the guard goes on
		return
	case conn.PgConn().IsBusy() || guard.spoilt():
		shut(conn)
		return
	}
	guard.release()
	if cleaned {
		return
	}
	if conn.PgConn().TxStatus() != 'I' {
		clean = "rollback; " + clean
	}
	if _, err := conn.PgConn().Exec(ctx, clean).ReadAll(); err != nil {
		shut(conn)
	}
}

// shut closes a connection without waiting for its server.
func shut(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx) // it is given up
}
