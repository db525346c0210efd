package postgres

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// BenchmarkGuard measures what the guard adds to the messages of a batch of one event, and to a
// COPY.
func BenchmarkGuard(b *testing.B) {
	frontend := func(buf []byte, err error) []byte {
		if err != nil {
			b.Fatal(err)
		}
		return buf
	}
	parse := frontend((&pgproto3.Parse{Name: "stmtcache_1", Query: "INSERT INTO projection VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"}).Encode(nil))
	var batch []byte
	for _, m := range []pgproto3.FrontendMessage{
		&pgproto3.Bind{PreparedStatement: "stmtcache_1", Parameters: [][]byte{make([]byte, 16), make([]byte, 200)}},
		&pgproto3.Execute{}, &pgproto3.Sync{},
		&pgproto3.Bind{PreparedStatement: "stmtcache_2", Parameters: [][]byte{make([]byte, 100), make([]byte, 100)}},
		&pgproto3.Execute{}, &pgproto3.Bind{PreparedStatement: "stmtcache_3"}, &pgproto3.Execute{}, &pgproto3.Sync{},
	} {
		batch = append(batch, frontend(m.Encode(nil))...)
	}
	data := frontend((&pgproto3.CopyData{Data: make([]byte, 65000)}).Encode(nil))
	for name, message := range map[string][]byte{"batch": batch, "statement that is prepared": parse, "copy": data} {
		b.Run(name, func(b *testing.B) {
			config := &pgx.ConnConfig{Config: pgconn.Config{DialFunc: func(context.Context, string, string) (net.Conn, error) { return nowhere{}, nil }}}
			watch(config)
			conn, err := config.DialFunc(context.Background(), "", "")
			if err != nil {
				b.Fatal(err)
			}
			config.BuildFrontend(nil, conn)
			g, _ := guardBelow(conn)
			g.conn = &pgconn.PgConn{}
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
