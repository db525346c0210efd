package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

var (
	_ tokenstore.Replays = (*Store)(nil)
	_ tokenstore.Resets  = (*Store)(nil)
)

// RequestReplays implements tokenstore.Replays.
func (s *Store) RequestReplays(ctx context.Context, processor string, requests []tokenstore.ReplayRequest) error {
	ids := make([]string, len(requests))
	batch := &pgx.Batch{}
	for i, r := range requests {
		ids[i] = r.ID
		if err := s.queueRequest(batch, processor, r); err != nil {
			return err
		}
	}
	batch.Queue(s.in(`DELETE FROM {{schema}}.replay WHERE processor = $1 AND phase = 'Pending' AND id <> ALL ($2)`), processor, ids)
	batch.Queue(s.in(`UPDATE {{schema}}.replay SET state = 'Cancelled' WHERE processor = $1 AND phase = 'Resetting' AND id <> ALL ($2)`), processor, ids)
	batch.Queue(s.in(`UPDATE {{schema}}.replay SET phase = 'Cancelled', reason = $2, message = $3, ended_at = clock_timestamp()
		WHERE processor = $1 AND phase = 'Pending' AND state <> 'Running'`), processor, tokenstore.ReplayCancelledMeanwhile, cancelled)
	batch.Queue(`SELECT pg_notify($1, $2)`, s.notify, processor)
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("requesting replays of %s: %w", processor, err)
	}
	return nil
}

// cancelled is the message of a replay that was cancelled in time.
const cancelled = "cancelled before the reset: nothing has happened"

// queueRequest adds a row that the ledger lacks, or brings one up to date that has not ended. As long as nothing has happened, it
// is what was asked for last. An id that has run for one of
// the groups under another processor, from which they were moved here, has run.
func (s *Store) queueRequest(batch *pgx.Batch, processor string, r tokenstore.ReplayRequest) error {
	place, err := json.Marshal(r.From)
	if err != nil {
		return fmt.Errorf("replay %s: writing where it begins: %w", r.ID, err)
	}
	values := []any{processor, r.ID, r.Groups, place, orEmpty(r.Context), r.Unguarded, r.Definition, r.State, r.Rebind, orNull(r.Sequencing)}
	batch.Queue(s.in(`
		INSERT INTO {{schema}}.replay AS r (processor, id, groups, place, context, unguarded, definition, sequencing, state, phase, reason, message, ended_at)
		SELECT $1, $2, $3, $4, $5, coalesce($6::text[], '{}'), $7, $10, $8, CASE WHEN o IS NULL THEN 'Pending' ELSE 'Superseded' END,
		  CASE WHEN o IS NULL THEN '' ELSE '`+tokenstore.ReplayRanElsewhere+`' END,
		  CASE WHEN o IS NULL THEN '' ELSE format('it has run for processor %s, which had the groups before', o.processor) END,
		  CASE WHEN o IS NULL THEN NULL ELSE clock_timestamp() END
		FROM (SELECT) AS one LEFT JOIN LATERAL (
		  SELECT o.processor FROM {{schema}}.replay o
		   WHERE o.id = $2 AND o.processor <> $1 AND o.groups && $3 AND o.reset_at IS NOT NULL LIMIT 1) AS o ON true
		ON CONFLICT (processor, id) DO UPDATE SET state = excluded.state, unguarded = excluded.unguarded,
		  definition = CASE WHEN $9 THEN excluded.definition ELSE r.definition END,
		  sequencing = CASE WHEN $9 AND r.phase <> 'Replaying' THEN excluded.sequencing ELSE r.sequencing END,
		  groups = CASE r.phase WHEN 'Pending' THEN excluded.groups ELSE r.groups END,
		  place = CASE r.phase WHEN 'Pending' THEN excluded.place ELSE r.place END,
		  reason = CASE WHEN r.phase = 'Pending' AND r.place <> excluded.place THEN '' ELSE r.reason END,
		  message = CASE WHEN r.phase = 'Pending' AND r.place <> excluded.place THEN '' ELSE r.message END,
		  context = CASE r.phase WHEN 'Pending' THEN excluded.context ELSE r.context END
		WHERE r.phase IN ('Pending', 'Resetting', 'Replaying')`), values...)
	return nil
}

func orEmpty(texts map[string]string) map[string]string {
	if texts == nil {
		return map[string]string{}
	}
	return texts
}

func orNull(texts map[string]string) any {
	if len(texts) == 0 {
		return nil
	}
	return texts
}

const replayColumns = `number, id, groups, place, context, unguarded, definition, sequencing, state, phase, reason, message, done, total, attempts, requested_at, reset_at, ended_at`

// Replays implements tokenstore.Replays.
func (s *Store) Replays(ctx context.Context, processor string) ([]tokenstore.Replay, error) {
	rows, err := s.pool.Query(ctx, s.in(`SELECT `+replayColumns+` FROM {{schema}}.replay r WHERE processor = $1
		OR EXISTS (SELECT FROM {{schema}}.processing_group g WHERE g.processor = $1 AND g.replay = r.number) ORDER BY number`), processor)
	if err == nil {
		var all []tokenstore.Replay
		if all, err = pgx.CollectRows(rows, scanReplay); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("reading the replays of %s: %w", processor, err)
}

func scanReplay(row pgx.CollectableRow) (r tokenstore.Replay, err error) {
	err = row.Scan(&r.Number, &r.ID, &r.Groups, &r.From, &r.Context, &r.Unguarded, &r.Definition, &r.Sequencing, &r.State, &r.Phase, &r.Reason, &r.Message,
		&r.Done, &r.Total, &r.Attempts, &r.RequestedAt, &r.ResetAt, &r.EndedAt)
	return r, err
}

// supersede records, in the transaction that makes the first tokens of groups, the requests that were there already and are for
// nothing but such groups: there is nothing to handle again.
func (s *Store) supersede(ctx context.Context, tx pgx.Tx, processor string, made []string, requests []tokenstore.ReplayRequest) error {
	batch := &pgx.Batch{}
	for _, r := range requests {
		if !subset(r.Groups, made) {
			continue
		}
		if err := s.queueRequest(batch, processor, r); err != nil {
			return err
		}
		batch.Queue(s.in(`UPDATE {{schema}}.replay SET phase = 'Superseded', reason = $3, ended_at = clock_timestamp(),
			message = 'its groups were new: they have handled nothing that could be handled again'
			WHERE processor = $1 AND id = $2 AND phase = 'Pending'`), processor, r.ID, tokenstore.ReplayGroupsNew)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("recording replays of new groups of %s: %w", processor, err)
	}
	return nil
}

func subset(some, all []string) bool {
	there := map[string]bool{}
	for _, a := range all {
		there[a] = true
	}
	for _, s := range some {
		if !there[s] {
			return false
		}
	}
	return true
}

// dropReplays ends the replays of a processor whose tokens are being deleted. The ledger stays: what has run has run.
func (s *Store) dropReplays(ctx context.Context, tx pgx.Tx, processor string) error {
	for _, sql := range []string{
		`DELETE FROM {{schema}}.replay_boundary b USING {{schema}}.processing_group g
		  WHERE g.tenant = $1 AND g.processor = $2 AND b.tenant = g.tenant AND b.group_name = g.name`,
		// A group that another processor has taken over in the middle of a reset goes on where it was.
		`UPDATE {{schema}}.processing_group g SET replay = NULL, resetting = false FROM {{schema}}.replay r
		  WHERE g.tenant = $1 AND g.replay = r.number AND r.processor = $2 AND r.phase = 'Resetting'`,
		`DELETE FROM {{schema}}.replay r USING (SELECT $1::text) AS t WHERE r.processor = $2 AND r.phase IN ('Pending', 'Resetting')`,
		`UPDATE {{schema}}.replay r SET phase = 'Abandoned', message = 'the processor and its tokens were deleted', ended_at = clock_timestamp()
		  FROM {{schema}}.processing_group g WHERE g.tenant = $1 AND g.processor = $2 AND g.replay = r.number AND r.phase = 'Replaying'`,
		`UPDATE {{schema}}.processing_group SET replay = NULL, resetting = false, incomplete = NULL WHERE tenant = $1 AND processor = $2`,
	} {
		if _, err := tx.Exec(ctx, s.in(sql), tenant, processor); err != nil {
			return fmt.Errorf("ending the replays of %s: %w", processor, err)
		}
	}
	return nil
}
