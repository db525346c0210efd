package pgproxy

import (
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// When says which messages are meant. It must not call the proxy.
type When func(Message) bool

// Action is what is done with a message.
type Action int

const (
	// Forward lets it pass.
	Forward Action = iota
	// CutBefore ends the connection in its place: the server never sees it.
	CutBefore
	// CutAfter lets it pass and ends the client's connection at once. The server goes on, and keeps its end until it has answered.
	CutAfter
	// Swallow lets it pass, waits for the whole answer, and ends the connection instead of passing that on.
	Swallow
)

func (a Action) String() string {
	return [...]string{"forward", "cut before", "cut after", "swallow the answer"}[a]
}

// Rule is what a proxy does once.
type Rule struct {
	When When
	// Nth of the messages that When is true for; 0 is the first, like 1.
	Nth int
	// Hold keeps the message back until the trap is released.
	Hold bool
	// Do is done with the message, after that.
	Do Action
}

// Trap is a rule that has been set.
type Trap struct {
	proxy    *Proxy
	rule     Rule
	met      int       // under the proxy's lock
	sprung   bool      // likewise
	at       time.Time // before fired is closed
	fired    chan struct{}
	settled  chan struct{}
	released chan struct{}
	release  func()
	cutOff   chan struct{}
	cut      func()
	answer   Answer // before settled is closed
}

// Set makes the proxy follow a rule, from the next message on. Of several rules that a message would fire, the one that was set
// first does; the others wait for their next one.
func (p *Proxy) Set(r Rule) *Trap {
	trap := &Trap{proxy: p, rule: r, fired: make(chan struct{}), settled: make(chan struct{}),
		released: make(chan struct{}), cutOff: make(chan struct{})}
	trap.release = sync.OnceFunc(func() { close(trap.released) })
	trap.cut = sync.OnceFunc(func() { close(trap.cutOff) })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.traps = append(p.traps, trap)
	return trap
}

// meet counts a message, and returns the trap that it fires.
func (p *Proxy) meet(m Message) *Trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.counters {
		if m.Runs() && c.when(m) {
			c.byText[m.SQL]++
		}
	}
	var first *Trap
	for _, trap := range p.traps {
		if trap.sprung || !trap.rule.When(m) {
			continue
		}
		if trap.met++; trap.met >= trap.rule.Nth && first == nil {
			trap.sprung, trap.at, first = true, time.Now(), trap
		}
	}
	return first
}

// patience is how long a test waits for a trap before it fails.
const patience = 30 * time.Second

// Fired is closed when the rule's message has come.
func (t *Trap) Fired() <-chan struct{} { return t.fired }

// WaitFired waits until the rule's message has come, and returns when that was. It fails the test when that does not happen: it
// would show nothing.
func (t *Trap) WaitFired() time.Time {
	t.proxy.t.Helper()
	t.wait(t.fired, "no message has met the rule")
	return t.at
}

// Release lets go of a message that is held.
func (t *Trap) Release() { t.release() }

// Cut ends the connection of a client whose answer is to be swallowed, before the server has given one.
func (t *Trap) Cut() { t.cut() }

// WaitSettled waits until the server can do nothing more about the message and returns its answer: it has given one, or its
// end of the connection is closed, and what was not committed then is rolled back.
func (t *Trap) WaitSettled() Answer {
	t.proxy.t.Helper()
	t.WaitFired()
	t.wait(t.settled, "the server has not answered")
	return t.answer
}

func (t *Trap) wait(come <-chan struct{}, otherwise string) {
	t.proxy.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-come:
	case <-timer.C:
		t.proxy.t.Fatalf("waited %s: %s (to %s)", patience, otherwise, t.rule.Do)
	}
}

func (t *Trap) settle(a Answer) {
	t.answer = a
	close(t.settled)
}

// Answer is what the server has answered, whether or not the client was told.
type Answer struct {
	// Given is false when the server has not seen the message, or has ended before it was ready for another one.
	Given bool
	// Tags of the commands that were completed, such as COMMIT.
	Tags []string
	// Code is the SQLSTATE of the error, empty where there was none.
	Code string
}

// OK reports whether the server has done all that it was asked for.
func (a Answer) OK() bool { return a.Given && a.Code == "" }

func (a *Answer) note(message pgproto3.BackendMessage) {
	switch m := message.(type) {
	case *pgproto3.CommandComplete:
		a.Tags = append(a.Tags, string(m.CommandTag))
	case *pgproto3.ErrorResponse:
		a.Code = m.Code
	case *pgproto3.ReadyForQuery:
		a.Given = true
	}
}
