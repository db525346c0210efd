package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Split implements tokenstore.Store.
func (s *Store) Split(ctx context.Context, group string, whole segment.Segment) error {
	err := s.reshape(ctx, group, []segment.Segment{whole}, func(tokens []tokenstore.Token, batch *pgx.Batch) error {
		low, high, err := protocol.Halves(tokens[0])
		if err != nil {
			return err
		}
		s.queuePut(batch, low)
		s.queuePut(batch, high)
		s.queueBoth(batch, low.Key, high.Key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("splitting segment %s of %s: %w", whole, group, err)
	}
	return nil
}

// Merge implements tokenstore.Store.
func (s *Store) Merge(ctx context.Context, group string, half segment.Segment) error {
	low, high := half.Pair()
	err := s.reshape(ctx, group, []segment.Segment{low, high}, func(tokens []tokenstore.Token, batch *pgx.Batch) error {
		s.queueFirst(batch, group, low, high)
		batch.Queue(s.in(`DELETE FROM {{schema}}.token WHERE tenant = $1 AND group_name = $2 AND segment = $3`), tenant, group, high.ID)
		s.queuePut(batch, protocol.Whole(tokens[0], tokens[1]))
		return nil
	})
	if err != nil {
		return fmt.Errorf("merging segments %s and %s of %s: %w", low, high, group, err)
	}
	return nil
}

// reshape locks the tokens of segments, given in the order of their ids, and writes what is made of them: one transaction of two round
// trips, since a group may have thousands. It announces nothing: the plan that gives what was made an owner does, and many steps go
// before it. ErrLayoutChanged when one is not there as such.
func (s *Store) reshape(ctx context.Context, group string, segments []segment.Segment, change func([]tokenstore.Token, *pgx.Batch) error) error {
	return withConn(ctx, s.pool, func(conn *pgxpool.Conn) error {
		var tokens []tokenstore.Token
		ids, masks := columns(segments)
		begin := &pgx.Batch{}
		begin.Queue(`BEGIN`)
		begin.Queue(s.in(`SELECT FROM {{schema}}.token t WHERE tenant = $1 AND group_name = $2 AND segment = ANY ($3) ORDER BY segment FOR UPDATE`), tenant, group, ids)
		begin.Queue(s.in(`SELECT `+tokenColumns+` FROM {{schema}}.token t JOIN unnest($3::integer[], $4::integer[]) AS l (segment, mask) USING (segment, mask) `+joinParts+`
			WHERE t.tenant = $1 AND t.group_name = $2 ORDER BY t.segment, p.part_segment`), tenant, group, ids, masks).
			Query(func(rows pgx.Rows) (err error) {
				tokens, err = collect(rows)
				return err
			})
		if err := conn.SendBatch(ctx, begin).Close(); err != nil {
			return err
		}
		if len(tokens) != len(segments) {
			return tokenstore.ErrLayoutChanged
		}
		end := &pgx.Batch{}
		if err := change(tokens, end); err != nil {
			return err
		}
		end.Queue(`COMMIT`)
		return conn.SendBatch(ctx, end).Close()
	})
}

// queueBoth gives the failure of a segment that has been split, whose id the low half has, to the
// high half as well: of which half the event is, is not known here. The other half forgets it with
// its next batch.
func (s *Store) queueBoth(batch *pgx.Batch, low, high tokenstore.Key) {
	batch.Queue(s.in(`INSERT INTO {{schema}}.failure
		SELECT (jsonb_populate_record(f, jsonb_build_object('segment', $4::integer))).* FROM {{schema}}.failure f
		WHERE tenant = $1 AND group_name = $2 AND segment = $3`), tenant, low.Group, low.Segment, high.Segment)
}

// queueFirst gives the low half, whose id the whole has, the failure of both halves that
// protocol.FirstFailure chooses.
func (s *Store) queueFirst(batch *pgx.Batch, group string, low, high segment.Segment) {
	batch.Queue(s.in(`DELETE FROM {{schema}}.failure WHERE tenant = $1 AND group_name = $2 AND segment = (
		  SELECT segment FROM {{schema}}.failure WHERE tenant = $1 AND group_name = $2 AND segment IN ($3, $4)
		  ORDER BY position, attempts DESC, segment OFFSET 1)`), tenant, group, low.ID, high.ID)
	batch.Queue(s.in(`UPDATE {{schema}}.failure SET segment = $3 WHERE tenant = $1 AND group_name = $2 AND segment = $4`), tenant, group, low.ID, high.ID)
}

// queueMoved writes a token that has moved, without an owner. What failed before is forgotten.
func (s *Store) queueMoved(batch *pgx.Batch, t tokenstore.Token) {
	s.queuePut(batch, t)
	batch.Queue(s.in(`DELETE FROM {{schema}}.failure WHERE tenant = $1 AND group_name = $2 AND segment = $3`), tenant, t.Group, t.Segment)
}

// queuePut writes a token whole, without an owner.
func (s *Store) queuePut(batch *pgx.Batch, t tokenstore.Token) {
	first := protocol.Lowest(t.Parts)
	batch.Queue(s.in(`INSERT INTO {{schema}}.token AS t (tenant, group_name, segment, mask, position, snapshot, generation, epoch, version, owner)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0)
		ON CONFLICT (tenant, group_name, segment) DO UPDATE SET mask = excluded.mask, position = excluded.position, snapshot = excluded.snapshot,
		  generation = excluded.generation, epoch = excluded.epoch, version = excluded.version, owner = 0`),
		tenant, t.Group, t.Segment, t.Mask, first.Position, first.State, t.Generation, t.Epoch, t.Version)
	s.queueParts(batch, t.Key, t.Parts)
}

func (s *Store) announce(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SELECT pg_notify($1, '')`, s.notify); err != nil {
		return fmt.Errorf("announcing a change: %w", err)
	}
	return nil
}
