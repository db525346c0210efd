package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sluice-project/sluice/tokenstore"
)

// handlerTx is the transaction of a handler. It begins together with its first statement and
// commits together with the fencing check, so that neither costs a round trip of its own; where the
// handler has sent nothing, the check is all there is.
type handlerTx struct {
	ctx   context.Context // of the batch, for those methods of pgx.Tx that are given none
	conn  *pgx.Conn
	guard *guard
	tx    pgx.Tx // nil before it has begun
	start opening
	clean string // the statement that cleans the session

	ended error  // set when the transaction is no longer the handler's
	call  string // of the handler's that would have ended the transaction
}

var _ pgx.Tx = (*handlerTx)(nil)

// beginPatience bounds a beginning whose caller gave no context.
const beginPatience = 5 * time.Second

// newHandlerTx gives a connection to users' code, until the transaction's end is called.
func newHandlerTx(ctx context.Context, conn *pgx.Conn, start opening, clean string) (*handlerTx, error) {
	guard, err := guardOf(conn)
	if err != nil {
		return nil, err
	}
	guard.hold()
	return &handlerTx{ctx: ctx, conn: conn, guard: guard, start: start, clean: clean}, nil
}

// open begins the transaction unless it has begun.
func (t *handlerTx) open(ctx context.Context) (tx pgx.Tx, err error) {
	if t.ended != nil {
		return nil, t.ended
	}
	if t.tx == nil {
		text := t.start.text()
		t.guard.own(func() { tx, err = t.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: text}) }, text)
		if err != nil {
			return nil, err
		}
		t.tx = tx
	}
	return t.tx, nil
}

// mustOpen begins it where there is no context and no way to tell of an error: the connection is closed after one.
func (t *handlerTx) mustOpen() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), beginPatience)
	defer cancel()
	_, _ = t.open(ctx)
}

// first reports whether a statement is the first one, and may be sent together with the beginning. Those without arguments may be
// several in one text, and options are not for statements that are sent together.
func (t *handlerTx) first(args []any) bool {
	if t.tx != nil || t.ended != nil || len(args) == 0 {
		return false
	}
	switch args[0].(type) {
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
		return false
	}
	return true
}

// beginWith sends the beginning together with statements, and returns their results.
func (t *handlerTx) beginWith(ctx context.Context, statements ...*pgx.QueuedQuery) (results pgx.BatchResults) {
	batch := &pgx.Batch{}
	batch.BeginTx(pgx.TxOptions{BeginQuery: beginText})
	t.start.queue(batch)
	before := batch.Len()
	batch.QueuedQueries = append(batch.QueuedQueries, statements...)
	t.guard.own(func() { results = t.conn.SendBatch(ctx, batch) }, beginText)
	t.tx = results.Tx()
	for range before {
		_, _ = results.Exec() // of the beginning; its error is that of the ones after it, too
	}
	return results
}

// Exec implements pgx.Tx.
func (t *handlerTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if t.first(args) {
		results := t.beginWith(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
		tag, err := results.Exec()
		if closed := results.Close(); err == nil {
			err = closed
		}
		return tag, err
	}
	tx, err := t.open(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tx.Exec(ctx, sql, args...)
}

// Query implements pgx.Tx.
func (t *handlerTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.first(args) {
		results := t.beginWith(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
		rows, err := results.Query()
		all := &firstRows{Rows: rows, results: results}
		if err != nil {
			all.Close()
		}
		return all, err
	}
	tx, err := t.open(ctx)
	if err != nil {
		return failedRows{err}, err
	}
	return tx.Query(ctx, sql, args...)
}

// QueryRow implements pgx.Tx.
func (t *handlerTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := t.Query(ctx, sql, args...) // they tell of the error
	return firstRow{rows}
}

// SendBatch implements pgx.Tx.
func (t *handlerTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if t.tx == nil && t.ended == nil && b.Len() > 0 {
		return t.beginWith(ctx, b.QueuedQueries...)
	}
	tx, err := t.open(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return tx.SendBatch(ctx, b)
}

// Begin implements pgx.Tx: it makes a savepoint.
func (t *handlerTx) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	return savepointIn(ctx, tx)
}

// CopyFrom implements pgx.Tx.
func (t *handlerTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	tx, err := t.open(ctx)
	if err != nil {
		return 0, err
	}
	return copyFrom(ctx, tx, table, columns, rows)
}

// copyFrom copies rows that a handler makes. If these fail, it returns their error: the server's
// says only that the copy was cancelled.
func copyFrom(ctx context.Context, tx pgx.Tx, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	copied := &copied{rows: rows}
	n, err := tx.CopyFrom(ctx, table, columns, copied)
	if err != nil && copied.err != nil {
		return n, copied.err
	}
	return n, err
}

// savepoint is a transaction within a handler's.
type savepoint struct{ pgx.Tx }

// Begin implements pgx.Tx.
func (s savepoint) Begin(ctx context.Context) (pgx.Tx, error) { return savepointIn(ctx, s.Tx) }

// CopyFrom implements pgx.Tx.
func (s savepoint) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return copyFrom(ctx, s.Tx, table, columns, rows)
}

func savepointIn(ctx context.Context, tx pgx.Tx) (pgx.Tx, error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return savepoint{inner}, nil
}

// copied are rows that a handler makes. pgx asks for them in a goroutine of its own, where a panic
// would end the process.
type copied struct {
	rows pgx.CopyFromSource
	err  error // of the rows; to be read when pgx has returned
}

func (c *copied) recovered() {
	if p := recover(); p != nil {
		c.err = &tokenstore.PanicError{Value: p, Stack: string(debug.Stack())}
	}
}

// failed takes note of the rows' first error, and returns it.
func (c *copied) failed(err error) error {
	c.err = cmp.Or(c.err, err)
	return c.err
}

// Next implements pgx.CopyFromSource.
func (c *copied) Next() (more bool) {
	defer c.recovered()
	return c.rows.Next()
}

// Values implements pgx.CopyFromSource.
func (c *copied) Values() (values []any, err error) {
	defer func() { err = c.failed(err) }()
	defer c.recovered()
	return c.rows.Values()
}

// Err implements pgx.CopyFromSource.
func (c *copied) Err() (err error) {
	defer func() { err = c.failed(err) }()
	defer c.recovered()
	return c.rows.Err()
}

// Prepare implements pgx.Tx.
func (t *handlerTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	tx, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Prepare(ctx, name, sql)
}

// LargeObjects implements pgx.Tx.
func (t *handlerTx) LargeObjects() pgx.LargeObjects {
	t.mustOpen()
	if t.tx == nil {
		return pgx.LargeObjects{}
	}
	return t.tx.LargeObjects()
}

// Conn implements pgx.Tx. What is sent on the connection itself is part of the transaction as well.
func (t *handlerTx) Conn() *pgx.Conn {
	t.mustOpen()
	return t.conn
}

// Commit implements pgx.Tx. It sends nothing: the batch fails.
func (t *handlerTx) Commit(context.Context) error { return t.refuse("tx.Commit") }

// Rollback implements pgx.Tx. It sends nothing: the handler's error undoes the batch, and without
// one the batch fails because of this call.
func (t *handlerTx) Rollback(context.Context) error { return t.refuse("tx.Rollback") }

// refuse takes the transaction from a handler that would end it.
func (t *handlerTx) refuse(call string) error {
	if t.ended == nil {
		t.ended, t.call = managed(call), call
	}
	return t.ended
}

// Ended returns why a handler has lost its transaction, and nil while it has one.
func (t *handlerTx) Ended() error {
	if err := t.guard.refusal(); err != nil {
		return err
	}
	return t.ended
}

// verdict is the error of a batch whose handler has returned err. A rollback that was deferred for
// the case of an error does no harm then.
func (t *handlerTx) verdict(err error) error {
	ended := t.Ended()
	switch {
	case ended == nil && err == nil && t.conn.PgConn().TxStatus() == 'E':
		return tokenstore.ErrSwallowed
	case ended == nil, errors.Is(err, tokenstore.ErrManagedTransaction):
		return err
	case err == nil:
		return ended
	case t.call == "tx.Rollback" && t.guard.refusal() == nil:
		return err
	}
	return fmt.Errorf("%w (the handler returned: %v)", ended, err) //nolint:errorlint // what it returned decides nothing
}

// commit sends the fencing check, the commit and the cleaning together, and reports whether events
// were added. Users' code no longer has the transaction, but may have kept the connection: it stays
// held.
func (t *handlerTx) commit(queueFence func(*pgx.Batch, opening)) (appended bool, err error) {
	batch := &pgx.Batch{}
	if t.tx == nil {
		start := t.start.marked(unmarked)
		start.queue(batch)
		queueFence(batch, start)
		t.guard.begin()
		return false, t.conn.SendBatch(t.ctx, batch).Close() // which are one transaction
	}
	queueFence(batch, t.start)
	return commitWith(t.ctx, t.conn, t.guard, batch, t.clean)
}

// errUnfinished is the error of a handler that has not returned.
var errUnfinished = errors.New("the handler has not returned")

// end takes the connection back from a handler whose batch has ended with err, nil if it has
// committed.
func (t *handlerTx) end(err error) {
	t.ended = pgx.ErrTxClosed
	if t.tx == nil && !t.guard.spoilt() {
		t.guard.rest() // nothing was sent
		return
	}
	takeBack(t.ctx, t.conn, t.guard, t.clean, err)
}

// firstRows are those of a statement that was sent together with the beginning.
type firstRows struct {
	pgx.Rows
	results pgx.BatchResults
	err     error
}

// Next implements pgx.Rows.
func (r *firstRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close implements pgx.Rows.
func (r *firstRows) Close() {
	r.Rows.Close()
	r.err = r.results.Close()
}

// Err implements pgx.Rows.
func (r *firstRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

// firstRow is the first of rows.
type firstRow struct{ rows pgx.Rows }

// Scan implements pgx.Row.
func (r firstRow) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// failedRows are those of a statement that was not sent.
type failedRows struct{ err error }

func (r failedRows) Close()                                       {}
func (r failedRows) Err() error                                   { return r.err }
func (r failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r failedRows) Next() bool                                   { return false }
func (r failedRows) Scan(...any) error                            { return r.err }
func (r failedRows) Values() ([]any, error)                       { return nil, r.err }
func (r failedRows) RawValues() [][]byte                          { return nil }
func (r failedRows) Conn() *pgx.Conn                              { return nil }
func (r failedRows) TypeMap() *pgtype.Map                         { return nil }
