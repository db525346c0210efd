// Package history has a database write down what is committed to it, in tests, and checks that against what Sluice promises.
//
// Triggers on the token table and on projections write the history in the transactions whose effects it tells of. So it holds
// exactly what has committed, whatever workers believe, log, or never get to hear of. Checks are queries over it; one that had
// nothing to look at fails as vacuous.
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

// Projection says how one row written to a table tells of the event that it was written for. All but Table and Group are SQL
// expressions over NEW.
type Projection struct {
	Table    string // with its schema
	Group    string // whose handler writes it
	Key      string // the event's stream
	Position string // the event's
	Replay   string // whether the handler was told that it is one
	When     string // rows to look at; all where it is empty
}

// Follow begins to write down what is applied to a projection. Its table need not be there yet, and may be made anew.
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
