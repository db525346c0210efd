package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Replaying implements tokenstore.Resets.
func (s *Store) Replaying(ctx context.Context, processor string) (map[string]*tokenstore.Replaying, error) {
	rows, err := s.pool.Query(ctx, s.in(`SELECT g.name, r.number, r.id, r.context, b.segment, b.mask, b.start, b.position, b.snapshot, b.sequencing
		FROM {{schema}}.processing_group g JOIN {{schema}}.replay r ON r.number = g.replay
		JOIN {{schema}}.replay_boundary b ON b.tenant = g.tenant AND b.group_name = g.name
		WHERE g.tenant = $1 AND g.processor = $2 ORDER BY g.name, b.segment`), tenant, processor)
	if err != nil {
		return nil, fmt.Errorf("reading the boundaries of replays of %s: %w", processor, err)
	}
	defer rows.Close()
	groups := map[string]*tokenstore.Replaying{}
	for rows.Next() {
		var group string
		var r tokenstore.Replaying
		var b tokenstore.Boundary
		err := rows.Scan(&group, &r.Number, &r.ID, &r.Context, &b.Segment.ID, &b.Segment.Mask, &b.Start, &b.Progress.Position, &b.Progress.State, &b.Sequencing)
		if err != nil {
			return nil, fmt.Errorf("reading the boundaries of replays of %s: %w", processor, err)
		}
		if groups[group] == nil {
			groups[group] = &r
		}
		groups[group].Boundaries = append(groups[group].Boundaries, b)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the boundaries of replays of %s: %w", processor, err)
	}
	return groups, nil
}

// boundariesOf reads a group's, in a transaction that has locked its tokens.
func (s *Store) boundariesOf(ctx context.Context, tx pgx.Tx, group string) ([]tokenstore.Boundary, error) {
	rows, err := tx.Query(ctx, s.in(`SELECT segment, mask, start, position, snapshot, sequencing FROM {{schema}}.replay_boundary WHERE tenant = $1 AND group_name = $2 ORDER BY segment`), tenant, group)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b tokenstore.Boundary, err error) {
		err = row.Scan(&b.Segment.ID, &b.Segment.Mask, &b.Start, &b.Progress.Position, &b.Progress.State, &b.Sequencing)
		return b, err
	})
}

// queueBoundaries replaces a group's boundaries.
func (s *Store) queueBoundaries(batch *pgx.Batch, group string, bounds []tokenstore.Boundary) {
	n := len(bounds)
	segments, starts, positions, snapshots, sequencings := make([]segment.Segment, n), make([]int64, n), make([]int64, n), make([]string, n), make([]string, n)
	for i, b := range bounds {
		segments[i], starts[i], positions[i], snapshots[i], sequencings[i] = b.Segment, b.Start, b.Progress.Position, b.Progress.State, orPerStream(b.Sequencing)
	}
	ids, masks := columns(segments)
	batch.Queue(s.in(`DELETE FROM {{schema}}.replay_boundary WHERE tenant = $1 AND group_name = $2`), tenant, group)
	batch.Queue(s.in(`INSERT INTO {{schema}}.replay_boundary (tenant, group_name, segment, mask, start, position, snapshot, sequencing)
		SELECT $1, $2, b.* FROM unnest($3::integer[], $4::integer[], $5::bigint[], $6::bigint[], $7::text[], $8::text[]) AS b`), tenant, group, ids, masks, starts, positions, snapshots, sequencings)
}

// Record implements tokenstore.Resets.
func (s *Store) Record(ctx context.Context, r tokenstore.Replay, done, total int64) error {
	_, err := s.pool.Exec(ctx, s.in(`UPDATE {{schema}}.replay SET done = $2, total = $3 WHERE number = $1 AND phase = 'Replaying' AND (done, total) <> ($2, $3)`), r.Number, done, total)
	if err != nil {
		return fmt.Errorf("recording the progress of replay %s: %w", r.ID, err)
	}
	return nil
}

// Complete implements tokenstore.Resets. That the groups have what their boundaries have cannot become untrue but by another
// reset, which none of them gets before this.
func (s *Store) Complete(ctx context.Context, r tokenstore.Replay) error {
	return s.finish(ctx, r, tokenstore.ReplayComplete, func(context.Context, pgx.Tx, []string) (bool, error) { return true, nil })
}

// Abandon implements tokenstore.Resets.
func (s *Store) Abandon(ctx context.Context, r tokenstore.Replay, n progress.Algebra) error {
	return s.finish(ctx, r, tokenstore.ReplayAbandoned, func(ctx context.Context, tx pgx.Tx, groups []string) (bool, error) {
		return s.giveUp(ctx, tx, n, groups)
	})
}

// giveUp moves the tokens of groups to what was handled before their replay, and reports whether that is all there is to do.
func (s *Store) giveUp(ctx context.Context, tx pgx.Tx, n progress.Algebra, groups []string) (all bool, err error) {
	tokens, err := s.lockGroups(ctx, tx, groups)
	if err != nil {
		return false, err
	}
	batch := &pgx.Batch{}
	all = true
	for name, group := range byGroup(tokens) {
		bounds, err := s.boundariesOf(ctx, tx, name)
		if err != nil {
			return false, err
		}
		moved, done, err := protocol.Abandoning(n, group, bounds)
		if err != nil {
			return false, fmt.Errorf("group %s: %w", name, err)
		}
		for _, t := range moved {
			s.queueMoved(batch, t)
		}
		all = all && done
	}
	return all, tx.SendBatch(ctx, batch).Close()
}

// abandoning is the message of a replay that is being abandoned.
const abandoning = "being abandoned: it has changed a group's sequencing, and handles again first what only some segments had handled"

// finish ends a replay that is running: its groups have no boundaries any more. Where tokens says that they are not ready for
// that yet, the replay is marked as one that is going to be abandoned, and nothing else.
func (s *Store) finish(ctx context.Context, r tokenstore.Replay, phase tokenstore.ReplayPhase, tokens func(context.Context, pgx.Tx, []string) (bool, error)) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, s.in(`SELECT FROM {{schema}}.replay WHERE number = $1 AND phase = 'Replaying' FOR NO KEY UPDATE`), r.Number)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		rows, err := tx.Query(ctx, s.in(`SELECT name FROM {{schema}}.processing_group WHERE tenant = $1 AND replay = $2 ORDER BY name FOR NO KEY UPDATE`), tenant, r.Number)
		if err != nil {
			return err
		}
		groups, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		ready, err := tokens(ctx, tx, groups)
		if err != nil {
			return err
		}
		if !ready {
			_, err = tx.Exec(ctx, s.in(`UPDATE {{schema}}.replay SET reason = $2, message = $3 WHERE number = $1`), r.Number, tokenstore.ReplayAbandoning, abandoning)
			return errors.Join(err, s.announce(ctx, tx))
		}
		_, err = tx.Exec(ctx, s.in(`UPDATE {{schema}}.replay SET phase = $2, reason = '', message = '', ended_at = clock_timestamp(),
			done = CASE WHEN $2 = 'Complete' THEN total ELSE done END WHERE number = $1`), r.Number, phase)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.in(`UPDATE {{schema}}.processing_group SET replay = NULL, resetting = false, incomplete = CASE WHEN $3 = 'Abandoned' THEN replay END
			WHERE tenant = $1 AND name = ANY ($2)`), tenant, groups, phase)
		if err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, s.in(`DELETE FROM {{schema}}.replay_boundary WHERE tenant = $1 AND group_name = ANY ($2)`), tenant, groups); err != nil {
			return err
		}
		return s.announce(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("ending replay %s: %w", r.ID, err)
	}
	return nil
}
