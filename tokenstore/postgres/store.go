package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// tenant is the one tenant there is so far; the tables are ready for more.
const tenant = ""

// Store is a tokenstore.Store in a schema of a PostgreSQL database.
type Store struct {
	Errors

	pool    *pgxpool.Pool
	batches *pgxpool.Pool // of the connections that users' code gets

	schema string // quoted
	notify string

	cleaning string // of a session
	onAppend func() // called after batches that have added events
	controls controls
}

var (
	_ tokenstore.Store   = (*Store)(nil)
	_ tokenstore.Commits = (*Store)(nil)
)

// NewStore returns the token store in a schema which Migrate has brought up to date.
func NewStore(pool *pgxpool.Pool, schema string) *Store {
	return NewStoreWithBatches(pool, pool, schema)
}

// NewStoreWithBatches returns a token store that gives users' code connections of a pool of their
// own. A handler that keeps such a connection cannot use it after its batch: nothing but batches
// has connections of that pool, and between batches they refuse to send anything.
func NewStoreWithBatches(pool, batches *pgxpool.Pool, schema string) *Store {
	s := &Store{pool: pool, batches: batches, schema: quoted(schema), notify: Channel(schema), onAppend: func() {}}
	s.cleaning = s.in(cleaning)
	return s
}

// OnAppend has the store call a function after each batch that has added events to the schema's
// event table. It may also be called after batches that have not, within seconds of one that has.
func (s *Store) OnAppend(call func()) { s.onAppend = call }

// in fills the schema's name in.
func (s *Store) in(sql string) string { return strings.ReplaceAll(sql, "{{schema}}", s.schema) }

// Declare implements tokenstore.Store. Where groups start is asked before the transaction: looking
// for it may take long, and would keep locks and an idle transaction meanwhile.
func (s *Store) Declare(ctx context.Context, owner tokenstore.Owner, groups []tokenstore.Group, requested []tokenstore.ReplayRequest,
	start func(string) (progress.Progress, error)) error {
	starts := map[string]progress.Progress{}
	for {
		if err := s.findStarts(ctx, groups, starts, start); err != nil {
			return err
		}
		err := s.declareAll(ctx, owner, groups, requested, starts)
		if !errors.Is(err, errNoStart) {
			return err
		}
	}
}

// errNoStart says that a group has lost its tokens since it was asked where groups start that have
// none.
var errNoStart = errors.New("a group has lost its tokens meanwhile")

// findStarts asks where those groups start that have no tokens.
func (s *Store) findStarts(ctx context.Context, groups []tokenstore.Group, starts map[string]progress.Progress, start func(string) (progress.Progress, error)) error {
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

func (s *Store) declareAll(ctx context.Context, owner tokenstore.Owner, groups []tokenstore.Group, requested []tokenstore.ReplayRequest, starts map[string]progress.Progress) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.own(ctx, tx, owner, groups); err != nil {
			return err
		}
		names := make([]string, len(groups))
		var made []string
		for i, g := range groups {
			names[i] = g.Name
			created, err := s.declare(ctx, tx, owner.Processor, g, requested, starts)
			if err != nil {
				return err
			}
			if created {
				made = append(made, g.Name)
			}
		}
		if err := s.supersede(ctx, tx, owner.Processor, made, requested); err != nil {
			return err
		}
		// All that a processor has or had is of one installation.
		_, err := tx.Exec(ctx, s.in(`UPDATE {{schema}}.processing_group SET retired_at = coalesce(retired_at, clock_timestamp()), installation = $4
			WHERE tenant = $1 AND processor = $2 AND (retired_at IS NULL OR installation <> $4) AND name <> ALL ($3)`), tenant, owner.Processor, names, owner.Installation)
		if err != nil {
			return fmt.Errorf("retiring groups of %s: %w", owner.Processor, err)
		}
		return nil
	})
}

// own makes groups the owner's, those too that are there only now, or says who has one of them, or
// the processor's name. Those that it takes from somebody else are fenced.
func (s *Store) own(ctx context.Context, tx pgx.Tx, owner tokenstore.Owner, groups []tokenstore.Group) error {
	n := len(groups)
	names, segments, policies, hashes := make([]string, n), make([]int32, n), make([]string, n), make([]string, n)
	for i, g := range groups {
		names[i], segments[i] = g.Name, int32(g.Segments)
		policies[i], hashes[i] = policyAndHash(g.Sequencing)
	}
	_, err := tx.Exec(ctx, s.in(`
		INSERT INTO {{schema}}.processing_group (tenant, name, processor, installation, segments, sequencing, hash)
		SELECT $1, g.name, $2, $3, g.segments, g.sequencing, g.hash
		  FROM unnest($4::text[], $5::integer[], $6::text[], $7::text[]) AS g (name, segments, sequencing, hash) ORDER BY g.name
		ON CONFLICT (tenant, name) DO NOTHING`), tenant, owner.Processor, owner.Installation, names, segments, policies, hashes)
	if err != nil {
		return fmt.Errorf("declaring the groups of %s: %w", owner, err)
	}
	taken, err := s.taken(ctx, tx, owner, names)
	if err != nil {
		return err
	}
	// Numbers of definitions are a processor's own.
	_, err = tx.Exec(ctx, s.in(`
		UPDATE {{schema}}.processing_group g SET processor = $2, installation = $3, segments = d.segments, retired_at = NULL,
		  min_definition = CASE WHEN g.processor = $2 THEN g.min_definition ELSE 0 END
		FROM unnest($4::text[], $5::integer[]) AS d (name, segments) WHERE g.tenant = $1 AND g.name = d.name`),
		tenant, owner.Processor, owner.Installation, names, segments)
	if err != nil {
		return fmt.Errorf("declaring the groups of %s: %w", owner, err)
	}
	if len(taken) == 0 {
		return nil
	}
	tokens, err := s.lockGroups(ctx, tx, taken)
	if err == nil {
		err = s.disown(ctx, tx, tokens)
	}
	if err != nil {
		return fmt.Errorf("fencing the former owners of groups of %s: %w", owner, err)
	}
	return nil
}

// taken locks the rows of groups, and of all that the processor has, and returns those of the
// former that another owner had.
func (s *Store) taken(ctx context.Context, tx pgx.Tx, owner tokenstore.Owner, names []string) ([]string, error) {
	rows, err := tx.Query(ctx, s.in(`SELECT name, processor, installation, retired_at IS NOT NULL FROM {{schema}}.processing_group
		WHERE tenant = $1 AND (name = ANY ($2) OR processor = $3 AND retired_at IS NULL) ORDER BY name FOR NO KEY UPDATE`), tenant, names, owner.Processor)
	if err != nil {
		return nil, fmt.Errorf("looking who has the groups of %s: %w", owner, err)
	}
	defer rows.Close()
	var taken []string
	for rows.Next() {
		var name string
		var has tokenstore.Owner
		var retired bool
		if err := rows.Scan(&name, &has.Processor, &has.Installation, &retired); err != nil {
			return nil, fmt.Errorf("looking who has the groups of %s: %w", owner, err)
		}
		if !retired && !owner.MayTake(has) {
			return nil, &tokenstore.GroupConflictError{Group: name, Owner: has, By: owner}
		}
		if !owner.Has(has) && slices.Contains(names, name) {
			taken = append(taken, name)
		}
	}
	return taken, rows.Err()
}

// declare creates the tokens of one group, which is the processor's, and reports whether there were
// none.
func (s *Store) declare(ctx context.Context, tx pgx.Tx, processor string, g tokenstore.Group, requested []tokenstore.ReplayRequest,
	starts map[string]progress.Progress) (bool, error) {
	var sequencing string
	var floor int64
	err := tx.QueryRow(ctx, s.in(`SELECT epoch_floor, sequencing || '/' || hash FROM {{schema}}.processing_group WHERE tenant = $1 AND name = $2`),
		tenant, g.Name).Scan(&floor, &sequencing)
	if err != nil {
		return false, fmt.Errorf("declaring group %s: %w", g.Name, err)
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
		tenant, g.Name, ids, masks, progress.Position, progress.State, floor+1)
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
func (s *Store) Drop(ctx context.Context, owner tokenstore.Owner) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var others bool
		err := tx.QueryRow(ctx, s.in(`SELECT EXISTS (SELECT FROM {{schema}}.processing_group WHERE tenant = $1 AND processor = $2 AND installation NOT IN ('', $3))`),
			tenant, owner.Processor, owner.Installation).Scan(&others)
		if err != nil {
			return fmt.Errorf("looking who has the groups of %s: %w", owner, err)
		}
		if others {
			return nil
		}
		_, err = tx.Exec(ctx, s.in(`UPDATE {{schema}}.processing_group g SET retired_at = coalesce(retired_at, clock_timestamp()),
			epoch_floor = greatest(epoch_floor, (SELECT max(greatest(epoch, version)) FROM {{schema}}.token t WHERE t.tenant = g.tenant AND t.group_name = g.name))
			WHERE tenant = $1 AND processor = $2`), tenant, owner.Processor)
		if err != nil {
			return fmt.Errorf("retiring the groups of %s: %w", owner, err)
		}
		if err := s.dropReplays(ctx, tx, owner.Processor); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.in(`DELETE FROM {{schema}}.token t USING {{schema}}.processing_group g
			WHERE g.tenant = $1 AND g.processor = $2 AND t.tenant = g.tenant AND t.group_name = g.name`), tenant, owner.Processor)
		if err != nil {
			return fmt.Errorf("deleting the tokens of %s: %w", owner, err)
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

// ofFence reads the answer of the fencing check. No other statement's answer says that a batch is
// fenced off: users' statements can raise the same SQLSTATEs.
func ofFence(results pgx.BatchResults) error {
	_, err := results.Exec()
	return fenced(err)
}

// fenced turns the SQLSTATEs of the fencing check into tokenstore.ErrFenced and
// tokenstore.ErrManagedTransaction.
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
