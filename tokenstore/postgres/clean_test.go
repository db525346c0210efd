package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// leaks are what a statement can leave in a session, each with a query that is true where it is
// there. The functions do it where the text of a statement does not show it. Some break the batch
// that they are in.
var leaks = map[string]struct {
	sql, there string
	breaks     bool
}{
	"a setting":                 {`SELECT set_config('work_mem', '1234kB', false)`, `SELECT current_setting('work_mem') = '1234kB'`, false},
	"SET":                       {`SET statement_timeout = '77s'`, `SELECT current_setting('statement_timeout') <> '0'`, false},
	"a setting of one's own":    {`SELECT set_config('app.tenant', 'a', false)`, `SELECT coalesce(current_setting('app.tenant', true), '') <> ''`, false},
	"the path":                  {`SELECT set_config('search_path', 'pg_catalog', false)`, `SELECT current_setting('search_path') <> 'app, public'`, false},
	"the path, in a function":   {`SELECT leaves($$SET search_path = ''$$)`, `SELECT current_setting('search_path') <> 'app, public'`, false},
	"a role":                    {`SET ROLE weak`, `SELECT current_user = 'weak'`, true},
	"a role, in a function":     {`SELECT leaves('SET ROLE weak')`, `SELECT current_user = 'weak'`, true},
	"the session's user":        {`SET SESSION AUTHORIZATION weak`, `SELECT session_user = 'weak'`, true},
	"a temporary table":         {`CREATE TEMP TABLE left_here (n int)`, `SELECT to_regclass('pg_temp.left_here') IS NOT NULL`, false},
	"one of a function":         {`SELECT leaves('CREATE TEMP TABLE left_here (n int)')`, `SELECT to_regclass('pg_temp.left_here') IS NOT NULL`, false},
	"a lock":                    {`SELECT pg_advisory_lock(4711)`, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711)`, false},
	"a shared lock":             {`SELECT pg_advisory_lock_shared(4711)`, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711)`, false},
	"LISTEN":                    {`LISTEN here`, `SELECT EXISTS (SELECT pg_listening_channels())`, false},
	"LISTEN, in a function":     {`SELECT leaves('LISTEN here')`, `SELECT EXISTS (SELECT pg_listening_channels())`, false},
	"a cursor":                  {`DECLARE here CURSOR WITH HOLD FOR SELECT 1`, `SELECT EXISTS (SELECT FROM pg_cursors WHERE name = 'here')`, false},
	"a prepared statement":      {`PREPARE here AS SELECT 1`, `SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'here')`, false},
	"prepared ones put away":    {`DEALLOCATE ALL`, `SELECT false`, true},
	"a replication role":        {`SET session_replication_role = 'replica'`, `SELECT current_setting('session_replication_role') <> 'origin'`, false},
	"a default for isolation":   {`SET default_transaction_isolation = 'serializable'`, `SELECT current_setting('transaction_isolation') <> 'read committed'`, false},
	"a default for read-only":   {`SET default_transaction_read_only = on`, `SELECT current_setting('transaction_read_only') = 'on'`, false},
	"a setting of the database": {`SET TimeZone = 'Asia/Tokyo'; SET work_mem = '1234kB'`, `SELECT (current_setting('TimeZone'), current_setting('work_mem')) <> ('UTC', '5MB')`, false},
}

// leaky is a store on a pool of one connection, in a database that has settings of its own.
func leaky(t *testing.T) (*postgres.Store, *pgxpool.Pool, postgres.Options) {
	t.Helper()
	ctx := context.Background()
	o := options(t, postgrestest.New(t))
	o.MaxConns = 1
	conn, err := postgres.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `CREATE TABLE applied (n int); CREATE SCHEMA app;
		CREATE FUNCTION leaves(sql text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE sql; RETURN 1; END $$;
		DO $$ BEGIN IF to_regrole('weak') IS NULL THEN CREATE ROLE weak; END IF;
			EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database());
			EXECUTE format('ALTER DATABASE %I SET work_mem = ''5MB''', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := postgres.NewStore(pool, postgres.DefaultSchema)
	if err := store.Declare(ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "view", Segments: 1}}, nil, fromTheStart); err != nil {
		t.Fatal(err)
	}
	return store, pool, o
}

// TestNothingIsLeftForTheNextHandler has a handler leave something, in each way in which a batch
// can end, and looks for it on the connection that the next one gets.
func TestNothingIsLeftForTheNextHandler(t *testing.T) {
	store, pool, o := leaky(t)
	ctx := t.Context()
	outside, err := postgres.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close(context.Background())
	token := claim(t, store, 1, tokens(t, store)...)[0]
	refused := errors.New("refused")
	inTx := func(fail error) func(tokenstore.Advance, string) error {
		return func(a tokenstore.Advance, sql string) error {
			return store.InPgx(ctx, []tokenstore.Advance{a}, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
				return fail
			})
		}
	}
	queue := func(a tokenstore.Advance, sql string) error {
		return store.Queue(ctx, []tokenstore.Advance{a}, func(s tokenstore.Statements) error { s.(*pgx.Batch).Queue("SELECT leaves($1)", sql); return nil })
	}
	ways := map[string]struct {
		run   func(tokenstore.Advance, string) error
		fails bool
	}{
		"a handler with a transaction": {inTx(nil), false},
		"one that fails":               {inTx(refused), true},
		"one that queues":              {queue, false},
		"statements": {func(a tokenstore.Advance, sql string) error {
			return store.Pipeline(ctx, []tokenstore.Advance{a}, func(s tokenstore.Statements) error { s.(*pgx.Batch).Queue("SELECT leaves($1)", sql); return nil })
		}, false},
		"one that is fenced off": {func(a tokenstore.Advance, sql string) error { a.Version--; return queue(a, sql) }, true},
	}
	for way, w := range ways {
		for name, leak := range leaks {
			if name == "a prepared statement" && way != "a handler with a transaction" && way != "one that fails" {
				continue // a function's PREPARE stays: see docs/dev.md
			}
			t.Run(fmt.Sprint(way, "/", name), func(t *testing.T) {
				advance := to(token, token.Parts[0].Progress.Position+1)
				if err := w.run(advance, leak.sql); (err != nil) != w.fails && !leak.breaks {
					t.Fatal(err)
				}
				var locked bool
				if err := outside.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711)`).Scan(&locked); err != nil || locked {
					t.Errorf("a lock is held while nobody has the connection (%v)", err)
				}
				var there bool
				if err := pool.QueryRow(ctx, leak.there).Scan(&there); err != nil || there {
					t.Errorf("it is still there (%v)", err)
				}
				token = tokens(t, store)[0]
				advance = to(token, token.Parts[0].Progress.Position+1)
				if err := store.InPgx(ctx, []tokenstore.Advance{advance}, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, apply, 1); return err }); err != nil {
					t.Errorf("the next handler: %v", err)
				}
				token = tokens(t, store)[0]
			})
		}
	}
}
