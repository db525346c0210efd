package postgres_test

import (
	"bytes"
	"fmt"
	"os"
	program "os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
)

// restored dumps a database and restores it into a server: by pg_dump and pg_restore where they come with the server, and otherwise by what
// these do with the data, a copy of one snapshot's rows and of the sequences, after prepare has made the tables.
func restored(t *testing.T, from *pgxpool.Pool, server *localpostgres.Server, prepare func(url string)) (url string) {
	t.Helper()
	bin, err := postgrestest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	admin := session(t, server.URL("postgres"), "restore")
	exec(t, admin, "CREATE DATABASE restored")
	url = server.URL("restored")
	if _, err := os.Stat(filepath.Join(bin, "pg_dump")); err != nil {
		prepare(url)
		copyRows(t, from, session(t, url, "restore"))
		return url
	}
	file := filepath.Join(t.TempDir(), "dump")
	run(t, filepath.Join(bin, "pg_dump"), "--format=custom", "--file="+file, "--dbname="+from.Config().ConnConfig.ConnString())
	run(t, filepath.Join(bin, "pg_restore"), "--exit-on-error", "--dbname="+url, file)
	return url
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := program.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func copyRows(t *testing.T, from *pgxpool.Pool, to *pgx.Conn) {
	t.Helper()
	ctx := t.Context()
	tx, err := from.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	strings := func(sql string) []string {
		rows, err := tx.Query(ctx, sql)
		if err != nil {
			t.Fatal(err)
		}
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	exec(t, to, "SET session_replication_role = replica")
	const relations = " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('sluice', 'public')"
	for _, table := range strings("SELECT format('%I.%I', n.nspname, c.relname)" + relations + " AND c.relkind = 'r' ORDER BY 1") {
		if !query[bool](t, to, "SELECT to_regclass($1) IS NOT NULL", table) {
			continue // one of the test's own
		}
		columns := strings(fmt.Sprintf("SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '%s'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''", table))[0]
		exec(t, to, "DELETE FROM "+table)
		var rows bytes.Buffer
		if _, err := tx.Conn().PgConn().CopyTo(ctx, &rows, fmt.Sprintf("COPY (SELECT %s FROM %s) TO STDOUT", columns, table)); err != nil {
			t.Fatal(err)
		}
		if _, err := to.PgConn().CopyFrom(ctx, &rows, fmt.Sprintf("COPY %s (%s) FROM STDIN", table, columns)); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range strings("SELECT format('SELECT setval(%L, %s, %L)', format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), last_value IS NOT NULL) FROM pg_sequences WHERE schemaname IN ('sluice', 'public')") {
		exec(t, to, command)
	}
}
