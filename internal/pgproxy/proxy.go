// Package pgproxy stands, in tests, between PostgreSQL's clients and their server. It understands the protocol, so that a test can
// name the message at which a connection is to break: before it reaches the server, right behind it, or with its answer lost. It
// can hold a message back while somebody else acts, and count statements.
//
// What must always hold:
//   - What no rule is about passes unchanged and in order: statements, answers, notifications, cancellations.
//   - Of a message that is cut off the server never sees a byte; of one that was let through before the cut, every byte.
//   - A client whose connection was cut gets nothing more, and cannot cancel what the server still does. The server has its end
//     for as long as it works on the answer, as when a network breaks in the middle.
//
// Only plain connections: a client that asks for encryption is told that the server has none.
package pgproxy

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy of one server.
type Proxy struct {
	t        testing.TB
	server   string // host and port
	database url.URL
	listener net.Listener
	ended    chan struct{}
	running  sync.WaitGroup

	mu       sync.Mutex
	traps    []*Trap
	counters []*Counter
	open     map[net.Conn]struct{}
	cut      map[uint32]bool // the server's processes whose clients were cut off
}

// Start starts a proxy before the server of a URL, until the end of the test.
func Start(t testing.TB, server string) *Proxy {
	t.Helper()
	database, err := url.Parse(server)
	if err != nil {
		t.Fatalf("the server's URL: %v", err)
	}
	listener, err := listen()
	if err != nil {
		t.Fatalf("starting a proxy: %v", err)
	}
	p := &Proxy{t: t, server: database.Host, database: *database, listener: listener, ended: make(chan struct{}), open: map[net.Conn]struct{}{},
		cut: map[uint32]bool{}}
	p.database.Host = listener.Addr().String()
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// URL of the same database, by way of the proxy.
func (p *Proxy) URL() string { return p.database.String() }

// listen looks below the range from which kernels hand out ports for outgoing connections.
func listen() (listener net.Listener, err error) {
	for range 100 {
		listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.N(12000)))
		if err == nil {
			return listener, nil
		}
	}
	return nil, err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve connects a client with the server until one of them, or a rule, ends the connection.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return // the server is down: so is the client's connection
	}
	defer server.Close()
	if !p.keep(client, server) {
		return
	}
	defer p.forget(client, server)
	newConnection(p, client, server).run()
}

// keep takes note of connections to be closed with the proxy; false when that is closed already.
func (p *Proxy) keep(all ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		return false
	default:
	}
	for _, conn := range all {
		p.open[conn] = struct{}{}
	}
	return true
}

func (p *Proxy) forget(all ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range all {
		delete(p.open, conn)
	}
}

func (p *Proxy) cutOff(backend uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut[backend] = true
}

func (p *Proxy) isCut(backend uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut[backend]
}

// close ends everything: how its connections end is of no interest any more.
func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	close(p.ended)
	for conn := range p.open {
		conn.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}
