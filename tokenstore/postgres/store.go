package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// tenant is the one tenant there is so far; the tables are ready for more.
const tenant = ""

// orphanedAfter is how long a processor without live workers and planner keeps its groups from being taken over.
const orphanedAfter = "60 s"

// Store is a tokenstore.Store in a schema of a PostgreSQL database.
type Store struct {
	pool   *pgxpool.Pool
	schema string // quoted
	notify string
}

var _ tokenstore.Store = (*Store)(nil)

// NewStore returns the token store in a schema which Migrate has brought up to date.
func NewStore(pool *pgxpool.Pool, schema string) *Store {
	return &Store{pool: pool, schema: quoted(schema), notify: Channel(schema)}
}

// Channel on which changes of plans, owners and what takes effect live are announced. Payloads name the processor.
func Channel(schema string) string {
	if schema == DefaultSchema {
		return "sluice"
	}
	return "sluice_control_" + schema
}

// in fills the schema's name in.
func (s *Store) in(sql string) string { return strings.ReplaceAll(sql, "{{schema}}", s.schema) }

// Declare implements tokenstore.Store. Where groups start is asked before the transaction: looking for it may take long, and would keep locks and an idle transaction meanwhile.
func (s *Store) Declare(ctx context.Context, processor string, groups []tokenstore.Group, requested []tokenstore.ReplayRequest,
	start func(string) (tokenstore.Progress, error)) error {
	starts := map[string]tokenstore.Progress{}
	for {
		if err := s.findStarts(ctx, groups, starts, start); err != nil {
			return err
		}
		err := s.declareAll(ctx, processor, groups, requested, starts)
		if !errors.Is(err, errNoStart) {
			return err
		}
	}
}

// errNoStart says that a group has lost its tokens since it was asked where groups start that have none.
var errNoStart = errors.New("a group has lost its tokens meanwhile")

// findStarts asks where those groups start that have no tokens.
func (s *Store) findStarts(ctx context.Context, groups []tokenstore.Group, starts map[string]tokenstore.Progress, start func(string) (tokenstore.Progress, error)) error {
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = g.Name
	}
	rows, err := s.pool.Query(ctx, s.in(`SELECT name FROM unnest($2::text[]) AS g (name)
		WHERE NOT EXISTS (SELECT FROM {{schema}}.token WHERE tenant = $1 AND group_name = g.name)`), tenant, names)
	if err != nil {
		return fmt.Errorf("looking for groups without tokens: %w", err)
	}
	without, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for groups without tokens: %w", err)
	}
	for _, name := range without {
		if _, known := starts[name]; known {
			continue
		}
		if starts[name], err = start(name); err != nil {
			return fmt.Errorf("finding where group %s starts: %w", name, err)
		}
	}
	return nil
}

func (s *Store) declareAll(ctx context.Context, processor string, groups []tokenstore.Group, requested []tokenstore.ReplayRequest, starts map[string]tokenstore.Progress) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		names := make([]string, len(groups))
		var made []string
		for i, g := range groups {
			names[i] = g.Name
			created, err := s.declare(ctx, tx, processor, g, requested, starts)
			if err != nil {
				return err
			}
			if created {
				made = append(made, g.Name)
			}
		}
		if err := s.supersede(ctx, tx, processor, made, requested); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, s.in(`UPDATE {{schema}}.processing_group SET retired_at = clock_timestamp()
			WHERE tenant = $1 AND processor = $2 AND retired_at IS NULL AND name <> ALL ($3)`), tenant, processor, names)
		if err != nil {
			return fmt.Errorf("retiring groups of %s: %w", processor, err)
		}
		return nil
	})
}

// declare makes one group the processor's and reports whether it created its tokens.
func (s *Store) declare(ctx context.Context, tx pgx.Tx, processor string, g tokenstore.Group, requested []tokenstore.ReplayRequest,
	starts map[string]tokenstore.Progress) (bool, error) {
	var owner, sequencing string
	var floor int64
	policy, hash := policyAndHash(g.Sequencing)
	err := tx.QueryRow(ctx, s.in(`
		INSERT INTO {{schema}}.processing_group AS g (tenant, name, processor, segments, sequencing, hash) VALUES ($1, $2, $3, $4, $6, $7)
		ON CONFLICT (tenant, name) DO UPDATE SET segments = excluded.segments, retired_at = NULL, processor = CASE
		  WHEN g.retired_at IS NOT NULL OR NOT EXISTS (
		    SELECT FROM {{schema}}.processor p WHERE p.name = g.processor AND p.plan_renewed_at > clock_timestamp() - $5::interval
		  ) AND NOT EXISTS (
		    SELECT FROM {{schema}}.worker w WHERE w.processor = g.processor AND w.state <> 'Ended' AND w.lease_until > clock_timestamp() - $5::interval
		  ) THEN excluded.processor ELSE g.processor END
		RETURNING processor, epoch_floor, sequencing || '/' || hash`), tenant, g.Name, processor, g.Segments, orphanedAfter, policy, hash).Scan(&owner, &floor, &sequencing)
	if err != nil {
		return false, fmt.Errorf("declaring group %s: %w", g.Name, err)
	}
	if owner != processor {
		return false, &tokenstore.GroupConflictError{Group: g.Name, Owner: owner}
	}
	var there bool
	err = tx.QueryRow(ctx, s.in(`SELECT EXISTS (SELECT FROM {{schema}}.token WHERE tenant = $1 AND group_name = $2)`), tenant, g.Name).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("looking for the tokens of group %s: %w", g.Name, err)
	}
	if err := s.agreeSequencing(ctx, tx, processor, g, sequencing, there, requested); err != nil || there {
		return false, err
	}
	layout, err := segment.Layout(g.Segments)
	if err != nil {
		return false, fmt.Errorf("group %s: %w", g.Name, err)
	}
	progress, found := starts[g.Name]
	if !found {
		return false, errNoStart
	}
	ids, masks := columns(layout)
	_, err = tx.Exec(ctx, s.in(`INSERT INTO {{schema}}.token (tenant, group_name, segment, mask, position, snapshot, epoch, version)
		SELECT $1, $2, id, mask, $5, $6, $7, $7 FROM unnest($3::integer[], $4::integer[]) AS l (id, mask)`),
		tenant, g.Name, ids, masks, progress.Position, progress.Snapshot, floor+1)
	if err != nil {
		return false, fmt.Errorf("making the tokens of group %s: %w", g.Name, err)
	}
	return true, nil
}

func columns(layout []segment.Segment) (ids, masks []int32) {
	for _, s := range layout {
		ids, masks = append(ids, int32(s.ID)), append(masks, int32(s.Mask))
	}
	return ids, masks
}

// Drop implements tokenstore.Store.
func (s *Store) Drop(ctx context.Context, processor string) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, s.in(`UPDATE {{schema}}.processing_group g SET retired_at = coalesce(retired_at, clock_timestamp()),
			epoch_floor = greatest(epoch_floor, (SELECT max(greatest(epoch, version)) FROM {{schema}}.token t WHERE t.tenant = g.tenant AND t.group_name = g.name))
			WHERE tenant = $1 AND processor = $2`), tenant, processor)
		if err != nil {
			return fmt.Errorf("retiring the groups of %s: %w", processor, err)
		}
		if err := s.dropReplays(ctx, tx, processor); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.in(`DELETE FROM {{schema}}.token t USING {{schema}}.processing_group g
			WHERE g.tenant = $1 AND g.processor = $2 AND t.tenant = g.tenant AND t.group_name = g.name`), tenant, processor)
		if err != nil {
			return fmt.Errorf("deleting the tokens of %s: %w", processor, err)
		}
		return nil
	})
}

// Groups implements tokenstore.Store.
func (s *Store) Groups(ctx context.Context, processor string) ([]tokenstore.Group, error) {
	rows, err := s.pool.Query(ctx, s.in(`SELECT name, segments, sequencing || '/' || hash, incomplete IS NOT NULL FROM {{schema}}.processing_group
		WHERE tenant = $1 AND processor = $2 AND retired_at IS NULL ORDER BY name`), tenant, processor)
	if err != nil {
		return nil, fmt.Errorf("reading the groups of %s: %w", processor, err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[tokenstore.Group])
}

// fenced turns the SQLSTATEs of the fencing check into tokenstore.ErrFenced and tokenstore.ErrManagedTransaction.
func fenced(err error) error {
	var pg *pgconn.PgError
	switch {
	case !errors.As(err, &pg):
		return err
	case pg.Code == "SL001":
		return fmt.Errorf("%w (%s)", tokenstore.ErrFenced, pg.Message)
	case pg.Code == "SL004":
		return fmt.Errorf("%w (%s)", tokenstore.ErrManagedTransaction, pg.Message)
	}
	return err
}
