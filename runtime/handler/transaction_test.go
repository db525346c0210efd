package handler_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/tokenstoretest"
)

const processor = "test/default/orders"

// world is a store with a group of one segment, which is claimed, and tables that handlers write.
type world struct {
	t         *testing.T
	pool      *pgxpool.Pool
	store     *postgres.Store
	directory *postgres.Directory
}

func newWorld(t *testing.T, conns int32) *world {
	t.Helper()
	return newWorldAt(t, postgrestest.New(t), conns)
}

func newWorldAt(t *testing.T, url string, conns int32) *world {
	t.Helper()
	ctx := context.Background()
	target, err := access.FromURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o := postgres.Options{Target: target, Application: "test", MaxConns: conns}
	conn, err := postgres.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	batches, err := postgres.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(batches.Close)
	w := &world{t, pool, postgres.NewStoreWithBatches(pool, batches, postgres.DefaultSchema), postgres.NewDirectory(pool, postgres.DefaultSchema)}
	w.exec(`CREATE TABLE applied (n int); CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO applied VALUES (7); COMMIT; END $$`)
	w.must(w.directory.DeclareProcessor(ctx, tokenstore.Processor{Name: processor, Definition: "d1", Replicas: 1, Live: []byte(`{}`)}))
	w.must(w.store.Declare(ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "view", Segments: 1}}, nil, func(string) (progress.Progress, error) { return progress.Progress{}, nil }))
	token := w.token()
	_, err = w.store.Claim(ctx, processor, 1, 1, []tokenstore.Claim{{Key: token.Key, Epoch: token.Epoch}})
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) exec(sql string) {
	w.t.Helper()
	_, err := w.pool.Exec(context.Background(), sql)
	w.must(err)
}

func (w *world) token() tokenstore.Token {
	w.t.Helper()
	all, err := w.store.Tokens(context.Background(), processor)
	w.must(err)
	return all[0]
}

// applied returns how many rows there are in the table that handlers write.
func (w *world) applied() (n int) {
	w.t.Helper()
	w.must(w.pool.QueryRow(context.Background(), `SELECT count(*) FROM applied`).Scan(&n))
	return n
}

// batch is the transaction of the next batch.
type batch struct {
	*postgres.Store
	advances []tokenstore.Advance
}

func (b batch) Pipeline(ctx context.Context, queue func(tokenstore.Statements) error) error {
	return b.Store.Pipeline(ctx, b.advances, queue)
}

func (b batch) Queue(ctx context.Context, queue func(tokenstore.Statements) error) error {
	return b.Store.Queue(ctx, b.advances, queue)
}

func (b batch) InTx(ctx context.Context, work func(tokenstore.Tx) error) error {
	return b.Store.InTx(ctx, b.advances, work)
}

func (w *world) apply(h handler.Handler) error {
	w.t.Helper()
	token := w.token()
	position := token.Parts[0].Progress.Position + 1
	return h.Apply(context.Background(), batch{w.store, []tokenstore.Advance{{Key: token.Key, Epoch: token.Epoch, Version: token.Version,
		Parts: []progress.Part{{Segment: token.Range(), Progress: progress.Progress{Position: position, State: "1:1:"}}}}}},
		[]*handler.Event{{Position: position, StreamID: "a", Type: "Paid"}})
}

const write = `INSERT INTO applied VALUES ($1)`

// endings are the ways in which users' code can try to end its transaction, after it has written.
// Each returns what it is told.
var endings = map[string]func(context.Context, pgx.Tx) error{
	"tx.Commit":             func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
	"tx.Rollback":           func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) },
	"Exec":                  sends("COMMIT"),
	"Exec with a comment":   sends("/* so */ -- and so\n commit"),
	"Exec END":              sends("END"),
	"Exec ABORT":            sends("ABORT"),
	"Exec ROLLBACK":         sends("ROLLBACK"),
	"Exec AND CHAIN":        sends("COMMIT AND CHAIN"),
	"Exec PREPARE":          sends("PREPARE TRANSACTION 'x'"),
	"Exec BEGIN":            sends("BEGIN"),
	"Exec several":          sends("SELECT ';'; COMMIT"),
	"Exec ROLLBACK; BEGIN":  sends("ROLLBACK; BEGIN"),
	"Exec and writes again": sends("COMMIT; BEGIN; INSERT INTO applied VALUES (2); COMMIT"),
	"Exec of Sluice's own":  sends("commit /* sluice */"),
	"Exec of Sluice's own with an argument": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "commit /* sluice */", pgx.NamedArgs{})
		return err
	},
	"Exec with a mode": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "COMMIT", pgx.QueryExecModeExec)
		return err
	},
	"Query": func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "COMMIT")
		if err != nil {
			return err
		}
		rows.Close()
		return rows.Err()
	},
	"QueryRow": func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, "COMMIT").Scan(new(int)) },
	"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(write, 3)
		b.Queue("commit")
		return tx.SendBatch(ctx, b).Close()
	},
	"SendBatch of Sluice's own": func(ctx context.Context, tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue("commit /* sluice */")
		return tx.SendBatch(ctx, b).Close()
	},
	"Prepare": func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Prepare(ctx, "done", "COMMIT"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "done")
		return err
	},
	"in a savepoint": func(ctx context.Context, tx pgx.Tx) error {
		return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "COMMIT"); return err })
	},
	"connection Exec": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Conn().Exec(ctx, "COMMIT"); return err },
	"connection Begin": func(ctx context.Context, tx pgx.Tx) error {
		return pgx.BeginFunc(ctx, tx.Conn(), func(tx pgx.Tx) error { _, err := tx.Exec(ctx, write, 2); return err })
	},
	"connection SendBatch": func(ctx context.Context, tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		b.Queue("commit")
		return tx.Conn().SendBatch(ctx, b).Close()
	},
	"pgconn Exec": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().Exec(ctx, "COMMIT").ReadAll()
		return err
	},
	"pgconn ExecParams": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().ExecParams(ctx, "COMMIT", nil, nil, nil, nil).Close()
		return err
	},
	"pgconn's frontend": func(ctx context.Context, tx pgx.Tx) error {
		frontend := tx.Conn().PgConn().Frontend()
		frontend.SendQuery(&pgproto3.Query{String: "COMMIT"})
		return frontend.Flush()
	},
	"pgconn ExecBatch": func(ctx context.Context, tx pgx.Tx) error {
		b := &pgconn.Batch{}
		b.ExecParams("COMMIT", nil, nil, nil, nil)
		_, err := tx.Conn().PgConn().ExecBatch(ctx, b).ReadAll()
		return err
	},
	"pgconn StartPipeline": func(ctx context.Context, tx pgx.Tx) error {
		pipeline := tx.Conn().PgConn().StartPipeline(ctx)
		pipeline.SendQueryParams("COMMIT", nil, nil, nil, nil)
		return errors.Join(pipeline.Sync(), pipeline.Close())
	},
	"pgconn Prepare": func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Conn().PgConn().Prepare(ctx, "", "COMMIT", nil); err != nil {
			return err
		}
		_, err := tx.Conn().PgConn().ExecPrepared(ctx, "", nil, nil, nil).Close()
		return err
	},
	"pgconn ExecPrepared of Sluice's own": func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'commit /* sluice */%'")
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(names) == 0 { // on a connection that has not committed before
			return errors.Join(err, sends("COMMIT")(ctx, tx))
		}
		_, err = tx.Conn().PgConn().ExecPrepared(ctx, names[0], nil, nil, nil).Close()
		return err
	},
	"pgconn CopyTo": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().CopyTo(ctx, io.Discard, "COMMIT")
		return err
	},
	"pgconn CopyFrom": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().CopyFrom(ctx, strings.NewReader(""), "COMMIT")
		return err
	},
	"pgconn's network connection": func(_ context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().Conn().Write(message("COMMIT"))
		return err
	},
	"pgconn's network connection, byte by byte": func(_ context.Context, tx pgx.Tx) (err error) {
		for _, b := range message("COMMIT") {
			_, failed := tx.Conn().PgConn().Conn().Write([]byte{b})
			err = errors.Join(err, failed)
		}
		return err
	},
	"pgconn's network connection, any message": func(_ context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().Conn().Write(message("SELECT 1"))
		return err
	},
	"the frontend's data of a COPY": func(_ context.Context, tx pgx.Tx) error {
		return tx.Conn().PgConn().Frontend().SendUnbufferedEncodedCopyData(message("COMMIT"))
	},
	"half a message": func(ctx context.Context, tx pgx.Tx) error {
		commit := message("commit /* sluice */")
		return tx.Conn().PgConn().Frontend().SendUnbufferedEncodedCopyData(commit[:len(commit)-1])
	},
	"a string that ends where backslashes count": func(ctx context.Context, tx pgx.Tx) error {
		pipeline := tx.Conn().PgConn().StartPipeline(ctx)
		pipeline.SendQueryParams("SET standard_conforming_strings = off", nil, nil, nil, nil)
		pipeline.SendFlushRequest()
		failed := pipeline.Flush()
		frontend := tx.Conn().PgConn().Frontend()
		frontend.SendSync(&pgproto3.Sync{})
		frontend.SendQuery(&pgproto3.Query{String: `SELECT 'a\''; COMMIT; --'`})
		return errors.Join(failed, frontend.Flush(), pipeline.Close())
	},
	"another encoding": func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET client_encoding = 'SJIS'"); err != nil {
			return err
		}
		_, err := tx.Conn().PgConn().Exec(ctx, "SELECT E'\x81\\'; COMMIT; --'").ReadAll()
		return err
	},
	"a hijacked connection": func(_ context.Context, tx pgx.Tx) error {
		raw, err := tx.Conn().PgConn().Hijack()
		if err != nil {
			return err
		}
		raw.Frontend.SendQuery(&pgproto3.Query{String: "COMMIT"})
		return errors.Join(raw.Frontend.Flush(), raw.Conn.Close())
	},
	"a hijacked connection's network connection": func(_ context.Context, tx pgx.Tx) error {
		raw, err := tx.Conn().PgConn().Hijack()
		if err != nil {
			return err
		}
		_, err = raw.Conn.Write(message("COMMIT"))
		return err // it is left open
	},
	"a hijacked connection that is made one again": func(ctx context.Context, tx pgx.Tx) error {
		raw, err := tx.Conn().PgConn().Hijack()
		if err != nil {
			return err
		}
		again, err := pgconn.Construct(raw)
		if err != nil {
			return err
		}
		_, err = again.Exec(ctx, "COMMIT").ReadAll()
		return err
	},
}

// untold are the endings that fail when the batch ends.
var untold = map[string]bool{"half a message": true}

// message is a statement as it is sent.
func message(sql string) []byte {
	encoded, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		panic(err)
	}
	return encoded
}

func sends(sql string) func(context.Context, pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, sql); return err }
}

// users are the places where users' code is given a transaction. Each is to fail where the code
// ends it, and to succeed otherwise.
var users = map[string]func(w *world, code func(context.Context, pgx.Tx) error) error{
	"Each": func(w *world, code func(context.Context, pgx.Tx) error) error {
		return w.apply(handler.Each(func(ctx context.Context, tx pgx.Tx, _ handler.Event) error { return code(ctx, tx) }))
	},
	"Set": func(w *world, code func(context.Context, pgx.Tx) error) error {
		return w.apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error { return code(ctx, tx) }))
	},
	"reset": func(w *world, code func(context.Context, pgx.Tx) error) error {
		return w.reset(handler.WithReset(handler.Set(nil), func(ctx context.Context, tx pgx.Tx, _ handler.Replay) error { return code(ctx, tx) }))
	},
}

// reset has a handler's reset run, in a replay that has begun.
func (w *world) reset(h handler.Handler) error {
	w.t.Helper()
	ctx := context.Background()
	replays, err := w.store.Replays(ctx, processor)
	w.must(err)
	id := fmt.Sprint("replay-", len(replays))
	if n := len(replays); n > 0 && !replays[n-1].Phase.Ended() {
		id = replays[n-1].ID
	}
	w.must(w.store.RequestReplays(ctx, processor, []tokenstore.ReplayRequest{{ID: id, Groups: []string{"view"}, From: progress.StartPosition{Type: progress.Earliest},
		Definition: "d1", State: tokenstore.ReplayWanted}}))
	replays, err = w.store.Replays(ctx, processor)
	w.must(err)
	replay := replays[slices.IndexFunc(replays, func(r tokenstore.Replay) bool { return r.ID == id })]
	if replay.Phase == tokenstore.ReplayPending {
		w.must(w.store.BeginReset(ctx, processor, replay))
	}
	deadline := time.Now().Add(30 * time.Second)
	resetter, _ := handler.ResetterOf(h)
	for {
		try, err := w.store.TryReset(ctx)
		w.must(err)
		err = try.Run(ctx, processor, replay, tokenstoretest.Line{}, tokenstoretest.At(0), tokenstore.ResetRun{
			Handlers: func(ctx context.Context, tx tokenstore.Tx) error {
				return resetter.Reset(ctx, tx, handler.Replay{ID: replay.ID})
			}})
		try.Close(ctx)
		var wait *tokenstore.NotDueError
		switch {
		case err == nil:
			w.must(w.store.Complete(ctx, replay))
			return nil
		case !errors.As(err, &wait) || time.Now().After(deadline):
			return err
		} // else the server has not noticed yet that the connection of the one before is closed
	}
}

// refused checks that code has failed because it would have ended its transaction, without any
// trace.
func (w *world) refused(err error, version int64) {
	w.t.Helper()
	if !errors.Is(err, tokenstore.ErrManagedTransaction) || !strings.Contains(err.Error(), "return nil instead") {
		w.t.Errorf("the error is %v", err)
	}
	if kind, reason := handler.Classify(err, postgres.Errors{}); kind != tokenstore.DefinitionFault || reason != "TransactionEnded" {
		w.t.Errorf("it counts as %s %s", kind, reason)
	}
	if n := w.applied(); n != 0 {
		w.t.Errorf("%d rows are there", n)
	}
	if got := w.token().Version; got != version {
		w.t.Errorf("the token has gone from version %d to %d", version, got)
	}
}

func TestUsersCodeCannotEndItsTransaction(t *testing.T) {
	for user, run := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 20) // those that were hijacked are missing for a while
			cannotEnd(t, w, run)
		})
	}
}

// Below TLS nobody sees what is written, so other things are refused there.
func TestUsersCodeCannotEndItsTransactionOverTLS(t *testing.T) {
	server, _ := postgrestest.StartTLS(t)
	cannotEnd(t, newWorldAt(t, strings.Replace(server.URL("postgres"), "sslmode=disable", "sslmode=require", 1), 20), users["Each"])
}

// cannotEnd has a user's code try each ending.
func cannotEnd(t *testing.T, w *world, run func(w *world, code func(context.Context, pgx.Tx) error) error) {
	for name, end := range endings {
		for _, told := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/told %t", name, told), func(t *testing.T) {
				w := w.of(t)
				version := w.token().Version
				err := run(w, func(ctx context.Context, tx pgx.Tx) error {
					version = w.token().Version // a reset begins by taking the segment from its owner
					if _, err := tx.Exec(ctx, write, 1); err != nil {
						return err
					}
					err := end(ctx, tx)
					if err == nil && !untold[name] {
						t.Error("it is not told that this failed")
					}
					if told {
						return err
					}
					return nil
				})
				w.refused(err, version)
				if err := run(w, sendsOne); err != nil {
					t.Fatalf("once it is corrected: %v", err)
				}
				if n := w.applied(); n != 1 {
					t.Errorf("once it is corrected there are %d rows, want 1", n)
				}
			})
		}
	}
}

// uses are ways to write many rows at once, each 10,000.
var uses = map[string]func(context.Context, pgx.Tx) error{
	"COPY": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"applied"}, []string{"n"}, pgx.CopyFromSlice(10000, func(i int) ([]any, error) { return []any{i}, nil }))
		return err
	},
	"COPY of text with commands in it": func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "CREATE TEMP TABLE texts (t text)"); err != nil {
			return err
		}
		if _, err := tx.Conn().PgConn().CopyFrom(ctx, strings.NewReader(strings.Repeat("Q; COMMIT;\n", 10000)), "COPY texts FROM STDIN"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO applied SELECT 1 FROM texts")
		return err
	},
	"a batch": func(ctx context.Context, tx pgx.Tx) error {
		b := &pgx.Batch{}
		for i := range 10000 {
			b.Queue(write, i)
		}
		return tx.SendBatch(ctx, b).Close()
	},
	"a pipeline": func(ctx context.Context, tx pgx.Tx) error {
		pipeline := tx.Conn().PgConn().StartPipeline(ctx)
		for range 10 {
			for range 100 {
				pipeline.SendQueryParams("INSERT INTO applied SELECT generate_series(1, 10)", nil, nil, nil, nil)
			}
			if err := pipeline.Sync(); err != nil {
				return err
			}
		}
		return pipeline.Close()
	},
	"a long statement": func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO applied VALUES (1)"+strings.Repeat(", (1)", 9999))
		return err
	},
}

func TestUsersCodeCanSendMuchAtOnce(t *testing.T) {
	server, _ := postgrestest.StartTLS(t)
	for transport, w := range map[string]*world{
		"in the clear": newWorld(t, 2),
		"over TLS":     newWorldAt(t, strings.Replace(server.URL("postgres"), "sslmode=disable", "sslmode=require", 1), 2),
	} {
		for name, use := range uses {
			t.Run(transport+"/"+name, func(t *testing.T) {
				w := w.of(t)
				w.must(users["Each"](w, use))
				if n := w.applied(); n != 10000 {
					t.Errorf("%d rows are there, want 10000", n)
				}
			})
		}
	}
}

// of is the world in one of several tests that share it.
func (w *world) of(t *testing.T) *world {
	t.Helper()
	shared := *w
	shared.t = t
	shared.exec(`TRUNCATE applied`)
	return &shared
}

func sendsOne(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, write, 1); return err }

// The usual idiom of pgx rolls back in any case, which does nothing after a commit. Here it must do
// nothing after an error.
func TestADeferredRollbackLeavesTheErrorAsItIs(t *testing.T) {
	broken := errors.New("no such account")
	for user, run := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			err := run(w, func(ctx context.Context, tx pgx.Tx) error {
				defer tx.Rollback(ctx) //nolint:errcheck // this is the idiom
				return errors.Join(sendsOne(ctx, tx), broken)
			})
			if kind, reason := handler.Classify(err, postgres.Errors{}); !errors.Is(err, broken) || kind != tokenstore.EventFault || reason != "HandlerFailed" {
				t.Errorf("%s %s: %v", kind, reason, err)
			}
			if n := w.applied(); n != 0 {
				t.Errorf("%d rows are there", n)
			}
		})
	}
}

// The first of two events loses the transaction, and the error of the second must not be taken for
// the cause.
func TestAnEventThatEndsTheTransactionIsNamed(t *testing.T) {
	w := newWorld(t, 2)
	handled := 0
	err := handler.Each(func(ctx context.Context, tx pgx.Tx, _ handler.Event) error {
		defer tx.Rollback(ctx) //nolint:errcheck // this is the mistake
		handled++
		return sendsOne(ctx, tx)
	}).Apply(t.Context(), batch{w.store, nil}, []*handler.Event{{Position: 1, Type: "Opened"}, {Position: 2, Type: "Paid"}})
	w.refused(err, w.token().Version)
	if !strings.HasPrefix(err.Error(), "Opened at position 1: ") || handled != 1 {
		t.Errorf("%d events were handled; %v", handled, err)
	}
}

func TestSavepointsAreTheHandlersOwn(t *testing.T) {
	for user, run := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			err := run(w, func(ctx context.Context, tx pgx.Tx) error {
				if err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return sendsOne(ctx, tx) }); err != nil {
					return err
				}
				inner, err := tx.Begin(ctx)
				if err != nil {
					return err
				}
				return errors.Join(sendsOne(ctx, inner), inner.Rollback(ctx),
					sends(`SAVEPOINT a; INSERT INTO applied VALUES (2); ROLLBACK TO SAVEPOINT a; RELEASE a`)(ctx, tx))
			})
			if n := w.applied(); err != nil || n != 1 {
				t.Errorf("%d rows are there, want that of the savepoint that was kept: %v", n, err)
			}
		})
	}
}

// rewritten is a statement that becomes another when it is sent.
type rewritten string

func (r rewritten) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return string(r), nil, nil
}

func TestQueuedStatementsCannotEndTheTransaction(t *testing.T) {
	w := newWorld(t, 2)
	for name, queue := range map[string]func(*pgx.Batch){
		"COMMIT":              func(b *pgx.Batch) { b.Queue("COMMIT") },
		"with a comment":      func(b *pgx.Batch) { b.Queue("-- done\nEND") },
		"ROLLBACK and BEGIN":  func(b *pgx.Batch) { b.Queue("ROLLBACK"); b.Queue("BEGIN"); b.Queue(write, 2) },
		"AND CHAIN":           func(b *pgx.Batch) { b.Queue("COMMIT AND CHAIN"); b.Queue(write, 2) },
		"Sluice's own":        func(b *pgx.Batch) { b.Queue("commit /* sluice */") },
		"what is rewritten":   func(b *pgx.Batch) { b.Queue("SELECT 1", rewritten("COMMIT")) },
		"a batch that begins": func(b *pgx.Batch) { b.QueuedQueries = nil; b.BeginTx(pgx.TxOptions{}); b.Queue(write, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			w := w.of(t)
			version := w.token().Version
			run := func(queue func(*pgx.Batch)) error {
				return w.apply(handler.Queue(func(b *pgx.Batch, _ []handler.Event) error {
					b.Queue(write, 1)
					queue(b)
					return nil
				}))
			}
			w.refused(run(queue), version)
			if err := run(func(*pgx.Batch) {}); err != nil {
				t.Fatalf("once it is corrected: %v", err)
			}
			if n := w.applied(); n != 1 {
				t.Errorf("once it is corrected there are %d rows, want 1", n)
			}
		})
	}
}

// meddles is a statement that writes by the connection which it is given to be rewritten: before
// the batch's transaction has begun, if it is the first.
type meddles struct{}

func (meddles) RewriteQuery(ctx context.Context, conn *pgx.Conn, _ string, _ []any) (string, []any, error) {
	_, err := conn.Exec(ctx, write, 3)
	return write, []any{1}, err
}

func TestNothingIsSentBeforeTheTransaction(t *testing.T) {
	w := newWorld(t, 2)
	for name, h := range map[string]handler.Handler{
		"Set": handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error {
			_, err := tx.Exec(ctx, write, meddles{})
			return err
		}),
		"a batch": handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error {
			b := &pgx.Batch{}
			b.Queue(write, meddles{})
			return tx.SendBatch(ctx, b).Close()
		}),
		"Queue": handler.Queue(func(b *pgx.Batch, _ []handler.Event) error { b.Queue(write, meddles{}); return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			w := w.of(t)
			version := w.token().Version
			if err := w.apply(h); err == nil {
				t.Error("it succeeds")
			}
			if n := w.applied(); n != 0 || w.token().Version != version {
				t.Errorf("%d rows are there, the token has gone from version %d to %d", n, version, w.token().Version)
			}
			w.must(w.apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error { return sendsOne(ctx, tx) })))
		})
	}
}

// The first statements of a handler are sent together with Sluice's beginning. On a connection that
// has committed before, pgx knows a prepared statement by the text of Sluice's commit.
func TestTheFirstStatementsCannotBeSluicesCommit(t *testing.T) {
	w := newWorld(t, 1)
	w.must(w.apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error { return sendsOne(ctx, tx) })))
	w = w.of(t)
	version := w.token().Version
	w.refused(w.apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error {
		b := &pgx.Batch{}
		b.Queue(write, 1)
		b.Queue("commit /* sluice */")
		return tx.SendBatch(ctx, b).Close()
	})), version)
}

// pgx asks for rows to copy in a goroutine of its own, where a panic would end the process. What
// stops them reaches the server first, which answers as it does if a statement is cancelled.
func TestRowsToCopyMayFail(t *testing.T) {
	w := newWorld(t, 2)
	failed := errors.New("no such row")
	copies := func(ctx context.Context, tx pgx.Tx, rows func() ([]any, error)) error {
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"applied"}, []string{"n"}, pgx.CopyFromFunc(rows))
		return err
	}
	for name, c := range map[string]struct {
		copy   func(context.Context, pgx.Tx) error
		reason string
	}{
		"a panic": {func(ctx context.Context, tx pgx.Tx) error {
			return copies(ctx, tx, func() ([]any, error) { panic(failed) })
		}, handler.ReasonPanicked},
		"a panic in a savepoint": {func(ctx context.Context, tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
					return copies(ctx, tx, func() ([]any, error) { panic(failed) })
				})
			})
		}, handler.ReasonPanicked},
		"an error": {func(ctx context.Context, tx pgx.Tx) error {
			return copies(ctx, tx, func() ([]any, error) { return nil, failed })
		}, handler.ReasonFailed},
		"an error of text": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Conn().PgConn().CopyFrom(ctx, iotest.ErrReader(failed), "COPY applied FROM STDIN")
			return err
		}, handler.ReasonFailed},
		"a time limit": {func(ctx context.Context, tx pgx.Tx) error {
			return copies(ctx, tx, func() ([]any, error) { return nil, context.DeadlineExceeded })
		}, handler.ReasonTimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.of(t).apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error { return c.copy(ctx, tx) }))
			if kind, reason := handler.Classify(err, postgres.Errors{}); kind != tokenstore.EventFault || reason != c.reason {
				t.Errorf("it is an %s fault, %s: %v", kind, reason, err)
			}
			if err != nil && strings.Contains(err.Error(), "goroutine") {
				t.Errorf("the stack is in the message: %v", err)
			}
			var user *handler.UserError
			if errors.As(err, &user) && (user.Stack != "") != (c.reason == handler.ReasonPanicked) {
				t.Errorf("the stack is %q", user.Stack)
			}
		})
	}
	w = w.of(t)
	n := 0
	w.must(w.apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error {
		return copies(ctx, tx, func() ([]any, error) {
			if n++; n > 3 {
				return nil, nil
			}
			return []any{n}, nil
		})
	})))
	if n := w.applied(); n != 3 {
		t.Errorf("%d rows are there", n)
	}
}

// A handler may keep its connection. After the batch there is no fencing check that could come
// behind what it sends.
func TestAHandlerCannotUseItsConnectionAfterItsBatch(t *testing.T) {
	w := newWorld(t, 2)
	var conn *pgx.Conn
	var savepoint pgx.Tx
	var large pgx.LargeObjects
	for name, c := range map[string]struct {
		keep func(context.Context, pgx.Tx) error
		use  func(context.Context) error
	}{
		"the connection": {
			func(_ context.Context, tx pgx.Tx) error { conn = tx.Conn(); return nil },
			func(ctx context.Context) error { _, err := conn.Exec(ctx, write, 2); return err }},
		"the connection below": {
			func(_ context.Context, tx pgx.Tx) error { conn = tx.Conn(); return nil },
			func(ctx context.Context) error {
				return conn.PgConn().Exec(ctx, "INSERT INTO applied VALUES (2)").Close()
			}},
		"a transaction of its own": {
			func(_ context.Context, tx pgx.Tx) error { conn = tx.Conn(); return nil },
			func(ctx context.Context) error {
				return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return sendsOne(ctx, tx) })
			}},
		"the connection of rows": {
			func(ctx context.Context, tx pgx.Tx) error {
				rows, err := tx.Query(ctx, "SELECT $1::int", 1)
				if err != nil {
					return err
				}
				conn = rows.Conn()
				rows.Close()
				return rows.Err()
			},
			func(ctx context.Context) error { _, err := conn.Exec(ctx, write, 2); return err }},
		"a savepoint": {
			func(ctx context.Context, tx pgx.Tx) (err error) { savepoint, err = tx.Begin(ctx); return err },
			func(ctx context.Context) error { return sendsOne(ctx, savepoint) }},
		"large objects": {
			func(_ context.Context, tx pgx.Tx) error { large = tx.LargeObjects(); return nil },
			func(ctx context.Context) error { _, err := large.Create(ctx, 4711); return err }},
		"a batch that fails": {
			func(_ context.Context, tx pgx.Tx) error { conn = tx.Conn(); return errors.New("no") },
			func(ctx context.Context) error { _, err := conn.Exec(ctx, write, 2); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.of(t)
			failed := w.apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error {
				if err := sendsOne(ctx, tx); err != nil {
					return err
				}
				return c.keep(ctx, tx)
			}))
			before := w.applied()
			if (failed == nil) != (before == 1) {
				t.Fatalf("%d rows are there: %v", before, failed)
			}
			if err := c.use(t.Context()); err == nil {
				t.Error("it can be used")
			}
			var objects int
			w.must(w.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_largeobject_metadata`).Scan(&objects))
			if n := w.applied(); n != before || objects != 0 {
				t.Errorf("%d rows and %d large objects are there", n, objects)
			}
			w.must(w.apply(handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error { return sendsOne(ctx, tx) })))
		})
	}
}

// The server refuses a commit in a procedure that is called in a transaction block, which every
// batch is.
func TestAProcedureCannotEndTheTransaction(t *testing.T) {
	w := newWorld(t, 2)
	for name, h := range map[string]handler.Handler{
		"Set":     handler.Set(func(ctx context.Context, tx pgx.Tx, _ []handler.Event) error { return sends("CALL commits()")(ctx, tx) }),
		"Queue":   handler.Queue(func(b *pgx.Batch, _ []handler.Event) error { b.Queue("CALL commits()"); return nil }),
		"DO":      handler.Queue(func(b *pgx.Batch, _ []handler.Event) error { b.Queue("DO $$ BEGIN COMMIT; END $$"); return nil }),
		"outside": handler.Queue(func(b *pgx.Batch, _ []handler.Event) error { b.Queue("VACUUM applied"); return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			w := w.of(t)
			version := w.token().Version
			if err := w.apply(h); err == nil {
				t.Error("it succeeds")
			}
			if n := w.applied(); n != 0 || w.token().Version != version {
				t.Errorf("%d rows are there, the token has gone from version %d to %d", n, version, w.token().Version)
			}
		})
	}
}

// A handler that writes to the socket itself passes by whatever looks at statements. The fencing
// check sees that it has the transaction no more.
func TestTheFencingCheckKnowsItsTransaction(t *testing.T) {
	w := newWorld(t, 2)
	for _, sql := range []string{"ROLLBACK; BEGIN", "ROLLBACK AND CHAIN"} {
		t.Run(sql, func(t *testing.T) {
			w := w.of(t)
			version := w.token().Version
			w.refused(users["Set"](w, func(ctx context.Context, tx pgx.Tx) error {
				if err := sendsOne(ctx, tx); err != nil {
					return err
				}
				frontend := pgproto3.NewFrontend(tx.Conn().PgConn().Conn(), tx.Conn().PgConn().Conn())
				frontend.SendQuery(&pgproto3.Query{String: sql})
				if err := frontend.Flush(); err != nil {
					return err
				}
				for {
					message, err := frontend.Receive()
					if _, ready := message.(*pgproto3.ReadyForQuery); ready || err != nil {
						return err
					}
				}
			}), version)
		})
	}
}

func TestASetupCannotEndItsTransaction(t *testing.T) {
	w := newWorld(t, 2)
	for i, sql := range []string{"COMMIT", "CREATE TABLE one (i int); COMMIT; CREATE TABLE two (i nosuchtype)", "BEGIN; CREATE TABLE one (i int); END",
		"CREATE TABLE one (i int); ROLLBACK; BEGIN", "CREATE TABLE one (i int); COMMIT AND CHAIN"} {
		t.Run(sql, func(t *testing.T) {
			group := fmt.Sprint("group-", i)
			for range 2 { // one that fails does not count as done
				err := w.directory.SetupOnce(t.Context(), processor, "d1", group, sql, time.Minute)
				if kind, reason := handler.Classify(err, postgres.Errors{}); !errors.Is(err, tokenstore.ErrManagedTransaction) || kind != tokenstore.DefinitionFault || reason != "TransactionEnded" {
					t.Errorf("%s %s: %v", kind, reason, err)
				}
			}
			var there bool
			w.must(w.pool.QueryRow(t.Context(), `SELECT to_regclass('one') IS NOT NULL OR EXISTS (SELECT FROM sluice.setup)`).Scan(&there))
			if there {
				t.Error("it has left something")
			}
		})
	}
	function := `CREATE FUNCTION three() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 3; END; CREATE TABLE one (i int); SAVEPOINT a; RELEASE a; DO $$ BEGIN PERFORM 1; END $$`
	w.must(w.directory.SetupOnce(t.Context(), processor, "d1", "view", function, time.Minute))
	w.must(w.directory.SetupOnce(t.Context(), processor, "d1", "view", function, time.Minute))
	w.exec(`INSERT INTO one SELECT three()`)
}
