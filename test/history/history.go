// Package history has a database write down what is committed to it, in tests, and checks that
// against what Sluice promises.
//
// Triggers on the token table and on projections write the history in the transactions whose
// effects it tells of. So it holds exactly what has committed, whatever workers believe, log, or
// never get to hear of. A check that had nothing to look at fails as vacuous. A store in memory has
// no triggers: its tests make a History themselves, for the same checks.
package history

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed history.sql
var tables string

// Record begins to write down what happens to the tokens of a schema.
func Record(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	if _, err := pool.Exec(ctx, in(schema, tables), pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("recording the history of %s: %w", schema, err)
	}
	return nil
}

func in(schema, sql string) string {
	return strings.ReplaceAll(sql, "{{schema}}", pgx.Identifier{schema}.Sanitize())
}

// Projection says how one row written to a table tells of the event that it was written for. All
// but Table and Group are SQL expressions over NEW.
type Projection struct {
	Table    string // with its schema
	Group    string // whose handler writes it
	Key      string // the event's stream
	Position string // the event's
	Replay   string // whether the handler was told that it is one
	When     string // rows to look at; all where it is empty
}

// Follow begins to write down what is applied to a projection. Its table need not be there yet, and
// may be made anew.
func Follow(ctx context.Context, pool *pgxpool.Pool, p Projection) error {
	name := "history_" + strings.NewReplacer(".", "_", "-", "_").Replace(p.Table+"_"+p.Group)
	when := p.When
	if when == "" {
		when = "true"
	}
	sql := fmt.Sprintf(`
CREATE FUNCTION history.%[1]s() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  IF %[2]s THEN
    INSERT INTO history.applied (group_name, key, position, replay) VALUES (%[3]s, %[4]s, %[5]s, %[6]s);
  END IF;
  RETURN NULL;
END $f$;
INSERT INTO history.followed VALUES (%[7]s, '%[1]s');
SELECT history.follow('%[1]s', %[7]s);`, name, when, quote(p.Group), p.Key, p.Position, p.Replay, quote(p.Table))
	if _, err := pool.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("following %s: %w", p.Table, err)
	}
	return nil
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Check reads what was recorded, and checks it. types are those of the events that are handled.
func Check(ctx context.Context, db querier, schema string, want Want, types ...string) (Found, error) {
	h, err := read(ctx, db, schema, types)
	if err != nil {
		return Found{}, fmt.Errorf("reading the history: %w", err)
	}
	return h.Check(want)
}

func read(ctx context.Context, db querier, schema string, types []string) (h History, err error) {
	// Transactions that changed the same rows stand in the order of their commits; of others the
	// order does not matter.
	h.Writes, err = collect[Write](ctx, db, `
		SELECT xid::text, op, group_name, segment, mask, position, generation, epoch, version, owner, was_owner
		  FROM history.written WINDOW tx AS (PARTITION BY xid) ORDER BY max(seq) OVER tx, xid, seq`, func(w *Write) []any {
		return []any{&w.Tx, &w.Op, &w.Group, &w.Segment.ID, &w.Segment.Mask, &w.Position, &w.Generation, &w.Epoch, &w.Version, &w.Owner, &w.WasOwner}
	})
	if err != nil {
		return h, err
	}
	h.Applied, err = collect[Applied](ctx, db, `SELECT xid::text, group_name, key, position, replay FROM history.applied ORDER BY seq`, func(a *Applied) []any {
		return []any{&a.Tx, &a.Group, &a.Key, &a.Position, &a.Replay}
	})
	if err != nil {
		return h, err
	}
	h.Events, err = collect[Event](ctx, db, in(schema, `SELECT position, stream_id FROM {{schema}}.event WHERE type = ANY ($1) ORDER BY position`), func(e *Event) []any {
		return []any{&e.Position, &e.Key}
	}, types)
	return h, err
}

// collect reads rows.
func collect[T any](ctx context.Context, db querier, sql string, columns func(*T) []any, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (v T, err error) {
		err = row.Scan(columns(&v)...)
		return v, err
	})
}
