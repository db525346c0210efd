package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// SetupOnce runs the setup of a group's SQL handler unless it has been run for this definition. Workers that come at the
// same time wait for each other. Errors are those of the user's commands.
func (d *Directory) SetupOnce(ctx context.Context, processor, definition, group, sql string) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))", processor+"/"+group, lockClass); err != nil {
			return fmt.Errorf("waiting for another setup of %s: %w", group, err)
		}
		tag, err := tx.Exec(ctx, d.in(`INSERT INTO {{schema}}.setup (processor, definition, group_name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`), processor, definition, group)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		// The simple protocol takes several commands.
		_, err = tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	})
}
