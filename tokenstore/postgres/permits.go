package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// Permits are held by workers that read a backlog: as many workers of a store do so at a time as it
// has permits. A permit is an advisory lock of a connection of its own, so the server takes it back
// when the process ends or the connection is lost. Stores in the same database have permits of
// their own: a frozen worker of one keeps its permit until that store's workers end its
// connections.
//
// One goroutine may use it at a time.
type Permits struct {
	options Options
	class   int32
	count   int
	conn    *pgx.Conn // nil where there is none
	held    int32
}

var _ tokenstore.Permits = (*Permits)(nil)

// NewPermits returns the permits of a schema's store, which has count of them, at least 1. It
// connects when a permit is acquired first. Workers with different counts may go together, up to
// the larger count.
func NewPermits(o Options, schema string, count int) *Permits {
	return &Permits{options: o, class: permitClass(schema), count: count}
}

// Acquire implements tokenstore.Permits.
func (p *Permits) Acquire(ctx context.Context) (bool, error) {
	if p.conn == nil || p.conn.IsClosed() {
		conn, err := Connect(ctx, p.options)
		if err != nil {
			return false, fmt.Errorf("connecting for a backlog permit: %w", err)
		}
		p.conn = conn
	}
	// Each row is tried only when it is wanted, so no more than one lock is taken.
	const try = `SELECT permit FROM generate_series(0, $2::int - 1) AS permit WHERE pg_try_advisory_lock($1, permit) LIMIT 1`
	err := p.conn.QueryRow(ctx, try, p.class, p.count).Scan(&p.held)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, errors.Join(fmt.Errorf("acquiring a backlog permit: %w", err), p.Close())
	}
	return true, nil
}

// Release implements tokenstore.Permits.
func (p *Permits) Release(ctx context.Context) error {
	if p.conn == nil {
		return nil
	}
	if _, err := p.conn.Exec(ctx, `SELECT pg_advisory_unlock($1, $2)`, p.class, p.held); err != nil {
		return errors.Join(fmt.Errorf("releasing a backlog permit: %w", err), p.Close())
	}
	return nil
}

// Close implements tokenstore.Permits: it ends the connection, and with it the permit.
func (p *Permits) Close() error {
	if p.conn == nil {
		return nil
	}
	conn := p.conn
	p.conn = nil
	if conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return conn.Close(ctx)
}
