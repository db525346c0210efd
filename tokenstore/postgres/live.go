package postgres

import (
	"context"
	"fmt"
)

// TellOfLiveEvents tells all workers of the store that there are live events. Its transaction does
// not wait until it is on the disk: that would take from those who handle them.
func (d *Directory) TellOfLiveEvents(ctx context.Context) error {
	if _, err := d.pool.Exec(ctx, "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')", d.live); err != nil {
		return fmt.Errorf("telling of live events: %w", err)
	}
	return nil
}

// Probe commits next to nothing, and returns when that is on the disk: the lock of a worker's own row, which is in nobody's way.
func (d *Directory) Probe(ctx context.Context, incarnation int64) error {
	if _, err := d.pool.Exec(ctx, d.in("SELECT FROM {{schema}}.worker WHERE incarnation = $1 FOR KEY SHARE"), incarnation); err != nil {
		return fmt.Errorf("probing how quickly the database commits: %w", err)
	}
	return nil
}
