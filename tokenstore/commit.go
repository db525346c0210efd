package tokenstore

import "context"

// Tx is a transaction of a store, in the type of the store's driver: pgx.Tx for PostgreSQL. Only
// handlers that write there need to know which it is.
type Tx any

// Statements are sent to a store in one message. They are of the type of the store's driver:
// *pgx.Batch for PostgreSQL.
type Statements any

// Commits runs the transactions of batches: what a handler writes, and the moves of the tokens behind
// it. All of it commits, or none. ErrFenced says that a token has moved on, and that nothing was
// written. An error that Classifier.Lost holds for leaves open whether the batch has committed. If
// several tokens move, no lock is waited for longer than 100 ms.
type Commits interface {
	// InTx gives work an open transaction, and commits it if work returns nil. It returns what work
	// has returned.
	InTx(ctx context.Context, advances []Advance, work func(Tx) error) error

	// Pipeline sends statements and the commit in one round trip. The statements are those that
	// queue adds, none of which can end the transaction. If queue fails, nothing is sent.
	Pipeline(ctx context.Context, advances []Advance, queue func(Statements) error) error

	// Queue is Pipeline for statements of users' code. One that would end the transaction fails
	// with ErrManagedTransaction.
	Queue(ctx context.Context, advances []Advance, queue func(Statements) error) error
}
