package postgres

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

func orPerStream(sequencing string) string { return cmp.Or(sequencing, segment.PerStream.String()) }

// policyAndHash are the columns of a sequencing.
func policyAndHash(sequencing string) (policy, hash string) {
	sequencing = orPerStream(sequencing)
	cut := strings.LastIndexByte(sequencing, '/')
	return sequencing[:max(cut, 0)], sequencing[cut+1:]
}

// agreeSequencing sees to it that a group whose row this transaction has locked is declared with the sequencing of its tokens, or
// with one that it is going to get.
func (s *Store) agreeSequencing(ctx context.Context, tx pgx.Tx, processor string, g tokenstore.Group, recorded string, tokens bool, requested []tokenstore.ReplayRequest) error {
	wanted := orPerStream(g.Sequencing)
	if recorded == wanted {
		return nil
	}
	if !tokens { // nothing has been handled by the other one that is still known
		return s.setSequencing(ctx, tx, g.Name, wanted)
	}
	rows, err := tx.Query(ctx, s.in(`SELECT `+replayColumns+` FROM {{schema}}.replay r WHERE processor = $1
		OR number = (SELECT g.replay FROM {{schema}}.processing_group g WHERE g.tenant = $2 AND g.name = $3)`), processor, tenant, g.Name)
	if err != nil {
		return fmt.Errorf("reading the replays of group %s: %w", g.Name, err)
	}
	ledger, err := pgx.CollectRows(rows, scanReplay)
	if err != nil {
		return fmt.Errorf("reading the replays of group %s: %w", g.Name, err)
	}
	var running string
	err = tx.QueryRow(ctx, s.in(`SELECT coalesce((SELECT r.id FROM {{schema}}.processing_group g JOIN {{schema}}.replay r ON r.number = g.replay
		WHERE g.tenant = $1 AND g.name = $2 AND r.phase = 'Replaying'), '')`), tenant, g.Name).Scan(&running)
	if err != nil {
		return fmt.Errorf("looking for the replay of group %s: %w", g.Name, err)
	}
	if refusal := tokenstore.RefuseSequencing(g.Name, recorded, wanted, running, requested, ledger); refusal != nil {
		return refusal
	}
	return nil
}

func (s *Store) setSequencing(ctx context.Context, tx pgx.Tx, group, sequencing string) error {
	batch := &pgx.Batch{}
	s.queueSequencing(batch, group, sequencing)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("recording the sequencing of group %s: %w", group, err)
	}
	return nil
}

func (s *Store) queueSequencing(batch *pgx.Batch, group, sequencing string) {
	policy, hash := policyAndHash(sequencing)
	batch.Queue(s.in(`UPDATE {{schema}}.processing_group SET sequencing = $3, hash = $4 WHERE tenant = $1 AND name = $2`), tenant, group, policy, hash)
}
