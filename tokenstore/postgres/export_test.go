package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// Unblock ends blockers, as a try of a reset does.
func (s *Store) Unblock(ctx context.Context, blockers []Blocker) error {
	return s.unblock(ctx, blockers)
}

// InPgx is InTx for work that knows its transaction.
func (s *Store) InPgx(ctx context.Context, advances []tokenstore.Advance, work func(pgx.Tx) error) error {
	return s.InTx(ctx, advances, func(tx tokenstore.Tx) error { return work(tx.(pgx.Tx)) })
}
