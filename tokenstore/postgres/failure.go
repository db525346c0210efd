package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// Failures implements tokenstore.Store.
func (s *Store) Failures(ctx context.Context, processor string) ([]tokenstore.Failure, error) {
	return s.failuresWhere(ctx, processor, `f.attempts > 0`)
}

// Attempts implements tokenstore.Store.
func (s *Store) Attempts(ctx context.Context, processor string) ([]tokenstore.Failure, error) {
	return s.failuresWhere(ctx, processor, `true`)
}

func (s *Store) failuresWhere(ctx context.Context, processor, condition string) ([]tokenstore.Failure, error) {
	rows, err := s.pool.Query(ctx, s.in(`SELECT f.group_name, f.segment, f.position, f.attempts, f.retry_at, f.failed_at, f.since,
		  f.message, f.reason, f.event_type, f.stream, f.sql, f.tried, f.calling, coalesce(f.last_position, f.position), f.event_mark
		FROM {{schema}}.failure f JOIN {{schema}}.processing_group g ON g.tenant = f.tenant AND g.name = f.group_name
		WHERE f.tenant = $1 AND g.processor = $2 AND `+condition+` ORDER BY 1, 2`), tenant, processor)
	if err != nil {
		return nil, fmt.Errorf("reading the failures of %s: %w", processor, err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f tokenstore.Failure, err error) {
		var mark int64
		err = row.Scan(&f.Group, &f.Segment, &f.Position, &f.Attempts, &f.RetryAt, &f.FailedAt, &f.Since,
			&f.Message, &f.Reason, &f.Type, &f.Stream, &f.SQL, &f.Tried, &f.Calling, &f.Last, &mark)
		f.EventMark = uint64(mark)
		return f, err
	})
}

// mine is the token of a key where it still has the caller's epoch and version. It is locked
// against whoever takes it from its owner, and clears its failure, at this moment.
const mine = `mine AS (SELECT tenant, group_name, segment FROM {{schema}}.token
	WHERE tenant = $1 AND group_name = $2 AND segment = $3 AND epoch = $4 AND version = $5 FOR NO KEY UPDATE)`

// Fail implements tokenstore.Store.
func (s *Store) Fail(ctx context.Context, epoch, version int64, f tokenstore.Failure, retryIn time.Duration) error {
	tag, err := s.pool.Exec(ctx, s.in(`WITH `+mine+`
		INSERT INTO {{schema}}.failure AS f
		  (tenant, group_name, segment, position, attempts, retry_at, message, reason, event_type, stream, sql, tried, event_mark)
		SELECT tenant, group_name, segment, $6, $7, clock_timestamp() + $8::interval, $9, $10, $11, $12, $13, coalesce($14::bigint[], '{}'), $15 FROM mine
		ON CONFLICT (tenant, group_name, segment) DO UPDATE SET position = excluded.position, attempts = excluded.attempts,
		  retry_at = excluded.retry_at, failed_at = excluded.failed_at, message = excluded.message, reason = excluded.reason,
		  event_type = excluded.event_type, stream = excluded.stream, sql = excluded.sql, tried = excluded.tried, calling = false, last_position = NULL,
		  event_mark = excluded.event_mark,
		  since = CASE WHEN f.position = excluded.position AND f.attempts > 0 THEN f.since ELSE excluded.since END`),
		tenant, f.Group, f.Segment, epoch, version, f.Position, f.Attempts, retryIn, cut(f.Message), f.Reason, cut(f.Type), cut(f.Stream), f.SQL, f.Tried, int64(f.EventMark))
	if err != nil {
		return fmt.Errorf("recording the failure of segment %d of %s: %w", f.Segment, f.Group, err)
	}
	if tag.RowsAffected() == 0 {
		return tokenstore.ErrFenced
	}
	return nil
}

// Mark implements tokenstore.Store.
func (s *Store) Mark(ctx context.Context, epoch, version int64, m tokenstore.Failure) error {
	tag, err := s.pool.Exec(ctx, s.in(`WITH `+mine+`
		INSERT INTO {{schema}}.failure AS f
		  (tenant, group_name, segment, position, last_position, calling, attempts, retry_at, message, event_type, stream, event_mark)
		SELECT tenant, group_name, segment, $6, $7, $8, 0, clock_timestamp(), '', $9, $10, $11 FROM mine
		ON CONFLICT (tenant, group_name, segment) DO UPDATE SET position = excluded.position, last_position = excluded.last_position,
		  calling = excluded.calling, event_type = excluded.event_type, stream = excluded.stream, event_mark = excluded.event_mark,
		  attempts = CASE WHEN f.position = excluded.position THEN f.attempts ELSE 0 END,
		  message  = CASE WHEN f.position = excluded.position THEN f.message ELSE '' END,
		  reason   = CASE WHEN f.position = excluded.position THEN f.reason ELSE '' END,
		  sql      = CASE WHEN f.position = excluded.position THEN f.sql END,
		  tried    = CASE WHEN f.position = excluded.position THEN f.tried ELSE '{}' END,
		  since    = CASE WHEN f.position = excluded.position THEN f.since ELSE excluded.since END`),
		tenant, m.Group, m.Segment, epoch, version, m.Position, m.Last, m.Calling, cut(m.Type), cut(m.Stream), int64(m.EventMark))
	if err != nil {
		return fmt.Errorf("marking a call for segment %d of %s: %w", m.Segment, m.Group, err)
	}
	if tag.RowsAffected() == 0 {
		return tokenstore.ErrFenced
	}
	return nil
}
