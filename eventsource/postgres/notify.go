package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"
)

// notifyInterval is the least time between two notifications of a Log: each takes a lock that all commits of the server
// with a notification share.
const notifyInterval = 5 * time.Millisecond

// notifyTimeout ends a notification that does not get through. Readers look by themselves too.
const notifyTimeout = 5 * time.Second

// Channel is the name of the channel on which readers of a schema's events are notified: "sluice_events" for the schema
// "sluice", "sluice_events_" and the schema's name for others, or a hash of it where that would be longer than the 63
// bytes that PostgreSQL allows.
func Channel(schema string) string {
	if schema == "sluice" {
		return "sluice_events"
	}
	name := "sluice_events_" + schema
	if len(name) > 63 {
		h := fnv.New64a()
		h.Write([]byte(schema))
		name = fmt.Sprintf("sluice_events_%016x", h.Sum64())
	}
	return name
}

// notifier sends notifications, at most one an interval. It has a timer only while one is due.
type notifier struct {
	db      DB
	channel string

	mu     sync.Mutex
	due    *time.Timer // nil where none is due
	last   time.Time   // when the last one was sent
	closed bool
	sent   sync.WaitGroup // those that are being sent or due
	err    error          // of the last one
}

// notify makes a notification due that is sent after this call: now, or when the interval since the last one is over.
func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.due != nil {
		return
	}
	n.sent.Add(1)
	n.due = time.AfterFunc(time.Until(n.last.Add(notifyInterval)), n.send)
}

// notifyStatement notifies in a transaction that does not wait until it is on the disk: what it says is worth nothing after a crash,
// and would take a sync from those who append.
const notifyStatement = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')"

// send sends the one that is due. Whoever commits from here on makes another one due.
func (n *notifier) send() {
	defer n.sent.Done()
	n.mu.Lock()
	n.due, n.last = nil, time.Now()
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
	defer cancel()
	_, err := n.db.Exec(ctx, notifyStatement, n.channel)
	n.mu.Lock()
	n.err = err
	n.mu.Unlock()
}

// close waits until what is due has been sent.
func (n *notifier) close() error {
	n.mu.Lock()
	n.closed = true
	if n.due != nil && n.due.Stop() {
		n.due.Reset(0)
	}
	n.mu.Unlock()
	n.sent.Wait()
	return n.err
}
