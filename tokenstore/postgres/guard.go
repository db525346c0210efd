package postgres

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sluice-project/sluice/internal/sqlscan"
	"github.com/sluice-project/sluice/tokenstore"
)

// A transaction with users' statements begins and ends with these texts. The comments tell them
// from a user's own commands, so that none of those is sent by the name of a prepared statement of
// Sluice's.
const (
	beginText       = "begin /* sluice */"
	beginDeferrable = "begin deferrable /* sluice */"
	commitText      = "commit /* sluice */"
)

// guard stands between pgx and a connection's socket. While users' code has the connection,
// whatever way it takes to it, the guard sends nothing that would begin or end a transaction.
//
// What must always hold: between hold and rest the server gets no transaction control but
// Sluice's own. A message that is refused closes the connection, since pgx cannot tell the server
// that the rest of its request is not coming.
//
// What pgx's frontend writes goes through the guard, which looks into it. Anything else is written
// to the socket, which refuses it from the first hold on: with TLS it is not known there what it
// is. The functions of pgx that write to the socket are PgConn.ExecBatch and closing with TLS.
type guard struct {
	mu      sync.Mutex // pgx closes a connection in a goroutine of its own
	socket  *socket
	out     io.Writer // the socket's inner connection, or the TLS connection over the socket
	tls     bool      // out is the latter
	sending atomic.Bool
	conn    *pgconn.PgConn
	given   bool // users' code has had the connection
	held    bool
	begun   bool              // the transaction, which has not been committed yet
	resting bool              // users' code has had the connection, and may have kept it
	ours    []string          // those of Sluice's own texts that may pass
	names   map[string]string // texts, by name, of the prepared statements that were among ours
	partial []byte            // of a message that has not been written to its end
	refused error
	remains bool // prepared statements are left, or are gone that pgx has prepared
}

// socket is the network connection below a PgConn, and below its TLS. The inner connection has no
// exported name: users' code reaches the socket by PgConn.Conn and PgConn.Hijack.
type socket struct {
	inner  net.Conn
	guard  *guard
	ending atomic.Bool // TLS is about to say that it ends: only for that a write deadline is set
}

func (s *socket) Read(p []byte) (int, error)        { return s.inner.Read(p) }
func (s *socket) Close() error                      { return s.inner.Close() }
func (s *socket) LocalAddr() net.Addr               { return s.inner.LocalAddr() }
func (s *socket) RemoteAddr() net.Addr              { return s.inner.RemoteAddr() }
func (s *socket) SetDeadline(t time.Time) error     { return s.inner.SetDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error { return s.inner.SetReadDeadline(t) }

func (s *socket) SetWriteDeadline(t time.Time) error {
	s.ending.Store(true)
	return s.inner.SetWriteDeadline(t)
}

// Write implements net.Conn. It sends what TLS makes of what the guard lets pass, and everything on
// a connection that users' code has never had.
func (s *socket) Write(p []byte) (int, error) {
	g := s.guard
	if g.sending.Load() {
		return s.inner.Write(p)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.given {
		return s.inner.Write(p)
	}
	if g.tls && s.ending.Load() && isAlert(p) {
		return len(p), nil // the server notices the end without
	}
	err := managed("a write past pgx's own messages, such as PgConn.ExecBatch (use tx.SendBatch)")
	if g.held && g.refused == nil {
		g.refused = err
	}
	return 0, err
}

// isAlert reports whether a record of TLS can be an alert. TLS 1.3 encrypts the record's type, but
// no shorter record has a whole message of PostgreSQL's in it.
func isAlert(record []byte) bool {
	const alert, longestAlert = 21, 24
	return len(record) > 0 && record[0] == alert || len(record) <= longestAlert
}

// watch puts guards into connections that are made with a configuration whose DialFunc is set.
func watch(config *pgx.ConnConfig) {
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		inner, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s := &socket{inner: inner, guard: &guard{names: map[string]string{}}}
		s.guard.socket = s
		return s, nil
	}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		g, there := guardBelow(w)
		if !there {
			return pgproto3.NewFrontend(r, w)
		}
		if _, g.tls = w.(*tls.Conn); g.tls {
			g.out = w
		} else {
			g.out = g.socket.inner
		}
		return pgproto3.NewFrontend(r, g)
	}
}

// guardBelow finds the guard of a network connection, which may have TLS.
func guardBelow(conn any) (*guard, bool) {
	if encrypted, is := conn.(*tls.Conn); is {
		conn = encrypted.NetConn()
	}
	s, there := conn.(*socket)
	if !there {
		return nil, false
	}
	return s.guard, true
}

var errUnguarded = errors.New("users' statements need a connection that Open or Connect has made")

func guardOf(conn *pgx.Conn) (*guard, error) {
	g, there := guardBelow(conn.PgConn().Conn())
	if !there {
		return nil, errUnguarded
	}
	g.conn = conn.PgConn()
	return g, nil
}

// hold begins to refuse transaction control.
func (g *guard) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.given, g.held, g.remains, g.refused = true, true, false, nil
	g.begun = g.conn != nil && g.conn.TxStatus() != 'I'
}

// begin lets pass what is a transaction without a beginning of its own.
func (g *guard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begun = true
}

// release ends what hold has begun.
func (g *guard) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
}

// rest is release for a connection that goes back to the pool. From then on the guard refuses what
// a handler sends that has kept the connection after its batch, until Sluice uses the connection
// again.
func (g *guard) rest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.resting = false, true
}

// wake ends what rest has begun.
func (g *guard) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resting = false
}

// refusal returns what was refused since hold.
func (g *guard) refusal() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused == nil && len(g.partial) > 0 {
		g.refused = managed("a message that was not written to its end")
	}
	return g.refused
}

// spoilt reports whether users' code has left something behind that cleaning does not take away.
func (g *guard) spoilt() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.remains || len(g.partial) > 0
}

// own lets some of Sluice's own texts pass while work sends them.
func (g *guard) own(work func(), texts ...string) {
	set := func(texts []string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.ours = texts
	}
	set(texts)
	defer set(nil)
	work()
}

// Write implements io.Writer. Nothing of what it is given is sent where any of it is refused.
func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.held || g.ours != nil:
	case g.resting && !harmless(p):
		return 0, managed("a statement on a connection whose batch has ended")
	default:
		return g.send(p)
	}
	if g.refused != nil {
		if len(p) > 0 && p[0] == 'X' { // Terminate: the server is to undo the transaction at once
			return g.send(p)
		}
		return 0, g.refused
	}
	whole := p
	if len(g.partial) > 0 {
		whole = slices.Concat(g.partial, p)
	}
	n, err := g.check(whole)
	if err != nil {
		g.refused = err
		return 0, err
	}
	if n == len(p) && len(g.partial) == 0 {
		return g.send(p)
	}
	g.partial = slices.Clone(whole[n:])
	if _, err := g.send(whole[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ping is the message that the pool asks a connection with before it gives it away.
var ping = []byte("Q\x00\x00\x00\x0c-- ping\x00")

// harmless reports whether a write does nothing to a transaction: it ends the connection, or is the
// pool's ping.
func harmless(p []byte) bool { return len(p) > 0 && p[0] == 'X' || bytes.Equal(p, ping) }

// send passes on what may pass.
func (g *guard) send(p []byte) (int, error) {
	if g.tls {
		g.sending.Store(true)
		defer g.sending.Store(false)
	}
	return g.out.Write(p)
}

// check looks at messages, and returns the length of those that are there to their end.
func (g *guard) check(messages []byte) (int, error) {
	const header = 5 // a type and the length of what follows, itself included
	n := 0
	for len(messages)-n >= header {
		size := 1 + int(binary.BigEndian.Uint32(messages[n+1:]))
		if size < header || size > len(messages)-n {
			break
		}
		if err := g.checkMessage(messages[n], messages[n+header:n+size]); err != nil {
			return 0, err
		}
		n += size
	}
	return n, nil
}

// errNotBegun refuses what users' code would have run outside of the batch's transaction.
var errNotBegun = managed("a statement before the transaction has begun, or after its commit")

func (g *guard) checkMessage(kind byte, body []byte) error {
	switch kind {
	case 'Q':
		text, _ := cString(body)
		switch ours := slices.Contains(g.ours, text); {
		case ours:
			g.begun = begins(text)
		case !g.begun:
			return errNotBegun
		}
		return g.checkText("", text)
	case 'P':
		name, rest := cString(body)
		text, _ := cString(rest)
		if name != "" && !strings.HasPrefix(name, "stmtcache_") { // of pgx's cache, which tells them apart by their texts
			g.remains = true
		}
		return g.checkText(name, text)
	case 'B': // one for each statement: it allocates nothing
		_, rest, _ := bytes.Cut(body, []byte{0}) // the portal
		name, _, _ := bytes.Cut(rest, []byte{0})
		switch text, ours := g.names[string(name)]; {
		case !ours && !g.begun:
			return errNotBegun
		case !ours:
		case !slices.Contains(g.ours, text):
			return managed(text)
		default:
			g.begun = begins(text)
		}
	case 'F':
		if !g.begun {
			return errNotBegun
		}
	}
	return nil
}

// begins reports whether one of Sluice's own texts begins a transaction. After the others, none is
// under way: they commit or undo it, or clean the session.
func begins(text string) bool { return strings.HasPrefix(text, "begin") }

// checkText refuses a text with transaction control in it that is not Sluice's, and remembers what
// prepared statement is.
func (g *guard) checkText(name, text string) error {
	delete(g.names, name)
	if slices.Contains(g.ours, text) {
		g.names[name] = text
		return nil
	}
	if encoding := g.conn.ParameterStatus("client_encoding"); encoding != "UTF8" && !isASCII(text) {
		return managed("a statement in " + encoding + ", in which Sluice cannot tell its commands apart (leave client_encoding as it is)")
	}
	for _, backslashes := range readings(text) {
		for _, words := range sqlscan.Commands(text, backslashes) {
			if command := sqlscan.Control(words); command != "" {
				return managed(command)
			}
			if words[0] == "PREPARE" || words[0] == "DEALLOCATE" {
				g.remains = true
			}
		}
	}
	return nil
}

// controls remembers which texts have transaction control in them, since the same ones come again
// and again and looking takes some microseconds.
type controls struct {
	mu    sync.Mutex
	known map[string]string
}

// mostControls bounds what is remembered: users' code may write values into its texts.
const mostControls = 1000

// in returns the command in a text that begins or ends a transaction; empty if there is none. Plain
// strings have no escapes: where the server disagrees, the guard looks again.
func (c *controls) in(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	command, there := c.known[text]
	if there {
		return command
	}
	if len(c.known) >= mostControls || c.known == nil {
		c.known = map[string]string{}
	}
	command = sqlscan.TransactionControl(text, false)
	c.known[text] = command
	return command
}

// readings are the settings of backslashes that a text may be read with. A statement before it, to
// which the server has not answered yet, may change standard_conforming_strings.
func readings(text string) []bool {
	if strings.Contains(text, `\'`) {
		return []bool{false, true}
	}
	return []bool{false}
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// cString cuts a text off that ends with a zero byte.
func cString(b []byte) (string, []byte) {
	text, rest, _ := bytes.Cut(b, []byte{0})
	return string(text), rest
}

// managed is the error of a command, or a call, that users' code must leave to Sluice.
func managed(command string) error {
	return fmt.Errorf("%s: %w", command, tokenstore.ErrManagedTransaction)
}
