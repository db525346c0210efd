// Package sluice is what programs import that run Go handlers in Sluice: event processors for Kubernetes.
//
// A program registers its handlers by the names that the EventProcessor's groups use, and leaves the rest to Main:
//
//	func main() {
//		sluice.Main(sluice.Handlers{"validation": sluice.Each(validate, "PaymentCreated")})
//	}
//
// `go run . dev -f processor.yaml` runs the program with its processor on a developer's machine, without a cluster.
//
// A handler writes in the transaction that it is given: its writes and the move of the segment's token commit together, so
// each event takes effect exactly once. What else it does, such as calling another service, may happen more than once.
package sluice

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/command"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

type (
	// Event is one immutable fact in a stream.
	Event = eventsource.Event
	// Replay is what handlers are told about the one that has them handle events again: its id and context.
	Replay = eventsource.Replay
	// Handler is what a processing group does with its events; Each, Set and Queue make one.
	Handler = handler.Handler
	// Handlers are those of a program, by name.
	Handlers map[string]Handler
)

// ErrManagedTransaction is the error of what would end the transaction that a handler or a reset is
// given: tx.Commit, tx.Rollback, or COMMIT and the like in a statement. Nothing of it is sent, and
// the batch or the reset fails: Sluice itself commits when the function returns nil, and rolls back
// when it returns an error. Savepoints, which tx.Begin makes, are the function's own.
var ErrManagedTransaction = tokenstore.ErrManagedTransaction

// Each makes a handler of a function that is called for one event at a time, in the batch's transaction.
// Without types it gets events of all types. An error undoes the batch; it is tried again, and the event's segment waits.
func Each(handle func(ctx context.Context, tx pgx.Tx, event Event) error, eventTypes ...string) Handler {
	return handler.Each(handle, eventTypes...)
}

// Set makes a handler of a function that is called with a whole batch, in its transaction.
// Without types it gets events of all types.
func Set(handle func(ctx context.Context, tx pgx.Tx, events []Event) error, eventTypes ...string) Handler {
	return handler.Set(handle, eventTypes...)
}

// Queue makes a handler of a function that only queues statements for a batch; they are sent as one pipeline together with
// the commit, which is one round trip. Without types it gets events of all types.
func Queue(handle func(batch *pgx.Batch, events []Event) error, eventTypes ...string) Handler {
	return handler.Queue(handle, eventTypes...)
}

// WithReset makes a handler that can be replayed. reset takes back what the handler has written, in the transaction in which its
// group is moved back; it runs once a replay, while no batch of the group does. Afterwards events come with Event.Replay set
// until they are ones that the group had not handled before.
func WithReset(h Handler, reset func(ctx context.Context, tx pgx.Tx, replay Replay) error) Handler {
	return handler.WithReset(h, reset)
}

// Main runs the command line of a program with handlers: `worker`, which is what runs in a pod and the default; `dev`, which
// runs the program's processor on a developer's machine (`go run . dev -f processor.yaml`); `append`; and `describe`, which
// lists the handlers. It does not return.
func Main(handlers Handlers) {
	command.Main(handlers)
}
