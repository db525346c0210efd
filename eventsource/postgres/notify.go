package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"
)

// Each notification takes a lock that all commits of the server with a notification share, and is a transaction beside the appends.
const (
	// notifyInterval is the least time between two notifications of a Log.
	notifyInterval = 5 * time.Millisecond
	// busyInterval is the least time before one that is for an append less than notifyInterval after another: readers that have found that one
	// look again every few milliseconds by themselves. It is for those whose last event was longer ago.
	busyInterval = 50 * time.Millisecond
)

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

// notifier sends notifications: at once after a pause, and the fewer the closer appends follow one another. It has a timer only while one is
// due.
type notifier struct {
	db      DB
	channel string

	mu     sync.Mutex
	due    *time.Timer // nil where none is due
	at     time.Time   // when it is due
	asked  time.Time   // when one was last asked for
	last   time.Time   // when the last one was sent
	closed bool
	sent   sync.WaitGroup // those that are being sent or due
	err    error          // of the last one
}

// notify makes a notification due that is sent after this call: now, or when the interval since the last one is over.
func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	now, interval := time.Now(), notifyInterval
	if now.Sub(n.asked) < notifyInterval {
		interval = busyInterval
	}
	n.asked = now
	at := n.last.Add(interval)
	switch {
	case n.due == nil:
		n.sent.Add(1)
		n.at, n.due = at, time.AfterFunc(at.Sub(now), n.send)
	case at.Before(n.at) && n.due.Stop(): // else it is about to be sent, or early enough
		n.at = at
		n.due.Reset(at.Sub(now))
	}
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
