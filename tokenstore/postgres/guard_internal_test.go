package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore"
)

// BenchmarkGuard measures what the guard adds to the messages of a batch of one event, and to a
// COPY.
func BenchmarkGuard(b *testing.B) {
	parse := encoded(b, &pgproto3.Parse{Name: "stmtcache_1", Query: "INSERT INTO projection VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"})
	batch := encoded(b,
		&pgproto3.Bind{PreparedStatement: "stmtcache_1", Parameters: [][]byte{make([]byte, 16), make([]byte, 200)}},
		&pgproto3.Execute{}, &pgproto3.Sync{},
		&pgproto3.Bind{PreparedStatement: "stmtcache_2", Parameters: [][]byte{make([]byte, 100), make([]byte, 100)}},
		&pgproto3.Execute{}, &pgproto3.Bind{PreparedStatement: "stmtcache_3"}, &pgproto3.Execute{}, &pgproto3.Sync{},
	)
	data := encoded(b, &pgproto3.CopyData{Data: make([]byte, 65000)})
	for name, message := range map[string][]byte{"batch": batch, "statement that is prepared": parse, "copy": data} {
		b.Run(name, func(b *testing.B) {
			g := guardOfNowhere(b)
			g.hold()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Write(message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return io.Discard.Write(p) }

// guardOfNowhere is the guard of a connection that has no server.
func guardOfNowhere(t testing.TB) *guard {
	t.Helper()
	config := &pgx.ConnConfig{Config: pgconn.Config{DialFunc: func(context.Context, string, string) (net.Conn, error) { return nowhere{}, nil }}}
	watch(config)
	conn, err := config.DialFunc(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	config.BuildFrontend(nil, conn)
	g, _ := guardBelow(conn)
	g.conn = &pgconn.PgConn{}
	return g
}

// encoded are messages as they are sent.
func encoded(t testing.TB, messages ...pgproto3.FrontendMessage) (sent []byte) {
	t.Helper()
	for _, m := range messages {
		var err error
		if sent, err = m.Encode(sent); err != nil {
			t.Fatal(err)
		}
	}
	return sent
}

// A handler may leave a goroutine running that uses the connection. What that sends behind the
// commit would be written without a fencing check.
func TestTheGuardRefusesAStatementBehindTheCommit(t *testing.T) {
	const clean = "SELECT clean()"
	g := guardOfNowhere(t)
	statement := func(name, text string) []byte {
		return encoded(t, &pgproto3.Parse{Name: name, Query: text}, &pgproto3.Bind{PreparedStatement: name}, &pgproto3.Execute{})
	}
	sends := func(messages ...[]byte) func() {
		return func() {
			if _, err := g.Write(bytes.Join(messages, nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	insert := statement("stmtcache_2", "INSERT INTO projection VALUES (1)")
	g.hold()
	g.own(sends(statement("stmtcache_1", beginText)), beginText)
	sends(insert)()
	g.own(sends(statement("stmtcache_3", commitText), statement("stmtcache_4", clean)), commitText, clean)
	if _, err := g.Write(insert); !errors.Is(err, tokenstore.ErrManagedTransaction) {
		t.Errorf("a statement behind the commit: %v", err)
	}
}

func TestTheGuardLetsOnlyThePingPassBetweenBatches(t *testing.T) {
	g := guardOfNowhere(t)
	g.hold()
	g.rest()
	for text, passes := range map[string]bool{"-- ping": true, "INSERT INTO projection VALUES (1) -- ping": false} {
		if _, err := g.Write(encoded(t, &pgproto3.Query{String: text})); (err == nil) != passes {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// tapped is a network connection that passes what is written to tap first.
type tapped struct {
	net.Conn
	tap func([]byte)
}

func (c tapped) Write(p []byte) (int, error) {
	c.tap(p)
	return c.Conn.Write(p)
}

// A handler that fails may have left a goroutine running. Until its transaction is undone, that
// must not commit it.
func TestTheGuardGoesOnUntilABatchIsUndone(t *testing.T) {
	ctx := t.Context()
	config, err := pgx.ParseConfig(postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	var g *guard
	undone := 0
	pool, err := Open(Options{
		Target: func(context.Context) (Target, error) {
			return Target{Host: config.Host, Port: config.Port, Database: config.Database, User: config.User, Password: config.Password}, nil
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return tapped{conn, func(p []byte) {
				if bytes.Contains(p, []byte("rollback")) {
					if undone++; !g.held {
						t.Error("the guard lets everything pass while the batch is undone")
					}
				}
			}}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		_, err := Migrate(ctx, conn.Conn(), DefaultSchema)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("no such account")
	err = NewStore(pool, DefaultSchema).InPgx(ctx, nil, func(tx pgx.Tx) (err error) {
		if g, err = guardOf(tx.Conn()); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) || undone != 1 {
		t.Errorf("undone %d times: %v", undone, err)
	}
}
