// Package handler turns events into writes: statements declared in the resource, and functions of the user's program.
//
// What must always hold: everything that a handler writes for a batch is written in the transaction that it was given, or
// not at all; the caller puts the fence into that same transaction. Events of one sequence are handled in their order.
package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

// Event is an event as handlers see it.
type Event = eventsource.Event

// Transaction is the one that a batch is applied in. A handler calls one of its methods, once; when it returns, the
// transaction has committed, the fence included.
type Transaction interface {
	// Pipeline sends statements, the fence and the commit in one round trip. None of the statements
	// can end the transaction.
	Pipeline(ctx context.Context, queue func(tokenstore.Statements) error) error
	// Queue is Pipeline for statements of users' code: one that would end the transaction fails
	// with tokenstore.ErrManagedTransaction.
	Queue(ctx context.Context, queue func(tokenstore.Statements) error) error
	// InTx gives work an open transaction and commits it, with the fence, when work has returned nil.
	InTx(ctx context.Context, work func(tokenstore.Tx) error) error
}

// Handler is what a processing group does with its events.
type Handler interface {
	// Wants reports whether events of a type are to be handled; the others only move the token.
	Wants(eventType string) bool
	// Apply handles events, at least one and only such as it wants, in the order in which they are given. It must not change them: other
	// groups may have them too.
	Apply(ctx context.Context, t Transaction, events []*Event) error
}

// UserError is an error that the user's code returned, or its panic.
type UserError struct {
	Err   error
	Stack string // of a panic
	// Elsewhere says that the code returned it while the transaction's connection was open, or
	// before there was one. If it is about a lost connection, that is another.
	Elsewhere bool
}

func (e *UserError) Error() string { return e.Err.Error() }
func (e *UserError) Unwrap() error { return e.Err }

// types are the event types that a handler wants; none means all.
type types struct {
	few  []string
	many map[string]bool // instead of few, where comparing each would take longer
}

// fewTypes are compared faster than one is looked up.
const fewTypes = 4

func typesOf(names []string) types {
	if len(names) <= fewTypes {
		return types{few: names}
	}
	t := types{many: make(map[string]bool, len(names))}
	for _, name := range names {
		t.many[name] = true
	}
	return t
}

func (t types) Wants(eventType string) bool {
	if t.many != nil {
		return t.many[eventType]
	}
	return len(t.few) == 0 || slices.Contains(t.few, eventType)
}

// each calls a function for one event at a time.
type each struct {
	types
	handle func(context.Context, pgx.Tx, Event) error
}

// Each makes a handler of a function that is called for one event at a time, in the batch's transaction.
// Without types it gets events of all types.
func Each(handle func(context.Context, pgx.Tx, Event) error, eventTypes ...string) Handler {
	return &each{typesOf(eventTypes), handle}
}

func (h *each) Apply(ctx context.Context, t Transaction, events []*Event) error {
	return inTx(ctx, t, func(tx pgx.Tx) error {
		var event *Event
		err := guard(tx, func() error {
			for i := range events {
				event = events[i]
				handling(t, i)
				if err := h.handle(ctx, tx, own(event)); err != nil {
					return err
				}
				if err := ended(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return &EventError{Position: event.Position, Type: event.Type, Err: err}
		}
		return nil
	})
}

// EventError is an error at one event of a batch. A worker splits the batch there.
type EventError struct {
	Position int64
	Type     string
	Err      error
}

func (e *EventError) Error() string {
	return fmt.Sprintf("%s at position %d: %s", e.Type, e.Position, e.Err)
}
func (e *EventError) Unwrap() error { return e.Err }

// Tracker is a Transaction that is told which event of the batch is being handled.
type Tracker interface {
	// At says that the event with this index is next.
	At(index int)
}

func handling(t Transaction, index int) {
	if tracker, ok := t.(Tracker); ok {
		tracker.At(index)
	}
}

// set calls a function for a whole batch.
type set struct {
	types
	handle func(context.Context, pgx.Tx, []Event) error
}

// Set makes a handler of a function that is called with a whole batch, in its transaction.
// Without types it gets events of all types.
func Set(handle func(context.Context, pgx.Tx, []Event) error, eventTypes ...string) Handler {
	return &set{typesOf(eventTypes), handle}
}

func (h *set) Apply(ctx context.Context, t Transaction, events []*Event) error {
	return inTx(ctx, t, func(tx pgx.Tx) error {
		return guard(tx, func() error { return h.handle(ctx, tx, values(events)) })
	})
}

// queue calls a function that only says what to write.
type queue struct {
	types
	handle func(*pgx.Batch, []Event) error
}

// Queue makes a handler of a function that queues statements for a batch; they are sent as one pipeline together with the
// commit. Without types it gets events of all types.
func Queue(handle func(*pgx.Batch, []Event) error, eventTypes ...string) Handler {
	return &queue{typesOf(eventTypes), handle}
}

func (h *queue) Apply(ctx context.Context, t Transaction, events []*Event) error {
	users := &pgx.Batch{}
	if err := guard(nil, func() error { return h.handle(users, values(events)) }); err != nil {
		return err
	}
	// Whoever reads a result may refuse it: the commit must not be on its way then.
	if slices.ContainsFunc(users.QueuedQueries, func(q *pgx.QueuedQuery) bool { return q.Fn != nil }) {
		return inTx(ctx, t, func(tx pgx.Tx) error {
			return guard(tx, func() error { return tx.SendBatch(ctx, users).Close() })
		})
	}
	return t.Queue(ctx, func(s tokenstore.Statements) error {
		batch, err := postgresBatch(s)
		if err != nil {
			return err
		}
		for _, query := range users.QueuedQueries {
			query.Fn = ofUser
		}
		batch.QueuedQueries = append(batch.QueuedQueries, users.QueuedQueries...)
		return nil
	})
}

// ofUser makes the error of a statement that the user's code has queued the user's.
func ofUser(results pgx.BatchResults) error {
	_, err := results.Exec()
	if err == nil {
		return nil
	}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return &UserError{Err: err}
	}
	return err
}

// roomBytes is how much memory the data of small events shares. A handler that keeps the data of one
// event keeps as much at most.
const roomBytes = 4 << 10

// values are events for users' code, which may do with them as it likes. Small events share pieces
// of memory, which costs less than a piece for each.
func values(events []*Event) []Event {
	left := 0
	for _, e := range events {
		left += len(e.Data) + len(e.Metadata)
	}
	all, room := make([]Event, len(events)), []byte(nil)
	for i, e := range events {
		size := len(e.Data) + len(e.Metadata)
		if size > cap(room)-len(room) {
			room = make([]byte, 0, max(size, min(left, roomBytes)))
		}
		all[i], room = owned(e, room)
		left -= size
	}
	return all
}

// own is an event whose parts nobody else has: the user's code may write into them, and into what
// it appends to them.
func own(e *Event) Event {
	v, _ := owned(e, make([]byte, 0, len(e.Data)+len(e.Metadata)))
	return v
}

// owned is own with the data in room, which must have the capacity. It returns the room with it.
func owned(e *Event, room []byte) (Event, []byte) {
	v := *e
	v.Data, room = copied(e.Data, room)
	v.Metadata, room = copied(e.Metadata, room)
	if e.Replay != nil {
		v.Replay = &Replay{ID: e.Replay.ID, Context: maps.Clone(e.Replay.Context)}
	}
	return v, room
}

// copied copies a text into room. Appending to the copy does not write into the room behind it.
func copied(text json.RawMessage, room []byte) (json.RawMessage, []byte) {
	if text == nil {
		return nil, room
	}
	end := len(room) + len(text)
	room = append(room, text...)
	return json.RawMessage(room[end-len(text) : end : end]), room
}

// ended returns the error of a handler that has ended its transaction, though it may not say so
// itself.
func ended(tx pgx.Tx) error {
	if managed, ok := tx.(interface{ Ended() error }); ok {
		return managed.Ended()
	}
	return nil
}

// errConnection marks an error of the user's code that comes from a lost connection.
var errConnection = errors.New("the connection was lost")

// ErrExited is the error of user's code that ended its goroutine.
var ErrExited error = &UserError{Err: errors.New("the handler ended its goroutine by runtime.Goexit, as the Fatal and Skip methods of tests do: return an error instead")}

// guard runs the user's code, with its transaction or, for code that only queues, without one. What
// it returns is evidence against the event, unless the transaction's connection is gone.
func guard(tx pgx.Tx, work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &UserError{Err: fmt.Errorf("the handler panicked: %v", p), Stack: string(debug.Stack())}
		}
	}()
	err = work()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tokenstore.ErrManagedTransaction):
		return err
	case closed(tx):
		return fmt.Errorf("%w: %w", errConnection, err)
	default:
		return userError(err)
	}
}

// closed reports whether a transaction has lost its connection.
func closed(tx pgx.Tx) bool {
	if tx == nil {
		return false
	}
	conn := tx.Conn()
	return conn != nil && conn.IsClosed()
}

// userError is an error that the user's code has returned. One that panics when it is asked for its
// text, as a nil pointer in an error does, must not do so again wherever it is reported.
func userError(returned error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &UserError{Err: fmt.Errorf("the handler returned a %T whose text cannot be had: %v", returned, p), Stack: string(debug.Stack())}
		}
	}()
	_ = returned.Error()
	user := &UserError{Err: returned, Elsewhere: true}
	var panicked *tokenstore.PanicError
	if errors.As(returned, &panicked) {
		user.Stack = panicked.Stack
	}
	return user
}
