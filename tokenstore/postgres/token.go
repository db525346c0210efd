package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

const tokenColumns = `t.group_name, t.segment, t.mask, t.position, t.snapshot, t.generation, t.epoch, t.version, t.owner,
	CASE WHEN g.resetting THEN 9223372036854775807 ELSE g.min_definition END, g.sequencing || '/' || g.hash, p.part_segment, p.part_mask, p.position, p.snapshot`

const joinParts = `JOIN {{schema}}.processing_group g ON g.tenant = t.tenant AND g.name = t.group_name
	LEFT JOIN {{schema}}.token_part p ON p.tenant = t.tenant AND p.group_name = t.group_name AND p.segment = t.segment`

// Tokens implements tokenstore.Store.
func (s *Store) Tokens(ctx context.Context, processor string) ([]tokenstore.Token, error) {
	rows, err := s.pool.Query(ctx, s.in(`SELECT `+tokenColumns+` FROM {{schema}}.token t `+joinParts+`
		WHERE g.tenant = $1 AND g.processor = $2 AND g.retired_at IS NULL
		ORDER BY t.group_name, t.segment, p.part_segment`), tenant, processor)
	if err != nil {
		return nil, fmt.Errorf("reading the tokens of %s: %w", processor, err)
	}
	return collect(rows)
}

// Claim implements tokenstore.Store. Rows are locked in the order of their keys, like everywhere.
//
// What was claimed is read by a statement of its own, in the same transaction: one that waits for no lock, but begins while the former owner's write is being committed, locks the
// new row of the token and sees the parts that went with the old one.
func (s *Store) Claim(ctx context.Context, processor string, worker, definition int64, claims []tokenstore.Claim) ([]tokenstore.Token, error) {
	groups, segments, epochs, sequencings := make([]string, len(claims)), make([]int32, len(claims)), make([]int64, len(claims)), make([]string, len(claims))
	for i, c := range claims {
		groups[i], segments[i], epochs[i], sequencings[i] = c.Group, int32(c.Segment), c.Epoch, orPerStream(c.Sequencing)
	}
	batch := &pgx.Batch{} // is one transaction
	batch.Queue(s.in(`
		WITH free AS MATERIALIZED (
		  SELECT t.tenant, t.group_name, t.segment, t.owner FROM {{schema}}.token t
		    JOIN unnest($4::text[], $5::integer[], $6::bigint[], $9::text[]) AS c (group_name, segment, epoch, sequencing) USING (group_name, segment, epoch)
		    JOIN {{schema}}.processing_group g ON g.tenant = t.tenant AND g.name = t.group_name
		   WHERE t.tenant = $1 AND g.processor = $2 AND g.retired_at IS NULL AND g.min_definition <= $7 AND NOT g.resetting
		     AND g.sequencing || '/' || g.hash = c.sequencing
		   ORDER BY t.group_name, t.segment FOR NO KEY UPDATE OF t SKIP LOCKED
		), claimed AS (
		  UPDATE {{schema}}.token t SET epoch = t.epoch + 1, version = t.version + 1, owner = $3
		    FROM free WHERE t.tenant = free.tenant AND t.group_name = free.group_name AND t.segment = free.segment
		), dead AS ( -- whose segments are taken from them: in a rollout a failure of their definition, while it is not proven
		  UPDATE {{schema}}.worker w SET blamed = true FROM (SELECT DISTINCT owner FROM free) AS f
		   WHERE w.incarnation = f.owner AND f.owner <> $3 AND w.processor = $2 AND NOT w.blamed AND w.state = 'Active' AND w.leaving_since IS NULL
		     AND EXISTS (SELECT FROM {{schema}}.worker o WHERE o.processor = $2 AND o.definition <> w.definition AND o.state = 'Active' AND o.lease_until > clock_timestamp())
		  RETURNING w.definition
		), blamed AS (
		  UPDATE {{schema}}.definition d SET failures = d.failures + n,
		    quarantined_at = CASE WHEN d.failures + n >= $8 THEN clock_timestamp() END
		   FROM (SELECT definition, count(*)::integer AS n FROM dead GROUP BY 1) AS b
		   WHERE d.processor = $2 AND d.id = b.definition AND d.proven_at IS NULL
		)
		SELECT`),
		tenant, processor, worker, groups, segments, epochs, definition, tokenstore.QuarantineAfter, sequencings)
	batch.Queue(s.in(`SELECT `+tokenColumns+` FROM {{schema}}.token t `+joinParts+`
		WHERE g.tenant = $1 AND g.processor = $2 AND t.owner = $3 AND t.xmin = pg_current_xact_id_if_assigned()::xid
		ORDER BY t.group_name, t.segment, p.part_segment`), tenant, processor, worker)
	tokens, err := s.claimed(ctx, batch)
	if err != nil {
		return nil, fmt.Errorf("claiming %d segments of %s: %w", len(claims), processor, err)
	}
	return tokens, nil
}

// claimed sends the two statements of a claim, and returns its tokens once it has committed.
func (s *Store) claimed(ctx context.Context, batch *pgx.Batch) (tokens []tokenstore.Token, err error) {
	results := s.pool.SendBatch(ctx, batch)
	defer func() {
		if closed := results.Close(); err == nil {
			err = closed
		}
	}()
	if _, err := results.Exec(); err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	return collect(rows)
}

// Advance implements tokenstore.Store.
func (s *Store) Advance(ctx context.Context, advances []tokenstore.Advance) error {
	return s.pipeline(ctx, advances, openingOf(advances), func(*pgx.Batch) error { return nil })
}

// Pipeline implements tokenstore.Commits. The statements are a *pgx.Batch.
func (s *Store) Pipeline(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return s.pipeline(ctx, advances, openingOf(advances), func(batch *pgx.Batch) error { return queue(batch) })
}

// Queue implements tokenstore.Commits. The statements are a *pgx.Batch.
func (s *Store) Queue(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return s.pipeline(ctx, advances, openingOf(advances).marked(deferrable), func(batch *pgx.Batch) error {
		if err := queue(batch); err != nil {
			return err
		}
		looked := ""
		for _, statement := range batch.QueuedQueries {
			if statement.SQL == looked { // mostly the same string, which takes no time to compare
				continue
			}
			if command := s.controls.in(statement.SQL); command != "" {
				return managed(command)
			}
			looked = statement.SQL
		}
		return nil
	})
}

func (s *Store) pipeline(ctx context.Context, advances []tokenstore.Advance, start opening, queue func(*pgx.Batch) error) error {
	users := &pgx.Batch{}
	if err := queue(users); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	if users.Len() == 0 {
		start = start.marked(unmarked)
		start.queue(batch)
		s.queueFence(batch, advances, start)
		return s.pool.SendBatch(ctx, batch).Close() // which are one transaction
	}
	batch.Queue(start.begin())
	start.queue(batch)
	batch.QueuedQueries = append(batch.QueuedQueries, users.QueuedQueries...)
	s.queueFence(batch, advances, start)
	appended := false
	err := s.withConn(ctx, func(conn *pgxpool.Conn) error {
		guard, err := guardOf(conn.Conn())
		if err != nil {
			return err
		}
		if start.mark != unmarked {
			guard.hold()
		}
		appended, err = commitWith(ctx, conn.Conn(), guard, batch, s.cleaning)
		if refused := guard.refusal(); refused != nil {
			err = refused
		}
		takeBack(ctx, conn.Conn(), guard, s.cleaning, err)
		return err
	})
	return s.committed(err, appended)
}

// committed is the end of a batch.
func (s *Store) committed(err error, appended bool) error {
	if err == nil && appended {
		s.onAppend()
	}
	return err
}

// InTx implements tokenstore.Commits. The transaction is a pgx.Tx.
func (s *Store) InTx(ctx context.Context, advances []tokenstore.Advance, work func(tokenstore.Tx) error) error {
	appended := false
	err := s.withConn(ctx, func(conn *pgxpool.Conn) (err error) {
		tx, err := newHandlerTx(ctx, conn.Conn(), openingOf(advances).marked(named).limited(ctx), s.cleaning)
		if err != nil {
			return err
		}
		err = errUnfinished // for a handler that does not return
		defer func() { tx.end(err) }()
		if err = tx.verdict(work(tx)); err != nil {
			return err
		}
		appended, err = tx.commit(func(batch *pgx.Batch, start opening) { s.queueFence(batch, advances, start) })
		return err
	})
	return s.committed(err, appended)
}

// withConn gives work a connection.
func (s *Store) withConn(ctx context.Context, work func(*pgxpool.Conn) error) error {
	conn, err := s.batches.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", tokenstore.ErrNoConnection, err)
	}
	defer conn.Release()
	return work(conn)
}

// queueFence adds the statements that move the tokens, after everything else.
func (s *Store) queueFence(batch *pgx.Batch, advances []tokenstore.Advance, start opening) {
	n := len(advances)
	groups, segments, snapshots := make([]string, n), make([]int32, n), make([]string, n)
	epochs, versions, positions, release := make([]int64, n), make([]int64, n), make([]int64, n), make([]bool, n)
	released := false
	for i, a := range advances {
		first := protocol.Lowest(a.Parts)
		groups[i], segments[i], epochs[i], versions[i] = a.Group, int32(a.Segment), a.Epoch, a.Version
		positions[i], snapshots[i], release[i] = first.Position, first.State, a.Release
		released = released || a.Release
	}
	arguments := []any{tenant, groups, segments, epochs, versions, positions, snapshots, release}
	if start.mark == named {
		arguments = append(arguments, start.name)
	}
	batch.Queue(s.in(fenceOf(advances, start.mark)), arguments...).Fn = ofFence
	for _, a := range advances {
		if a.WasParted || len(a.Parts) > 1 {
			s.queueParts(batch, a.Key, a.Parts)
		}
		if a.Recovers {
			batch.Queue(s.in(`DELETE FROM {{schema}}.failure WHERE tenant = $1 AND group_name = $2 AND segment = $3`), tenant, a.Group, a.Segment)
		}
	}
	if released {
		batch.Queue(`SELECT pg_notify($1, '')`, s.notify)
	}
}

// queueParts writes the parts of a token whose row this transaction has locked.
func (s *Store) queueParts(batch *pgx.Batch, key tokenstore.Key, parts []progress.Part) {
	batch.Queue(s.in(`DELETE FROM {{schema}}.token_part WHERE tenant = $1 AND group_name = $2 AND segment = $3`), tenant, key.Group, key.Segment)
	if len(parts) == 1 {
		return
	}
	for _, p := range parts {
		batch.Queue(s.in(`INSERT INTO {{schema}}.token_part (tenant, group_name, segment, part_segment, part_mask, position, snapshot)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`), tenant, key.Group, key.Segment, p.Segment.ID, p.Segment.Mask, p.Progress.Position, p.Progress.State)
	}
}

// collect reads tokens, one row a part, ordered by key.
func collect(rows pgx.Rows) ([]tokenstore.Token, error) {
	defer rows.Close()
	var tokens []tokenstore.Token
	for rows.Next() {
		var t tokenstore.Token
		var whole progress.Progress
		var partID, partMask *uint32
		var position *int64
		var snapshot *string
		err := rows.Scan(&t.Group, &t.Segment, &t.Mask, &whole.Position, &whole.State, &t.Generation, &t.Epoch, &t.Version, &t.Owner, &t.Least, &t.Sequencing,
			&partID, &partMask, &position, &snapshot)
		if err != nil {
			return nil, err
		}
		part := progress.Part{Segment: t.Range(), Progress: whole}
		if partID != nil {
			part = progress.Part{Segment: segment.Segment{ID: *partID, Mask: *partMask}, Progress: progress.Progress{Position: *position, State: *snapshot}}
		}
		if n := len(tokens); n > 0 && tokens[n-1].Key == t.Key {
			tokens[n-1].Parts = append(tokens[n-1].Parts, part)
			continue
		}
		t.Parts = []progress.Part{part}
		tokens = append(tokens, t)
	}
	return tokens, rows.Err()
}
