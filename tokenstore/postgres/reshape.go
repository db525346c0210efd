package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Split implements tokenstore.Store.
func (s *Store) Split(ctx context.Context, group string, whole segment.Segment) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tokens, err := s.lock(ctx, tx, group, whole)
		if err != nil {
			return fmt.Errorf("splitting segment %s of %s: %w", whole, group, err)
		}
		low, high, err := protocol.Halves(tokens[0])
		if err != nil {
			return err
		}
		for _, half := range []tokenstore.Token{low, high} {
			if err := s.put(ctx, tx, half); err != nil {
				return fmt.Errorf("splitting segment %s of %s: %w", whole, group, err)
			}
		}
		return s.announce(ctx, tx)
	})
}

// Merge implements tokenstore.Store.
func (s *Store) Merge(ctx context.Context, group string, half segment.Segment) error {
	low, high := half.Pair()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tokens, err := s.lock(ctx, tx, group, low, high)
		if err != nil {
			return fmt.Errorf("merging segments %s and %s of %s: %w", low, high, group, err)
		}
		_, err = tx.Exec(ctx, s.in(`DELETE FROM {{schema}}.token WHERE tenant = $1 AND group_name = $2 AND segment = $3`), tenant, group, high.ID)
		if err == nil {
			err = s.put(ctx, tx, protocol.Whole(tokens[0], tokens[1]))
		}
		if err != nil {
			return fmt.Errorf("merging segments %s and %s of %s: %w", low, high, group, err)
		}
		return s.announce(ctx, tx)
	})
}

// lock locks the tokens of segments given in the order of their ids; ErrLayoutChanged when one is not there as such.
func (s *Store) lock(ctx context.Context, tx pgx.Tx, group string, segments ...segment.Segment) ([]tokenstore.Token, error) {
	ids, masks := columns(segments)
	_, err := tx.Exec(ctx, s.in(`SELECT FROM {{schema}}.token t WHERE tenant = $1 AND group_name = $2 AND segment = ANY ($3) ORDER BY segment FOR UPDATE`), tenant, group, ids)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, s.in(`SELECT `+tokenColumns+` FROM {{schema}}.token t JOIN unnest($3::integer[], $4::integer[]) AS l (segment, mask) USING (segment, mask) `+joinParts+`
		WHERE t.tenant = $1 AND t.group_name = $2 ORDER BY t.segment, p.part_segment`), tenant, group, ids, masks)
	if err != nil {
		return nil, err
	}
	tokens, err := collect(rows)
	if err != nil {
		return nil, err
	}
	if len(tokens) != len(segments) {
		return nil, tokenstore.ErrLayoutChanged
	}
	return tokens, nil
}

// put writes a token whole, without an owner. What failed before is tried anew: its half may be another one now.
func (s *Store) put(ctx context.Context, tx pgx.Tx, t tokenstore.Token) error {
	batch := &pgx.Batch{}
	s.queuePut(batch, t)
	return tx.SendBatch(ctx, batch).Close()
}

func (s *Store) queuePut(batch *pgx.Batch, t tokenstore.Token) {
	first := protocol.Lowest(t.Parts)
	batch.Queue(s.in(`INSERT INTO {{schema}}.token AS t (tenant, group_name, segment, mask, position, snapshot, generation, epoch, version, owner)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0)
		ON CONFLICT (tenant, group_name, segment) DO UPDATE SET mask = excluded.mask, position = excluded.position, snapshot = excluded.snapshot,
		  generation = excluded.generation, epoch = excluded.epoch, version = excluded.version, owner = 0`),
		tenant, t.Group, t.Segment, t.Mask, first.Position, first.Snapshot, t.Generation, t.Epoch, t.Version)
	batch.Queue(s.in(`DELETE FROM {{schema}}.failure WHERE tenant = $1 AND group_name = $2 AND segment = $3`), tenant, t.Group, t.Segment)
	s.queueParts(batch, t.Key, t.Parts)
}

func (s *Store) announce(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SELECT pg_notify($1, '')`, s.notify); err != nil {
		return fmt.Errorf("announcing a change: %w", err)
	}
	return nil
}
