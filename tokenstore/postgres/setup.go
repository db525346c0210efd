package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// userLockTimeout is how long the commands of a setup or a reset wait for a lock: whoever comes behind them in the queue, such as a
// reader of the projection, waits as long.
const userLockTimeout = "2s"

// SetupOnce runs the setup of a group's SQL handler unless it has been run for this definition. Workers that come at the
// same time wait for each other. Errors are those of the user's commands.
//
// It runs on a connection of its own, which is closed afterwards, in the transaction that records it: what the setup sets reaches
// nobody else, and a setup that fails has done nothing.
func (d *Directory) SetupOnce(ctx context.Context, processor, definition, group, sql string) error {
	conn, err := connectApart(ctx, d.pool)
	if err != nil {
		return fmt.Errorf("connecting for the setup of %s: %w", group, err)
	}
	defer shut(conn)
	guard, err := guardOf(conn)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))", processor+"/"+group, lockClass); err != nil {
			return fmt.Errorf("waiting for another setup of %s: %w", group, err)
		}
		tag, err := tx.Exec(ctx, d.in(`INSERT INTO {{schema}}.setup (processor, definition, group_name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`), processor, definition, group)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+userLockTimeout+"'"); err != nil {
			return err
		}
		guard.hold()
		defer guard.release()
		// The simple protocol takes several commands.
		_, err = tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		if refused := guard.refusal(); errors.Is(refused, tokenstore.ErrManagedTransaction) {
			return fmt.Errorf("a setup is one transaction, take out its own commands for one: %w", refused)
		}
		return err
	})
}
