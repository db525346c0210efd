package pgproxy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/internal/postgrestest"
)

// world is a table of numbers, and two ways to it.
type world struct {
	t      *testing.T
	proxy  *pgproxy.Proxy
	direct *pgx.Conn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	url := postgrestest.New(t)
	w := &world{t: t, proxy: pgproxy.Start(t, url)}
	w.direct = w.connect(url)
	w.exec(w.direct, `CREATE TABLE number (n int)`)
	return w
}

func (w *world) connect(url string) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) }) // cut off by most tests
	return conn
}

// client connects by way of the proxy.
func (w *world) client() *pgx.Conn { return w.connect(w.proxy.URL() + "&application_name=client") }

func (w *world) exec(conn *pgx.Conn, sql string, args ...any) {
	w.t.Helper()
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// stored are the numbers that the server has committed.
func (w *world) stored() string {
	w.t.Helper()
	var all string
	if err := w.direct.QueryRow(context.Background(), `SELECT coalesce(string_agg(n::text, ' ' ORDER BY n), '') FROM number`).Scan(&all); err != nil {
		w.t.Fatal(err)
	}
	return all
}

const insert = `INSERT INTO number VALUES ($1)`

// ways to have the server commit the number 1.
var ways = map[string]func(context.Context, *pgx.Conn) error{
	"a transaction": func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, insert, 1)
			return err
		})
	},
	"a pipeline": func(ctx context.Context, conn *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue(insert, 1)
		batch.Queue(`SELECT count(*) FROM number`)
		return conn.SendBatch(ctx, batch).Close()
	},
	"a statement": func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, insert, 1)
		return err
	},
	"a statement in the simple protocol": func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `INSERT INTO number VALUES (1)`)
		return err
	},
}

func commitOfNumber(m pgproxy.Message) bool { return m.Commits() && m.Ran("INSERT INTO number") }

func TestWhatTheServerHasCommittedAndWhatTheClientIsTold(t *testing.T) {
	for _, c := range []struct {
		do        pgproxy.Action
		stored    string
		lost, any bool // the connection; whether the server has answered
	}{
		{do: pgproxy.Forward, stored: "1", any: true},
		{do: pgproxy.CutBefore, stored: "", lost: true},
		{do: pgproxy.CutAfter, stored: "1", lost: true, any: true},
		{do: pgproxy.Swallow, stored: "1", lost: true, any: true},
	} {
		for name, commit := range ways {
			t.Run(fmt.Sprint(c.do, "/", name), func(t *testing.T) {
				w := newWorld(t)
				trap := w.proxy.Set(pgproxy.Rule{When: commitOfNumber, Do: c.do})
				client := w.client()
				err := commit(context.Background(), client)
				answer := trap.WaitSettled()
				if (err != nil) != c.lost || client.IsClosed() != c.lost {
					t.Errorf("the client was told %v; closed: %t", err, client.IsClosed())
				}
				var told *pgconn.PgError
				if errors.As(err, &told) {
					t.Errorf("the client was told by the server: %v", err)
				}
				if answer.OK() != c.any {
					t.Errorf("the server has answered %+v", answer)
				}
				if got := w.stored(); got != c.stored {
					t.Errorf("the server has committed %q, want %q", got, c.stored)
				}
			})
		}
	}
}

// TestTheServerGoesOnWithACommitWhoseClientIsGone lets the outcome be open for as long as the test wants.
func TestTheServerGoesOnWithACommitWhoseClientIsGone(t *testing.T) {
	w := newWorld(t)
	w.exec(w.direct, `CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$`)
	w.exec(w.direct, `CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON number DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()`)
	w.exec(w.direct, `SELECT pg_advisory_lock(7)`)
	trap := w.proxy.Set(pgproxy.Rule{When: commitOfNumber, Do: pgproxy.Swallow})
	told, client := make(chan error, 1), w.client()
	go func() { told <- ways["a transaction"](context.Background(), client) }()
	trap.WaitFired()
	trap.Cut()
	if err := <-told; err == nil {
		t.Fatal("the client was told that it has committed")
	}
	if got := w.stored(); got != "" {
		t.Fatalf("%q is committed while the commit waits", got)
	}
	w.exec(w.direct, `SELECT pg_advisory_unlock(7)`)
	if answer := trap.WaitSettled(); !answer.OK() || strings.Join(answer.Tags, " ") != "COMMIT" {
		t.Fatalf("the server has answered %+v", answer)
	}
	if got := w.stored(); got != "1" {
		t.Fatalf("the server has committed %q", got)
	}
}

func TestACommitThatFailsIsAnAnswer(t *testing.T) {
	w := newWorld(t)
	w.exec(w.direct, `ALTER TABLE number ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED`)
	w.exec(w.direct, insert, 1)
	trap := w.proxy.Set(pgproxy.Rule{When: commitOfNumber, Do: pgproxy.Swallow})
	if err := ways["a pipeline"](context.Background(), w.client()); err == nil {
		t.Fatal("the client was told that it has committed")
	}
	if answer := trap.WaitSettled(); answer.Code != "23505" || answer.OK() {
		t.Fatalf("the server has answered %+v", answer)
	}
}

func TestAHeldMessageLetsOthersGoFirst(t *testing.T) {
	for _, do := range []pgproxy.Action{pgproxy.Forward, pgproxy.CutBefore} {
		t.Run(do.String(), func(t *testing.T) {
			w := newWorld(t)
			trap := w.proxy.Set(pgproxy.Rule{When: commitOfNumber, Hold: true, Do: do})
			done := make(chan error, 1)
			client := w.client()
			go func() { done <- ways["a transaction"](context.Background(), client) }()
			trap.WaitFired()
			w.exec(w.direct, insert, 2)
			if got := w.stored(); got != "2" {
				t.Fatalf("%q is stored while the commit is held", got)
			}
			trap.Release()
			err, answer := <-done, trap.WaitSettled()
			want := map[pgproxy.Action]string{pgproxy.Forward: "1 2", pgproxy.CutBefore: "2"}[do]
			if got := w.stored(); got != want || (err == nil) != (do == pgproxy.Forward) || answer.OK() != (err == nil) {
				t.Fatalf("%q is stored, want %q; the client was told %v, the server has answered %+v", got, want, err, answer)
			}
		})
	}
}

func TestARuleFiresOnceAtItsNthMessageOfANamedStatement(t *testing.T) {
	w := newWorld(t)
	trap := w.proxy.Set(pgproxy.Rule{When: commitOfNumber, Nth: 3, Do: pgproxy.CutBefore})
	client := w.client()
	for n := 1; n <= 2; n++ {
		w.exec(client, insert, n) // the text is sent once; then the statement goes by its name
	}
	if _, err := client.Exec(context.Background(), insert, 3); err == nil {
		t.Fatal("the third was not cut off")
	}
	trap.WaitSettled()
	client = w.client()
	w.exec(client, insert, 4)
	if got := w.stored(); got != "1 2 4" {
		t.Fatalf("the server has committed %q", got)
	}
}

func TestTheTransactionIsWhatRanSinceItsBegin(t *testing.T) {
	w := newWorld(t)
	client := w.client()
	trap := w.proxy.Set(pgproxy.Rule{Do: pgproxy.CutBefore, When: func(m pgproxy.Message) bool {
		return m.Commits() && m.Ran("INSERT INTO number", "count(*)") && !m.Ran("pg_sleep")
	}})
	ctx := context.Background()
	w.exec(client, insert, 1)
	w.exec(client, `SELECT count(*) FROM number`) // of another transaction
	w.exec(client, `BEGIN`)
	w.exec(client, insert, 2)
	w.exec(client, `SELECT count(*), pg_sleep(0) FROM number`)
	w.exec(client, `COMMIT`) // has slept
	w.exec(client, `BEGIN`)
	w.exec(client, insert, 3)
	w.exec(client, `SELECT count(*) FROM number`)
	w.exec(client, `ROLLBACK`) // does not commit
	w.exec(client, `BEGIN`)
	w.exec(client, insert, 4)
	w.exec(client, `SELECT count(*) FROM number`)
	if _, err := client.Exec(ctx, `COMMIT`); err == nil {
		t.Fatal("nothing was cut off")
	}
	trap.WaitSettled()
	if got := w.stored(); got != "1 2" {
		t.Fatalf("the server has committed %q", got)
	}
}

func TestCancellationsAndNotificationsPass(t *testing.T) {
	w := newWorld(t)
	client := w.client()
	w.exec(client, `LISTEN news`)
	w.exec(w.direct, `NOTIFY news, 'hello'`)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	news, err := client.WaitForNotification(ctx)
	if err != nil || news.Payload != "hello" {
		t.Fatalf("%+v, %v", news, err)
	}
	sleeps := w.proxy.Set(pgproxy.Rule{When: func(m pgproxy.Message) bool { return m.Runs() && m.Ran("pg_sleep") }})
	done := make(chan error, 1)
	go func() {
		_, err := client.Exec(ctx, `SELECT pg_sleep(60)`)
		done <- err
	}()
	sleeps.WaitFired()
	// The server may not have begun: whoever cancels too early is not heard.
	for err = nil; err == nil; {
		if cancelled := client.PgConn().CancelRequest(ctx); cancelled != nil {
			t.Fatal(cancelled)
		}
		select {
		case err = <-done:
		case <-time.After(20 * time.Millisecond):
		}
	}
	var told *pgconn.PgError
	if !errors.As(err, &told) || told.Code != "57014" {
		t.Fatalf("the statement ended with %v", err)
	}
}

func TestStatementsAreCounted(t *testing.T) {
	w := newWorld(t)
	ours := w.proxy.Count(func(m pgproxy.Message) bool { return m.Application == "client" })
	inserts := w.proxy.Count(func(m pgproxy.Message) bool { return strings.Contains(m.SQL, "INSERT") })
	other := w.connect(w.proxy.URL() + "&application_name=other")
	client := w.client()
	for n := range 3 {
		w.exec(client, insert, n)
	}
	w.exec(client, `SELECT 1`)
	w.exec(other, insert, 9)
	if got := ours.ByText(); ours.Total() != 4 || got[insert] != 3 || got[`SELECT 1`] != 1 {
		t.Errorf("the client's: %v", got)
	}
	if inserts.Total() != 4 {
		t.Errorf("%d inserts: %v", inserts.Total(), inserts.ByText())
	}
}
