package postgres

import (
	"context"
	"fmt"
)

// NotifyLiveEvents implements tokenstore.LiveNotifier. Its transaction does not wait until it is on
// the disk: that would take from those who handle live events.
func (d *Directory) NotifyLiveEvents(ctx context.Context) error {
	if _, err := d.pool.Exec(ctx, "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')", d.live); err != nil {
		return fmt.Errorf("announcing live events: %w", err)
	}
	return nil
}

// Probe implements tokenstore.Prober. It commits a lock of the worker's own row, for which heartbeats
// do not wait.
func (d *Directory) Probe(ctx context.Context, incarnation int64) error {
	if _, err := d.pool.Exec(ctx, d.in("SELECT FROM {{schema}}.worker WHERE incarnation = $1 FOR KEY SHARE"), incarnation); err != nil {
		return fmt.Errorf("probing how quickly the database commits: %w", err)
	}
	return nil
}
