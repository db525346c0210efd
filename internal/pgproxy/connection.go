package pgproxy

import (
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// connection is a client's, and the one to the server that was made for it.
type connection struct {
	proxy          *Proxy
	client, server net.Conn
	requests       *pgproto3.Backend  // reads what the client sends, and writes to it
	answers        *pgproto3.Frontend // reads what the server sends, and writes to it
	backend        uint32             // the server's process

	mu         sync.Mutex
	transcript transcript
	answer     Answer // of the request that the server works on
	waiting    *Trap  // is to be told of the answer to a request
	request    int    // the number of that request
	mutedFrom  int    // the first request that the client gets no answer to; 0 for none
}

func newConnection(p *Proxy, client, server net.Conn) *connection {
	return &connection{proxy: p, client: client, server: server, transcript: newTranscript(),
		requests: pgproto3.NewBackend(client, client), answers: pgproto3.NewFrontend(server, server)}
}

// run passes messages on until the connection ends on either side.
func (c *connection) run() {
	if !c.startUp() {
		return
	}
	var sending sync.WaitGroup
	sending.Go(c.passRequests)
	c.passAnswers()
	c.client.Close()
	c.server.Close()
	sending.Wait()
}

// startUp passes messages on until the server is ready for statements; false when it does not come to that.
func (c *connection) startUp() bool {
	for {
		message, err := c.requests.ReceiveStartupMessage()
		if err != nil {
			return false
		}
		switch m := message.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := c.client.Write([]byte{'N'}); err != nil {
				return false
			}
		case *pgproto3.CancelRequest:
			if !c.proxy.isCut(m.ProcessID) {
				_ = c.send(m) // how it goes, nobody is told: not by a server either
			}
			return false
		case *pgproto3.StartupMessage:
			c.transcript.application = m.Parameters["application_name"]
			return c.send(m) == nil && c.authenticate()
		}
	}
}

func (c *connection) authenticate() bool {
	for {
		message, err := c.answers.Receive()
		if err != nil || c.tell(message) != nil {
			return false
		}
		switch m := message.(type) {
		case *pgproto3.ReadyForQuery:
			return true
		case *pgproto3.BackendKeyData:
			c.backend = m.ProcessID
		case *pgproto3.AuthenticationCleartextPassword, *pgproto3.AuthenticationMD5Password, *pgproto3.AuthenticationSASL,
			*pgproto3.AuthenticationSASLContinue, *pgproto3.AuthenticationGSS, *pgproto3.AuthenticationGSSContinue:
			if c.requests.SetAuthType(c.answers.GetAuthType()) != nil {
				return false
			}
			reply, err := c.requests.Receive()
			if err != nil || c.send(reply) != nil {
				return false
			}
		}
	}
}

// send gives the server a message.
func (c *connection) send(m pgproto3.FrontendMessage) error {
	c.answers.Send(m)
	return c.answers.Flush()
}

// tell gives the client a message.
func (c *connection) tell(m pgproto3.BackendMessage) error {
	c.requests.Send(m)
	return c.requests.Flush()
}

// passRequests passes on what the client sends, until its end or until a rule cuts the connection.
func (c *connection) passRequests() {
	for {
		request, err := c.requests.Receive()
		if err != nil {
			c.hangUp()
			return
		}
		c.mu.Lock()
		message := c.transcript.note(request)
		c.mu.Unlock()
		if trap := c.proxy.meet(message); trap != nil {
			if !c.spring(trap, request) {
				return
			}
		} else if c.send(request) != nil {
			return
		}
	}
}

// hangUp tells the server that its client sends nothing more; it may still be answering.
func (c *connection) hangUp() {
	if tcp, ok := c.server.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // it may be gone already
	}
}

// spring does what a rule asks for, and reports whether the connection goes on.
func (c *connection) spring(trap *Trap, request pgproto3.FrontendMessage) bool {
	close(trap.fired)
	if trap.rule.Hold {
		select {
		case <-trap.released:
		case <-c.proxy.ended:
			return false
		}
	}
	c.expect(trap, request)
	if trap.rule.Do != Forward {
		c.proxy.cutOff(c.backend)
	}
	if trap.rule.Do == CutBefore {
		c.client.Close()
		c.hangUp()
		return false
	}
	if c.send(request) != nil {
		return false
	}
	if trap.rule.Do != Forward && !c.passRest(request) {
		return false
	}
	switch trap.rule.Do {
	case CutAfter:
		c.client.Close()
	case Swallow:
		select {
		case <-trap.cutOff:
			c.client.Close()
		case <-trap.settled:
		case <-c.proxy.ended:
		}
	case Forward, CutBefore:
	}
	return trap.rule.Do == Forward
}

// passRest passes on what follows a message in its request: without the end of it the server does not answer.
func (c *connection) passRest(request pgproto3.FrontendMessage) bool {
	for !endsRequest(request) {
		var err error
		if request, err = c.requests.Receive(); err != nil {
			return false
		}
		c.mu.Lock()
		c.transcript.note(request)
		c.mu.Unlock()
		if c.send(request) != nil {
			return false
		}
	}
	return true
}

// expect has the trap told of the answer to a request, and keeps from the client what it is not to have.
func (c *connection) expect(trap *Trap, request pgproto3.FrontendMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting, c.request = trap, c.transcript.current(request)
	switch trap.rule.Do {
	case Swallow:
		c.mutedFrom = c.request
	case CutBefore, CutAfter:
		c.mutedFrom = 1
	case Forward:
	}
}

// passAnswers passes on what the server sends until its end, or until it has given an answer that the client is not to have.
func (c *connection) passAnswers() {
	defer c.settle() // it is gone: there will be no answer
	for {
		message, err := c.answers.Receive()
		if err != nil {
			return
		}
		silent, last := c.hear(message)
		if last || !silent && c.tell(message) != nil {
			return
		}
	}
}

// hear takes note of what the server says. silent: not for the client; last: and it was all that the proxy has waited for.
func (c *connection) hear(message pgproto3.BackendMessage) (silent, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	silent = c.mutedFrom > 0 && c.transcript.answered+1 >= c.mutedFrom
	c.answer.note(message)
	ready, ok := message.(*pgproto3.ReadyForQuery)
	if !ok {
		return silent, false
	}
	c.transcript.ready(ready.TxStatus)
	if c.waiting != nil && c.transcript.answered >= c.request {
		c.waiting.settle(c.answer)
		c.waiting = nil
		last = c.mutedFrom > 0
	}
	c.answer = Answer{}
	return silent, last
}

// settle tells a trap that waits for an answer that none will come.
func (c *connection) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting != nil {
		c.waiting.settle(c.answer)
		c.waiting = nil
	}
}
