package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/tokenstore"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one step: one file, one transaction.
type migration struct {
	version int
	name    string
	sql     string
}

func migrations(schema string) ([]migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, file := range names {
		text, err := migrationFiles.ReadFile(file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql")
		if !strings.HasPrefix(name, fmt.Sprintf("%04d_", i+1)) {
			return nil, fmt.Errorf("migration %s stands in place %d", name, i+1)
		}
		all = append(all, migration{i + 1, name, strings.ReplaceAll(string(text), "{{schema}}", quoted(schema))})
	}
	return all, nil
}

// MigrationRequiredError says that the schema is older than this binary needs and was not migrated.
type MigrationRequiredError struct {
	Schema     string
	Have, Want int
	Cause      error // why it could not be migrated; nil where nobody tried
}

func (e *MigrationRequiredError) Error() string {
	text := fmt.Sprintf("schema %s is at version %d, this binary needs %d: run `sluice migrate`, or apply what `sluice migrate --print` prints as a role that may", e.Schema, e.Have, e.Want)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

func (e *MigrationRequiredError) Unwrap() error { return e.Cause }

// Migrate brings the schema up to date, each step in a transaction of its own. Several processes may call it at once. It
// returns what it did. Where the role may not, it returns a *MigrationRequiredError.
func Migrate(ctx context.Context, conn *pgx.Conn, schema string) (done []string, err error) {
	steps, err := migrations(schema)
	if err != nil {
		return nil, err
	}
	have, err := SchemaVersion(ctx, conn, schema)
	if err != nil || have >= len(steps) {
		return nil, err
	}
	class, key := MigrationLock(schema)
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", class, key); err != nil {
		return nil, fmt.Errorf("waiting for the migration lock: %w", err)
	}
	defer func() {
		_, unlock := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1, $2)", class, key)
		err = errors.Join(err, unlock)
	}()
	if have, err = SchemaVersion(ctx, conn, schema); err != nil {
		return nil, err
	}
	for _, step := range steps[min(have, len(steps)):] {
		if err := step.run(ctx, conn, schema); err != nil {
			if privilege(err) {
				return done, &MigrationRequiredError{Schema: schema, Have: step.version - 1, Want: len(steps), Cause: err}
			}
			return done, fmt.Errorf("migration %s: %w", step.name, err)
		}
		done = append(done, step.name)
	}
	return done, nil
}

func (m migration) run(ctx context.Context, conn *pgx.Conn, schema string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// A migration must not queue behind a long transaction and hold up everybody else behind itself.
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, preamble(schema)+m.sql+m.record(schema), pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

func preamble(schema string) string {
	return fmt.Sprintf(`CREATE SCHEMA IF NOT EXISTS %[1]s;
CREATE TABLE IF NOT EXISTS %[1]s.migration (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());
`, quoted(schema))
}

func (m migration) record(schema string) string {
	return fmt.Sprintf("\nINSERT INTO %s.migration (version, name) VALUES (%d, '%s');\n", quoted(schema), m.version, m.name)
}

// Script returns all migrations as one text, for those who apply them by hand.
func Script(schema string) (string, error) {
	steps, err := migrations(schema)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, m := range steps {
		fmt.Fprintf(&b, "-- %s\nBEGIN;\n%s%s%sCOMMIT;\n\n", m.name, preamble(schema), m.sql, m.record(schema))
	}
	return b.String(), nil
}

// SchemaVersion returns the number of migrations that have been applied, 0 where there is no schema.
func SchemaVersion(ctx context.Context, conn Querier, schema string) (int, error) {
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", quoted(schema)+".migration").Scan(&there); err != nil {
		return 0, fmt.Errorf("looking for schema %s: %w", schema, err)
	}
	if !there {
		return 0, nil
	}
	var version int
	if err := conn.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM "+quoted(schema)+".migration").Scan(&version); err != nil {
		return 0, fmt.Errorf("reading the version of schema %s: %w", schema, err)
	}
	return version, nil
}

// Querier is a connection, a pool or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Meta identifies a store.
type Meta struct {
	StoreID string // a uuid
	// Elsewhere says that the tables were copied here from another database cluster: the transaction ids in tokens and
	// events mean nothing here.
	Elsewhere bool
	// Home tells the store from every other one on the server, a copy of it included. ApplicationOf
	// needs it.
	Home string
}

// Check returns which store this is. A *MigrationRequiredError says that its schema is too old, a
// *tokenstore.ProtocolError that this binary is.
func Check(ctx context.Context, conn Querier, schema string) (Meta, error) {
	steps, err := migrations(schema)
	if err != nil {
		return Meta{}, err
	}
	have, err := SchemaVersion(ctx, conn, schema)
	if err != nil {
		return Meta{}, err
	}
	if have < len(steps) {
		return Meta{}, &MigrationRequiredError{Schema: schema, Have: have, Want: len(steps)}
	}
	var meta Meta
	var protocol int
	err = conn.QueryRow(ctx, strings.ReplaceAll(`SELECT m.store_id::text, m.min_protocol, m.system_identifier <> c.system_identifier, `+home+`
		FROM {{schema}}.meta m, pg_control_system() c`, "{{schema}}", quoted(schema))).Scan(&meta.StoreID, &protocol, &meta.Elsewhere, &meta.Home)
	if err != nil {
		return Meta{}, fmt.Errorf("reading what store this is: %w", err)
	}
	if protocol > tokenstore.Protocol {
		return Meta{}, &tokenstore.ProtocolError{Have: tokenstore.Protocol, Want: protocol}
	}
	return meta, nil
}

// privilege reports whether the role may not do what it tried.
func privilege(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == pgerrcode.InsufficientPrivilege
}
