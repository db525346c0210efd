package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// A reset takes three transactions at most, and a crash between them leaves what the next worker goes on with:
//
//   - BeginReset takes the segments from their owners: epochs go up, so that running batches are fenced off, and nobody may
//     claim until the reset has ended.
//   - Reset runs the reset handlers and then moves the tokens, in one transaction: in the order in which every batch locks.
//   - EndReset lets the groups go on where they were, where the handlers fail or nobody wants the reset any more.

// BeginReset implements tokenstore.Resets.
func (s *Store) BeginReset(ctx context.Context, processor string, r tokenstore.Replay) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+userLockTimeout+"'"); err != nil {
			return err
		}
		place, err := json.Marshal(r.From)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, s.in(`UPDATE {{schema}}.replay SET phase = 'Resetting', reason = '', message = ''
			WHERE number = $1 AND phase = 'Pending' AND state = 'Running' AND groups = $2 AND place = $3`), r.Number, r.Groups, place)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "the replay was changed, withdrawn or begun in the meantime"}
		}
		if err := s.takeGroups(ctx, tx, processor, r); err != nil {
			return err
		}
		if err := s.agreed(ctx, tx, processor, r.Definition); err != nil {
			return err
		}
		tokens, err := s.lockGroups(ctx, tx, r.Groups)
		if err != nil {
			return err
		}
		return s.disown(ctx, tx, tokens)
	})
	if err != nil {
		return fmt.Errorf("beginning the reset of replay %s: %w", r.ID, err)
	}
	return nil
}

// takeGroups makes the replay that of its groups, and keeps older definitions from them for good.
func (s *Store) takeGroups(ctx context.Context, tx pgx.Tx, processor string, r tokenstore.Replay) error {
	rows, err := tx.Query(ctx, s.in(`SELECT g.name, (SELECT id FROM {{schema}}.replay r WHERE r.number = g.replay)
		FROM {{schema}}.processing_group g WHERE g.tenant = $1 AND g.processor = $2 AND g.retired_at IS NULL AND g.name = ANY ($3)
		ORDER BY g.name FOR NO KEY UPDATE OF g`), tenant, processor, r.Groups)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Name  string
		Other *string
	}])
	if err != nil {
		return err
	}
	for _, name := range r.Groups {
		if !slices.ContainsFunc(found, func(g struct {
			Name  string
			Other *string
		}) bool {
			return g.Name == name
		}) {
			return &tokenstore.NotDueError{Reason: tokenstore.ReplayGroupMissing, Message: "the processor has no group " + name}
		}
	}
	for _, g := range found {
		if g.Other != nil {
			return &tokenstore.NotDueError{Reason: tokenstore.ReplayWaitsForOther,
				Message: fmt.Sprintf("replay %s of group %s runs first: wait for it, or abandon it", *g.Other, g.Name)}
		}
	}
	_, err = tx.Exec(ctx, s.in(`UPDATE {{schema}}.processing_group SET replay = $3, resetting = true,
		min_definition = greatest(min_definition, (SELECT number FROM {{schema}}.definition WHERE processor = $4 AND id = $5))
		WHERE tenant = $1 AND name = ANY ($2)`), tenant, r.Groups, r.Number, processor, r.Definition)
	return err
}

// agreed checks that the definition is the wanted one and that every live worker runs it.
func (s *Store) agreed(ctx context.Context, tx pgx.Tx, processor, definition string) error {
	var wanted string
	var others []string
	err := tx.QueryRow(ctx, s.in(`SELECT p.definition, ARRAY (SELECT w.pod FROM {{schema}}.worker w
		  WHERE w.processor = p.name AND w.definition <> $2 AND `+alive+` ORDER BY w.pod)
		FROM {{schema}}.processor p WHERE p.name = $1`), processor, definition).Scan(&wanted, &others)
	if errors.Is(err, pgx.ErrNoRows) {
		return tokenstore.ErrNoProcessor
	}
	if err != nil {
		return err
	}
	return tokenstore.Agreed(definition, wanted, others)
}

// lockGroups locks all tokens of the groups, in the order of their keys, and returns them.
func (s *Store) lockGroups(ctx context.Context, tx pgx.Tx, groups []string) ([]tokenstore.Token, error) {
	_, err := tx.Exec(ctx, s.in(`SELECT FROM {{schema}}.token WHERE tenant = $1 AND group_name = ANY ($2) ORDER BY group_name, segment FOR NO KEY UPDATE`), tenant, groups)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, s.in(`SELECT `+tokenColumns+` FROM {{schema}}.token t `+joinParts+`
		WHERE t.tenant = $1 AND t.group_name = ANY ($2) ORDER BY t.group_name, t.segment, p.part_segment`), tenant, groups)
	if err != nil {
		return nil, err
	}
	return collect(rows)
}

// disown takes tokens that this transaction has locked from their owners.
func (s *Store) disown(ctx context.Context, tx pgx.Tx, tokens []tokenstore.Token) error {
	keys := make([]tokenstore.Key, len(tokens))
	for i, t := range tokens {
		keys[i] = t.Key
	}
	groups, segments := keyColumns(keys)
	_, err := tx.Exec(ctx, s.in(`UPDATE {{schema}}.token t SET epoch = epoch + 1, version = version + 1, owner = 0
		FROM unnest($2::text[], $3::integer[]) AS k (group_name, segment)
		WHERE t.tenant = $1 AND t.group_name = k.group_name AND t.segment = k.segment`), tenant, groups, segments)
	if err != nil {
		return err
	}
	return s.announce(ctx, tx)
}

// resetTry is a try on a connection of its own.
type resetTry struct {
	store *Store
	conn  *pgx.Conn
	pid   uint32

	mu       sync.Mutex
	blockers []Blocker // found last
}

// TryReset implements tokenstore.Resets.
func (s *Store) TryReset(ctx context.Context) (tokenstore.ResetTry, error) {
	conn, err := connectApart(ctx, s.pool)
	if err != nil {
		return nil, fmt.Errorf("connecting for the reset: %w", err)
	}
	return &resetTry{store: s, conn: conn, pid: conn.PgConn().PID()}, nil
}

// Close implements tokenstore.ResetTry.
func (t *resetTry) Close(ctx context.Context) { _ = t.conn.Close(ctx) } // nothing in it is left to be kept

// Abandon implements tokenstore.ResetTry.
func (t *resetTry) Abandon() error { return t.conn.PgConn().Conn().Close() }

// BlockedBy implements tokenstore.ResetTry.
func (t *resetTry) BlockedBy(ctx context.Context) (string, error) {
	by, err := blockers(ctx, t.store.pool, t.pid)
	if err != nil || len(by) == 0 {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blockers = by
	return Blocked(by), nil
}

// Unblock implements tokenstore.ResetTry.
func (t *resetTry) Unblock(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.store.unblock(ctx, t.blockers)
}

// Run implements tokenstore.ResetTry. The handlers get a pgx.Tx.
func (t *resetTry) Run(ctx context.Context, processor string, r tokenstore.Replay, n progress.Algebra, start progress.Progress, run tokenstore.ResetRun) error {
	s, conn := t.store, t.conn
	begin := opening{set: resetSettings(run.Limit)}.marked(named)
	tx, err := newHandlerTx(ctx, conn, begin, s.cleaning)
	if err != nil {
		return err
	}
	if _, err := tx.open(ctx); err != nil {
		return err
	}
	err = s.reset(ctx, tx, processor, r, n, start, run)
	tx.ended = pgx.ErrTxClosed
	if err == nil {
		_, err = tx.commit(func(batch *pgx.Batch, start opening) { batch.Queue(s.in(unlessForeign), start.name).Fn = ofFence })
	}
	if err != nil && !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		// Now, not when the server notices that the connection is closed.
		const rollback = "rollback /* sluice */"
		tx.guard.own(func() {
			_, failed := conn.PgConn().Exec(ctx, rollback).ReadAll()
			err = errors.Join(err, failed)
		}, rollback)
	}
	return err
}

// resetSettings limit how long a transaction waits for a lock, works on a statement, and is idle;
// the latter two not at all where the limit is 0.
func resetSettings(limit time.Duration) []string {
	return []string{
		"pg_catalog.set_config('lock_timeout', '" + userLockTimeout + "', true)",
		fmt.Sprintf("pg_catalog.set_config('statement_timeout', '%d', true)", limit.Milliseconds()),
		fmt.Sprintf("pg_catalog.set_config('idle_in_transaction_session_timeout', '%d', true)", limit.Milliseconds()),
	}
}

// rewindLimit bounds each statement that moves tokens.
const rewindLimit = time.Minute

// unlessForeign fails in another transaction than the one that began with a mark.
const unlessForeign = `SELECT CASE WHEN pg_catalog.current_setting('sluice.batch', true) IS DISTINCT FROM $1 THEN {{schema}}.foreign_transaction() END`

// reset is what a reset does between the beginning and the commit.
func (s *Store) reset(ctx context.Context, tx *handlerTx, processor string, r tokenstore.Replay, n progress.Algebra, start progress.Progress, run tokenstore.ResetRun) error {
	own := tx.tx // which a handler cannot take from us
	var mine bool
	if err := own.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock("+lockOf+")", s.resetLock(r)).Scan(&mine); err != nil {
		return err
	}
	if !mine {
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "another worker carries the reset out"}
	}
	if err := s.stillDue(ctx, own, processor, r, ""); err != nil {
		return err
	}
	err := run.Handlers(ctx, tx)
	if err := tx.verdict(err); err != nil {
		return err
	}
	if _, err := own.Exec(ctx, "SELECT "+strings.Join(resetSettings(rewindLimit), ", ")); err != nil { // handlers may have changed them
		return err
	}
	// The lock makes whoever ends the reset meanwhile wait: either that is seen here, or it comes
	// after the commit.
	if err := s.stillDue(ctx, own, processor, r, "FOR NO KEY UPDATE"); err != nil {
		return err
	}
	return s.rewind(ctx, own, r, n, start)
}

// resetLock names the advisory lock of a replay's reset: whoever has it runs the handlers.
func (s *Store) resetLock(r tokenstore.Replay) string {
	return lockName(s.schema, "replay", fmt.Sprint(r.Number))
}

// MarkReset implements tokenstore.Resets. The caller has the reset's lock.
func (s *Store) MarkReset(ctx context.Context, r tokenstore.Replay, worker int64) (attempts, failures int, err error) {
	err = s.pool.QueryRow(ctx, s.in(`UPDATE {{schema}}.replay SET calling = $2, attempts = attempts + (calling <> 0)::int, failures = failures + (calling <> 0)::int
		WHERE number = $1 AND phase = 'Resetting' RETURNING attempts, failures`), r.Number, worker).Scan(&attempts, &failures)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "the reset has ended in the meantime"}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("marking the reset of replay %s: %w", r.ID, err)
	}
	return attempts, failures, nil
}

// UnmarkReset implements tokenstore.Resets.
func (s *Store) UnmarkReset(ctx context.Context, r tokenstore.Replay, worker int64, attempts, failures int) error {
	_, err := s.pool.Exec(ctx, s.in(`UPDATE {{schema}}.replay SET calling = CASE calling WHEN $2 THEN 0 ELSE calling END, attempts = attempts + $3, failures = failures + $4
		WHERE number = $1 AND phase = 'Resetting'`), r.Number, worker, attempts, failures)
	if err != nil {
		return fmt.Errorf("noting how the reset of replay %s ended: %w", r.ID, err)
	}
	return nil
}

// TerminateReset implements tokenstore.Resets.
func (s *Store) TerminateReset(ctx context.Context, r tokenstore.Replay) (bool, error) {
	n, err := terminateHolder(ctx, s.pool, s.resetLock(r))
	if err != nil {
		return false, fmt.Errorf("ending the reset of replay %s: %w", r.ID, err)
	}
	return n > 0, nil
}

// stillDue checks that the reset has begun, is wanted, and that nobody runs another definition.
func (s *Store) stillDue(ctx context.Context, tx pgx.Tx, processor string, r tokenstore.Replay, lock string) error {
	var phase tokenstore.ReplayPhase
	var state tokenstore.ReplayState
	err := tx.QueryRow(ctx, s.in(`SELECT phase, state FROM {{schema}}.replay WHERE number = $1 `+lock), r.Number).Scan(&phase, &state)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && phase != tokenstore.ReplayResetting:
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "the reset has ended in the meantime"}
	case err != nil:
		return err
	case state != tokenstore.ReplayWanted:
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayCancelledMeanwhile, Message: "cancelled before the reset"}
	}
	return s.agreed(ctx, tx, processor, r.Definition)
}

// rewind is the second half of a reset: after the user's rows, the tokens.
func (s *Store) rewind(ctx context.Context, tx pgx.Tx, r tokenstore.Replay, n progress.Algebra, start progress.Progress) error {
	tokens, err := s.lockGroups(ctx, tx, r.Groups)
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	var total int64
	for name, group := range byGroup(tokens) {
		before, err := s.boundariesOf(ctx, tx, name)
		if err != nil {
			return err
		}
		sequencing := cmp.Or(r.Sequencing[name], group[0].Sequencing)
		rewind, err := protocol.Resequenced(n, group, before, sequencing, r.From.Type, start)
		if err != nil {
			return fmt.Errorf("group %s: %w", name, err)
		}
		for _, t := range rewind.Tokens {
			s.queueMoved(batch, t)
		}
		s.queueBoundaries(batch, name, rewind.Boundaries)
		s.queueSequencing(batch, name, sequencing)
		total += rewind.Total
	}
	batch.Queue(s.in(`UPDATE {{schema}}.processing_group SET resetting = false WHERE tenant = $1 AND name = ANY ($2)`), tenant, r.Groups)
	batch.Queue(s.in(`UPDATE {{schema}}.replay SET phase = 'Replaying', reason = '', message = '', calling = 0, reset_at = clock_timestamp(), done = 0, total = $2
		WHERE number = $1`), r.Number, total)
	batch.Queue(`SELECT pg_notify($1, '')`, s.notify)
	return tx.SendBatch(ctx, batch).Close()
}

func byGroup(tokens []tokenstore.Token) map[string][]tokenstore.Token {
	groups := map[string][]tokenstore.Token{}
	for _, t := range tokens {
		groups[t.Group] = append(groups[t.Group], t)
	}
	return groups
}

// EndReset implements tokenstore.Resets.
func (s *Store) EndReset(ctx context.Context, r tokenstore.Replay, phase tokenstore.ReplayPhase, reason, message string) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, s.in(`UPDATE {{schema}}.replay SET phase = $2, reason = $3, message = $4, calling = 0,
			  ended_at = CASE WHEN $2 <> 'Pending' THEN clock_timestamp() END, attempts = CASE WHEN $2 <> 'Pending' THEN attempts ELSE 0 END,
			  failures = CASE WHEN $2 <> 'Pending' THEN failures ELSE 0 END
			WHERE number = $1 AND phase IN ('Pending', 'Resetting')`), r.Number, phase, reason, cut(message))
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, s.in(`UPDATE {{schema}}.processing_group SET replay = NULL, resetting = false WHERE tenant = $1 AND replay = $2`), tenant, r.Number)
		if err != nil {
			return err
		}
		return s.announce(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("ending the reset of replay %s: %w", r.ID, err)
	}
	return nil
}

// Explain implements tokenstore.Resets; it writes only what is news.
func (s *Store) Explain(ctx context.Context, r tokenstore.Replay, reason, message string) error {
	_, err := s.pool.Exec(ctx, s.in(`WITH changed AS (UPDATE {{schema}}.replay SET reason = $2, message = $3
		WHERE number = $1 AND phase IN ('Pending', 'Resetting') AND (reason, message) IS DISTINCT FROM ($2, $3) RETURNING processor)
		SELECT pg_notify($4, processor) FROM changed`), r.Number, reason, cut(message), s.notify)
	if err != nil {
		return fmt.Errorf("saying what replay %s waits for: %w", r.ID, err)
	}
	return nil
}

// cut keeps a message to what somebody reads.
func cut(message string) string {
	const longest = 2000
	if runes := []rune(message); len(runes) > longest {
		message = string(runes[:longest]) + "…"
	}
	return strings.ToValidUTF8(strings.ReplaceAll(message, "\x00", ""), "")
}

// unblock ends those of the blockers that are workers of this store: BeginReset has fenced their
// batches off.
func (s *Store) unblock(ctx context.Context, blockers []Blocker) error {
	pids := make([]int32, len(blockers))
	for i, b := range blockers {
		pids[i] = int32(b.PID)
	}
	if len(pids) == 0 {
		return nil
	}
	_, err := s.pool.Exec(ctx, s.in(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY ($1) AND usename = current_user
		AND datname = current_database() AND (starts_with(application_name, $2 || `+home+` || '/') OR starts_with(application_name, $3) AND `+onlyStore+`)`),
		pids, applicationPrefix, formerApplication)
	if err != nil {
		return fmt.Errorf("ending the connections of workers that block a reset: %w", err)
	}
	return nil
}
