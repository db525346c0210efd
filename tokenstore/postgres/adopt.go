package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// Adopt makes, in the caller's transaction, a group with tokens that come from another system. It is retired: the processor that declares it next goes
// on where it stands. The tokens cover the hash space exactly once; their epochs and versions are given here. A group that has
// tokens already is refused.
func (s *Store) Adopt(ctx context.Context, tx pgx.Tx, g tokenstore.Group, tokens []tokenstore.Token) error {
	policy, hash := policyAndHash(g.Sequencing)
	var floor int64
	err := tx.QueryRow(ctx, s.in(`
		INSERT INTO {{schema}}.processing_group AS g (tenant, name, processor, segments, sequencing, hash, retired_at) VALUES ($1, $2, '', $3, $4, $5, clock_timestamp())
		ON CONFLICT (tenant, name) DO UPDATE SET segments = excluded.segments, sequencing = excluded.sequencing, hash = excluded.hash
		  WHERE g.retired_at IS NOT NULL AND NOT EXISTS (SELECT FROM {{schema}}.token t WHERE t.tenant = g.tenant AND t.group_name = g.name)
		RETURNING epoch_floor`), tenant, g.Name, g.Segments, policy, hash).Scan(&floor)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("the store has a group %s already, or a processor declares it: import before the processor is applied, or choose another name", g.Name)
	}
	if err != nil {
		return fmt.Errorf("making group %s: %w", g.Name, err)
	}
	batch := &pgx.Batch{}
	for _, t := range tokens {
		t.Group, t.Generation, t.Epoch, t.Version = g.Name, 1, floor+1, floor+1
		s.queuePut(batch, t)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("making the tokens of group %s: %w", g.Name, err)
	}
	return nil
}
