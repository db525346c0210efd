package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Turns are taken by workers that read a backlog: of all workers of a store as many do so at a time
// as it has turns. A turn is an advisory lock of a session of its own, so the server takes it back
// when the process ends or its connection is lost. Stores in the same database have turns of their
// own: a frozen worker of one keeps its turn until that store's workers end its connections.
//
// One goroutine may use it at a time.
type Turns struct {
	options Options
	class   int32
	count   int
	conn    *pgx.Conn // nil where there is none
	held    int32
}

// NewTurns returns the turns of a schema's store, which has count of them, at least 1. It connects
// when a turn is taken first. Workers that count differently may go together, up to the larger
// count.
func NewTurns(o Options, schema string, count int) *Turns {
	return &Turns{options: o, class: turnClass(schema), count: count}
}

// Take takes a turn if one is free. It holds none yet.
func (t *Turns) Take(ctx context.Context) (bool, error) {
	if t.conn == nil || t.conn.IsClosed() {
		conn, err := Connect(ctx, t.options)
		if err != nil {
			return false, fmt.Errorf("connecting for a turn at reading: %w", err)
		}
		t.conn = conn
	}
	// Each row is tried only when it is wanted, so no more than one lock is taken.
	const try = `SELECT turn FROM generate_series(0, $2::int - 1) AS turn WHERE pg_try_advisory_lock($1, turn) LIMIT 1`
	err := t.conn.QueryRow(ctx, try, t.class, t.count).Scan(&t.held)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, errors.Join(fmt.Errorf("taking a turn at reading: %w", err), t.Close())
	}
	return true, nil
}

// Give gives back the turn that was taken. After an error the server takes it back by itself.
func (t *Turns) Give(ctx context.Context) error {
	if t.conn == nil {
		return nil
	}
	if _, err := t.conn.Exec(ctx, `SELECT pg_advisory_unlock($1, $2)`, t.class, t.held); err != nil {
		return errors.Join(fmt.Errorf("giving a turn at reading back: %w", err), t.Close())
	}
	return nil
}

// Close ends the connection, and with it the turn.
func (t *Turns) Close() error {
	if t.conn == nil {
		return nil
	}
	conn := t.conn
	t.conn = nil
	if conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return conn.Close(ctx)
}
