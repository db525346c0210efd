package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sluice-project/sluice/internal/sqlscan"
	"github.com/sluice-project/sluice/tokenstore"
)

// A transaction with users' statements begins and ends with these texts. The comments tell them from a user's own commands, so that
// none of those is sent by the name of a prepared statement of Sluice's.
const (
	beginText       = "begin /* sluice */"
	beginDeferrable = "begin deferrable /* sluice */"
	commitText      = "commit /* sluice */"
)

// guard stands between pgx and a connection's socket. While users' code has the connection, whatever way it takes to it, the guard
// sends nothing that would begin or end a transaction.
//
// What must always hold: between hold and release the server gets no transaction control but Sluice's own. A message that is
// refused closes the connection, since pgx cannot tell the server that the rest of its request is not coming.
type guard struct {
	mu      sync.Mutex // pgx closes a connection in a goroutine of its own
	out     io.Writer
	conn    *pgconn.PgConn
	held    bool
	ours    []string        // those of Sluice's own texts that may pass
	names   map[string]bool // of the prepared statements that are Sluice's begin and commit
	partial []byte          // of a message that has not been written to its end
	refused error
	remains bool // prepared statements are left, or are gone that pgx has prepared
}

// guardKey finds a connection's guard in its custom data.
const guardKey = "sluice.guard"

// watch puts a guard into connections that are made with a configuration.
func watch(config *pgx.ConnConfig) {
	g := &guard{names: map[string]bool{}}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		g.out = w
		return pgproto3.NewFrontend(r, g)
	}
	config.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
		g.conn = conn
		conn.CustomData()[guardKey] = g
		return nil
	}
}

var errUnguarded = errors.New("users' statements need a connection that Open or Connect has made")

func guardOf(conn *pgx.Conn) (*guard, error) {
	g, there := conn.PgConn().CustomData()[guardKey].(*guard)
	if !there {
		return nil, errUnguarded
	}
	return g, nil
}

// hold begins to refuse transaction control.
func (g *guard) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.remains, g.refused = true, false, nil
}

// release ends what hold has begun.
func (g *guard) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
}

// refusal returns what was refused since hold.
func (g *guard) refusal() error {
	g.mu.Lock()
	defer g.mu.Unlock()
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
	if !g.held && g.ours == nil {
		return g.out.Write(p)
	}
	if g.refused != nil {
		if len(p) > 0 && p[0] == 'X' { // Terminate: the server is to undo the transaction at once
			return g.out.Write(p)
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
		return g.out.Write(p)
	}
	g.partial = slices.Clone(whole[n:])
	if _, err := g.out.Write(whole[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
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

func (g *guard) checkMessage(kind byte, body []byte) error {
	switch kind {
	case 'Q':
		text, _ := cString(body)
		return g.checkText("", text)
	case 'P':
		name, rest := cString(body)
		text, _ := cString(rest)
		if name != "" && !strings.HasPrefix(name, "stmtcache_") { // of pgx's cache, which tells them apart by their texts
			g.remains = true
		}
		return g.checkText(name, text)
	case 'B':
		_, rest := cString(body) // the portal
		if name, _ := cString(rest); g.names[name] && g.ours == nil {
			return managed("COMMIT")
		}
	}
	return nil
}

// checkText refuses a text with transaction control in it that is not Sluice's, and remembers what prepared statement is.
func (g *guard) checkText(name, text string) error {
	delete(g.names, name)
	if slices.Contains(g.ours, text) {
		g.names[name] = name != ""
		return nil
	}
	backslashes := g.conn.ParameterStatus("standard_conforming_strings") == "off"
	if command := sqlscan.TransactionControl(text, backslashes); command != "" {
		return managed(command)
	}
	for _, words := range sqlscan.Commands(text, backslashes) {
		if words[0] == "PREPARE" || words[0] == "DEALLOCATE" {
			g.remains = true
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

// cString cuts a text off that ends with a zero byte.
func cString(b []byte) (string, []byte) {
	text, rest, _ := bytes.Cut(b, []byte{0})
	return string(text), rest
}

// managed is the error of a command, or a call, that users' code must leave to Sluice.
func managed(command string) error {
	return fmt.Errorf("%s: %w", command, tokenstore.ErrManagedTransaction)
}
