package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
)

// Prepared are the commands that make a user's table readable. They do not rewrite it, and writers that name their columns do not notice.
type Prepared struct {
	// AddColumn holds an exclusive lock for a moment. The rows that are there get the transaction of this command.
	AddColumn string
	// CreateIndex reads the table once, beside writers. It cannot run in a transaction.
	CreateIndex string
	index       string // its name
	schema      string
}

// Preparation returns the commands for a table.
func Preparation(t definition.Table) Prepared {
	table, c := identifier(t.Name), t.Columns
	schema, name, _ := strings.Cut(t.Name, ".")
	index := "sluice_" + name
	index = index[:min(len(index), 50)] + "_txid" // PostgreSQL would cut it at 63 bytes
	return Prepared{
		AddColumn:   fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s xid8 NOT NULL DEFAULT pg_current_xact_id()", table, column(c.Transaction)),
		CreateIndex: fmt.Sprintf("CREATE INDEX CONCURRENTLY %s ON %s (%s, (%s + 0))", column(index), table, column(c.Transaction), column(c.Position)),
		index:       index, schema: schema,
	}
}

// Grants returns the commands that let a role of workers read the table, whose large objects need more: that the role is a member of
// the one that writes them.
func (Prepared) Grants(t definition.Table, role string) []string {
	schema, _, _ := strings.Cut(t.Name, ".")
	to := pgx.Identifier{role}.Sanitize()
	grants := []string{fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", column(schema), to), fmt.Sprintf("GRANT SELECT ON %s TO %s", identifier(t.Name), to)}
	switch {
	case t.Columns.Transaction != "" || t.Positions == definition.PositionsReserved:
	case t.Sequence != "":
		grants = append(grants, fmt.Sprintf("GRANT SELECT ON SEQUENCE %s TO %s", identifier(t.Sequence), to))
	default: // the column's own, whatever its name is
		body := fmt.Sprintf("BEGIN EXECUTE 'GRANT SELECT ON SEQUENCE ' || pg_get_serial_sequence(%s, %s) || %s; END", literal(identifier(t.Name)), literal(t.Columns.Position), literal(" TO "+to))
		grants = append(grants, "DO "+literal(body))
	}
	return grants
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// lockAttempts is how often the column is tried to be added. While it waits for running transactions that have written to the table, other
// writers wait behind it: so each attempt waits for a moment only.
const (
	lockAttempts = 60
	lockTimeout  = 500 * time.Millisecond
	lockPause    = 500 * time.Millisecond
)

// Prepare carries out what is left to be done of the preparation of a table, and tells of each command before it runs. It may be repeated.
func Prepare(ctx context.Context, conn *pgx.Conn, t definition.Table, tell func(command string)) error {
	facts, err := lookUp(ctx, conn, t)
	if err != nil {
		return fmt.Errorf("looking at the table %s: %w", t.Name, err)
	}
	if problem := relationProblem(t.Name, facts); problem != "" {
		return &eventsource.InvalidError{Problem: problem}
	}
	if err := mayAlter(ctx, conn, t, facts.oid); err != nil {
		return err
	}
	// Nothing is altered for a table that cannot be read afterwards.
	if problems := tableProblems(t, facts.prepared(t)); len(problems) > 0 {
		return &eventsource.InvalidError{Problem: strings.Join(problems, "; ")}
	}
	if err := newSource(conn, "", tableMapping(t)).checkRows(ctx, facts); err != nil {
		return err
	}
	if t.Columns.Transaction == "" {
		return nil // it is read as it is
	}
	p := Preparation(t)
	if _, there := facts.columns[t.Columns.Transaction]; !there {
		tell(p.AddColumn)
		if err := addColumn(ctx, conn, p.AddColumn); err != nil {
			return fmt.Errorf("adding the column %s to %s: %w", t.Columns.Transaction, t.Name, err)
		}
		if facts, err = lookUp(ctx, conn, t); err != nil {
			return fmt.Errorf("looking at the table %s again: %w", t.Name, err)
		}
	}
	if facts.indexed() {
		return nil
	}
	if facts.kind == "p" {
		return p.indexPartitions(ctx, conn, t, tell)
	}
	// One of that name that an attempt before has left unfinished is of no use.
	drop := "DROP INDEX CONCURRENTLY IF EXISTS " + pgx.Identifier{p.schema, p.index}.Sanitize()
	for _, command := range []string{drop, p.CreateIndex} {
		tell(command)
		if _, err := conn.Exec(ctx, command); err != nil {
			return fmt.Errorf("creating the index on %s: %w", t.Name, err)
		}
	}
	return nil
}

// prepared are the facts of the table as it will be.
func (f *tableFacts) prepared(t definition.Table) *tableFacts {
	if t.Columns.Transaction == "" {
		return f
	}
	after := *f
	after.columns = maps.Clone(f.columns)
	if _, there := f.columns[t.Columns.Transaction]; !there {
		after.columns[t.Columns.Transaction] = columnFacts{kind: "xid8", expression: "pg_current_xact_id()", notNull: true}
	}
	after.indexes = append(slices.Clone(f.indexes), indexFacts{keys: f.lateKeys()})
	return &after
}

// mayAlter returns an error that names the role to connect as.
func mayAlter(ctx context.Context, conn *pgx.Conn, t definition.Table, oid uint32) error {
	var owner, self, schema string
	var member, creates bool
	err := conn.QueryRow(ctx, "SELECT pg_get_userbyid(relowner), current_user, pg_has_role(relowner, 'USAGE'), n.nspname, has_schema_privilege(relowner, n.oid, 'CREATE') FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = $1", oid).
		Scan(&owner, &self, &member, &schema, &creates)
	if err != nil {
		return fmt.Errorf("looking for the owner of %s: %w", t.Name, err)
	}
	if !member {
		return fmt.Errorf("the table %s belongs to the role %s, and this connection is %s's: connect as %[2]s or a member of it, or give it what --print prints", t.Name, owner, self)
	}
	if !creates && t.Columns.Transaction != "" {
		return fmt.Errorf("the role %s, which the table %s belongs to, may not create an index in its schema: GRANT CREATE ON SCHEMA %s TO %s", owner, t.Name, column(schema), column(owner))
	}
	return nil
}

// addColumn tries until it gets the lock.
func addColumn(ctx context.Context, conn *pgx.Conn, command string) error {
	for attempt := 1; ; attempt++ {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", lockTimeout.Milliseconds())); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, command)
			return err
		})
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pg.Code != pgerrcode.LockNotAvailable {
			return err
		}
		if attempt == lockAttempts {
			return fmt.Errorf("transactions that use the table did not end within %v: %w", lockAttempts*(lockTimeout+lockPause), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPause):
		}
	}
}
