package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/tokenstoretest"
)

func TestTheStoreKeepsItsPromisesToHandlersWithATransaction(t *testing.T) {
	tokenstoretest.Run(t, func(t *testing.T) tokenstoretest.Harness { return harnessInTx(t, migrated(t)) })
}

func TestTheStoreGoesInStepWithTheModelInTransactions(t *testing.T) {
	tokenstoretest.Lockstep(t, harnessInTx(t, migrated(t)))
}

// harnessInTx is the harness with batches of handlers that are given a transaction.
func harnessInTx(t testing.TB, pool *pgxpool.Pool) tokenstoretest.Harness {
	h := harness(t, pool)
	h.OpenTransactions = true
	return h
}

const apply = `INSERT INTO applied VALUES ($1) RETURNING n`

// beginnings are the ways in which a handler can begin: each writes the number 1.
var beginnings = map[string]func(context.Context, pgx.Tx) error{
	"Exec": func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, apply, 1)
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("it tells of %s", tag)
		}
		return err
	},
	"Exec without arguments": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO applied VALUES (1); SELECT 1`)
		return err
	},
	"Exec with an option": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, apply, pgx.QueryExecModeExec, 1)
		return err
	},
	"Exec with named arguments": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO applied VALUES (@n)`, pgx.NamedArgs{"n": 1})
		return err
	},
	"Query": func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `INSERT INTO applied SELECT n FROM generate_series($1::integer, 1) AS n RETURNING n`, 1)
		if err != nil {
			return err
		}
		all, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err == nil && (len(all) != 1 || all[0] != 1) {
			err = fmt.Errorf("it returns %v", all)
		}
		return err
	},
	"Query that is closed early": func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `INSERT INTO applied SELECT 1 FROM generate_series($1::integer, 1) AS n RETURNING n`, 1)
		if err != nil {
			return err
		}
		rows.Close()
		return rows.Err()
	},
	"QueryRow": func(ctx context.Context, tx pgx.Tx) error {
		var n int
		err := tx.QueryRow(ctx, apply, 1).Scan(&n)
		if err == nil && n != 1 {
			err = fmt.Errorf("it returns %d", n)
		}
		return err
	},
	"QueryRow without a row": func(ctx context.Context, tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, `SELECT n FROM applied WHERE n = $1`, 7).Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("an empty result: %w", err)
		}
		_, err := tx.Exec(ctx, apply, 1)
		return err
	},
	"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		var n int
		batch.Queue(apply, 1).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
		err := tx.SendBatch(ctx, batch).Close()
		if err == nil && n != 1 {
			err = fmt.Errorf("it returns %d", n)
		}
		return err
	},
	"an empty SendBatch": func(ctx context.Context, tx pgx.Tx) error {
		if err := tx.SendBatch(ctx, &pgx.Batch{}).Close(); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, apply, 1)
		return err
	},
	"CopyFrom": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"applied"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}}))
		return err
	},
	"Begin": func(ctx context.Context, tx pgx.Tx) error {
		if err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, apply, 1); return err }); err != nil {
			return err
		}
		undone := errors.New("undone")
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, apply, 2); return errors.Join(undone, err) })
		if !errors.Is(err, undone) {
			return fmt.Errorf("a savepoint: %w", err)
		}
		return nil
	},
	"Prepare": func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Prepare(ctx, "apply", apply); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "apply", 1)
		return err
	},
	"the connection": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().Exec(ctx, apply, 1)
		return err
	},
	"large objects": func(ctx context.Context, tx pgx.Tx) error {
		objects := tx.LargeObjects()
		if _, err := objects.Create(ctx, 0); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, apply, 1)
		return err
	},
}

// Whatever a handler begins with is committed together with the token, or not at all.
func TestATransactionCoversWhateverItBeginsWith(t *testing.T) {
	store, pool := declared(t, 1)
	ctx := context.Background()
	if _, err := pool.Exec(ctx, "CREATE TABLE applied (n int)"); err != nil {
		t.Fatal(err)
	}
	applied := func() (sum int) {
		t.Helper()
		if err := pool.QueryRow(ctx, "SELECT coalesce(sum(n), 0) FROM applied").Scan(&sum); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	refused, want := errors.New("refused"), 0
	token := claim(t, store, 1, tokens(t, store)...)[0]
	for name, begin := range beginnings {
		t.Run(name, func(t *testing.T) {
			advance := to(token, token.Parts[0].Progress.Position+1)
			err := store.InPgx(ctx, []tokenstore.Advance{advance}, func(tx pgx.Tx) error { return errors.Join(begin(ctx, tx), refused) })
			if !errors.Is(err, refused) || applied() != want {
				t.Fatalf("a handler that fails afterwards: %v, and it has written %d", err, applied()-want)
			}
			stale := advance
			stale.Version--
			err = store.InPgx(ctx, []tokenstore.Advance{stale}, func(tx pgx.Tx) error { return begin(ctx, tx) })
			if !errors.Is(err, tokenstore.ErrFenced) || applied() != want {
				t.Fatalf("with another version: %v, and it has written %d", err, applied()-want)
			}
			var kept pgx.Tx
			if err := store.InPgx(ctx, []tokenstore.Advance{advance}, func(tx pgx.Tx) error { kept = tx; return begin(ctx, tx) }); err != nil {
				t.Fatal(err)
			}
			want++
			if applied() != want {
				t.Errorf("it has written %d, want 1", applied()-want+1)
			}
			token = tokens(t, store)[0]
			if token.Parts[0].Progress.Position != advance.Parts[0].Progress.Position {
				t.Errorf("the token is at %d, want %d", token.Parts[0].Progress.Position, advance.Parts[0].Progress.Position)
			}
			if _, err := kept.Exec(ctx, apply, 1); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("after its end it takes a statement: %v", err)
			}
		})
	}
}

// A statement that fails is the handler's to tell of; one that swallows the error has no transaction to commit.
func TestAFailedFirstStatementCommitsNothing(t *testing.T) {
	store, pool := declared(t, 1)
	ctx := context.Background()
	if _, err := pool.Exec(ctx, "CREATE TABLE applied (n int)"); err != nil {
		t.Fatal(err)
	}
	token := claim(t, store, 1, tokens(t, store)...)[0]
	for name, fail := range map[string]func(pgx.Tx) error{
		"that does not prepare": func(tx pgx.Tx) error { _, err := tx.Exec(ctx, `INSERT INTO missing VALUES ($1)`, 1); return err },
		"that fails":            func(tx pgx.Tx) error { _, err := tx.Exec(ctx, `SELECT 1 / $1::integer`, 0); return err },
		"that asks for a row":   func(tx pgx.Tx) error { return tx.QueryRow(ctx, `SELECT 1 / $1::integer`, 0).Scan(new(int)) },
	} {
		t.Run(name, func(t *testing.T) {
			err := store.InPgx(ctx, []tokenstore.Advance{to(token, 5)}, func(tx pgx.Tx) error {
				if fail(tx) == nil {
					t.Error("it does not fail")
				}
				_, _ = tx.Exec(ctx, apply, 1)
				return nil
			})
			if err == nil {
				t.Error("the batch has committed")
			}
			var n int
			if err := pool.QueryRow(ctx, "SELECT count(*) FROM applied").Scan(&n); err != nil || n != 0 {
				t.Errorf("%d rows were written, %v", n, err)
			}
			if got := tokens(t, store)[0]; got.Version != token.Version {
				t.Errorf("the token has moved to version %d", got.Version)
			}
		})
	}
}

func TestNeitherBeginningNorCommittingNorCleaningTakesARoundTrip(t *testing.T) {
	url := postgrestest.New(t)
	ctx := context.Background()
	direct := options(t, url)
	conn, err := postgres.Connect(ctx, direct)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "CREATE TABLE applied (n int)"); err != nil {
		t.Fatal(err)
	}
	proxy := pgproxy.Start(t, url)
	o := options(t, proxy.URL())
	o.MaxConns = 1
	pool, err := postgres.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := postgres.NewStore(pool, postgres.DefaultSchema)
	if err := store.Declare(ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "view", Segments: 1}}, nil, fromTheStart); err != nil {
		t.Fatal(err)
	}
	// What a cleaning is sent with has not been answered yet.
	cleaned := func(m pgproxy.Message) bool {
		return m.Ran("INSERT INTO applied", "advance(", "commit", "clean_session()")
	}
	begun := func(m pgproxy.Message) bool { return m.Ran("begin", "INSERT INTO applied") && !m.Ran("advance(") }
	one := func(s tokenstore.Statements) error { s.(*pgx.Batch).Queue(apply, 1); return nil }
	for name, test := range map[string]struct {
		run                    func(...tokenstore.Advance) error
		begun, commits, cleans int // messages
	}{
		"statements":  {func(a ...tokenstore.Advance) error { return store.Pipeline(ctx, a, one) }, 1, 1, 1},
		"queued ones": {func(a ...tokenstore.Advance) error { return store.Queue(ctx, a, one) }, 1, 1, 1},
		"a handler with one statement": {func(a ...tokenstore.Advance) error {
			return store.InPgx(ctx, a, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, apply, 1); return err })
		}, 1, 1, 1},
		"a handler without any": {func(a ...tokenstore.Advance) error { return store.InPgx(ctx, a, func(pgx.Tx) error { return nil }) }, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			advance := to(claim(t, store, 1, tokens(t, store)...)[0], 1)
			alone, first := proxy.Count(pgproxy.Message.IsQuery), proxy.Count(begun)
			commits, cleans := proxy.Count(pgproxy.Message.Commits), proxy.Count(cleaned)
			if err := test.run(advance); err != nil {
				t.Fatal(err)
			}
			if alone.Total() != 0 || first.Total() != test.begun || commits.Total() != test.commits || cleans.Total() != test.cleans {
				t.Errorf("%d statements were sent by themselves, %d with the beginning, %d committed, %d cleaned in the same request; want 0, %d, %d and %d",
					alone.Total(), first.Total(), commits.Total(), cleans.Total(), test.begun, test.commits, test.cleans)
			}
		})
	}
	if n := pool.Stat().NewConnsCount(); n != 1 {
		t.Errorf("%d connections were made: cleaning has closed some", n)
	}
}
