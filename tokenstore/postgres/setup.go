package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/tokenstore"
)

var _ tokenstore.Setups = (*Directory)(nil)

// userLockTimeout is how long the commands of a setup or a reset wait for a lock: whoever comes
// behind them in the queue, such as a reader of the projection, waits as long.
const userLockTimeout = "2s"

// endPatience bounds the end of a setup whose context has ended.
const endPatience = 2 * time.Second

// SetupDone implements tokenstore.Setups.
func (d *Directory) SetupDone(ctx context.Context, processor, definition, group string) (done bool, err error) {
	err = d.pool.QueryRow(ctx, d.in(`SELECT EXISTS (SELECT FROM {{schema}}.setup WHERE processor = $1 AND definition = $2 AND group_name = $3)`), processor, definition, group).Scan(&done)
	if err != nil {
		return false, fmt.Errorf("looking whether the setup of %s has been run: %w", group, err)
	}
	return done, nil
}

// SetupOnce implements tokenstore.Setups. The connection is closed afterwards: what the setup sets
// reaches nobody else, and a setup that fails has done nothing.
func (d *Directory) SetupOnce(ctx context.Context, processor, definition, group, sql string, limit time.Duration) error {
	lock := lockName(d.schema, "setup", processor+"/"+group)
	conn, err := connectApart(ctx, d.pool)
	if err != nil {
		return fmt.Errorf("connecting for the setup of %s: %w", group, err)
	}
	defer shut(conn)
	overdue := false
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := d.lockSetup(ctx, tx, lock, group); err != nil {
			return err
		}
		running, cancel := within(ctx, limit)
		defer cancel()
		err := d.setup(running, tx, processor, definition, group, sql, limit)
		overdue = err != nil && running.Err() != nil
		if overdue && ctx.Err() == nil {
			err = &tokenstore.SetupTimeoutError{Limit: limit, Err: err}
		}
		return err
	})
	if overdue { // the connection is closed, but the commands may have told the server not to look
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
		defer cancel()
		_, ended := terminateHolder(ending, d.pool, lock)
		err = errors.Join(err, ended)
	}
	return err
}

// within is a context with a time limit, 0 for none.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// lockSetup waits for other workers' setups of the group, for a moment.
func (d *Directory) lockSetup(ctx context.Context, tx pgx.Tx, lock, group string) error {
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+userLockTimeout+"'"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock("+lockOf+")", lock)
	if !lacksLock(err) {
		return err
	}
	by, asked := readHolders(ctx, d.pool, lock)
	return errors.Join(&tokenstore.SetupRunsError{Group: group, By: Blocked(by)}, asked)
}

// setup runs the commands unless they have been run, and notes that in their transaction.
func (d *Directory) setup(ctx context.Context, tx pgx.Tx, processor, definition, group, sql string, limit time.Duration) error {
	tag, err := tx.Exec(ctx, d.in(`INSERT INTO {{schema}}.setup (processor, definition, group_name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`), processor, definition, group)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	// For when this process is frozen; else the context ends what takes too long.
	_, err = tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %[1]d; SET LOCAL idle_in_transaction_session_timeout = %[1]d", limit.Milliseconds()), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err
	}
	guard, err := guardOf(tx.Conn())
	if err != nil {
		return err
	}
	guard.hold()
	defer guard.release()
	waiting := watchBlockers(ctx, d.pool, tx.Conn().PgConn().PID())
	_, err = tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol) // which takes several commands
	blockers := waiting.end()
	if refused := guard.refusal(); errors.Is(refused, tokenstore.ErrManagedTransaction) {
		return &tokenstore.SetupError{Err: fmt.Errorf("a setup is one transaction, take out its own commands for one: %w", refused)}
	}
	switch {
	case lacksLock(err):
		return &tokenstore.SetupError{Err: err, BlockedBy: Blocked(blockers)}
	case err != nil:
		return &tokenstore.SetupError{Err: err}
	}
	return nil
}

// lacksLock reports whether a lock was not to be had in time.
func lacksLock(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == pgerrcode.LockNotAvailable
}
