package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Session is a connection of its own: it holds a worker's session lock, listens, and with its end tells that the worker is gone.
type Session struct {
	conn     *pgx.Conn
	channels []string
}

// OpenSession connects and listens on the channels.
func OpenSession(ctx context.Context, o Options, channels ...string) (*Session, error) {
	conn, err := Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, channel := range channels {
		if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
			conn.Close(ctx)
			return nil, fmt.Errorf("listening on %s: %w", channel, err)
		}
	}
	return &Session{conn: conn, channels: channels}, nil
}

// Incarnation takes the next incarnation of a schema's workers.
func (s *Session) Incarnation(ctx context.Context, schema string) (int64, error) {
	var n int64
	if err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT nextval('%s.incarnation')", quoted(schema))).Scan(&n); err != nil {
		return 0, fmt.Errorf("taking an incarnation: %w", err)
	}
	return n, nil
}

// Lock takes the session lock of an incarnation of a schema's workers and reports whether it got
// it. It is held for as long as the session lasts.
func (s *Session) Lock(ctx context.Context, schema string, incarnation int64) (bool, error) {
	var got bool
	if err := s.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", sessionClass(schema), lockKey(incarnation)).Scan(&got); err != nil {
		return false, fmt.Errorf("taking the session lock: %w", err)
	}
	return got, nil
}

// Conn is the session's connection, for statements between two waits.
func (s *Session) Conn() *pgx.Conn { return s.conn }

// Wait returns the channel and payload of the next notification. An error that is not the context's says that the session has ended.
func (s *Session) Wait(ctx context.Context) (channel, payload string, err error) {
	n, err := s.conn.WaitForNotification(ctx)
	if err != nil {
		return "", "", err
	}
	return n.Channel, n.Payload, nil
}

// Close ends the session and with it its lock.
func (s *Session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.conn.Close(ctx)
}

// Evict implements tokenstore.Evictor: an open transaction of a frozen process would keep rows locked
// that the new owner needs.
func (d *Directory) Evict(ctx context.Context, incarnations []int64) (int, error) {
	var ended int
	err := d.pool.QueryRow(ctx, d.in(`SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))
		FROM unnest($1::bigint[]) AS dead (incarnation) LEFT JOIN {{schema}}.worker w USING (incarnation)
		JOIN pg_stat_activity a ON a.datname = current_database() AND a.usename = current_user AND (
		  a.application_name = w.application
		  OR w.incarnation IS NULL AND starts_with(a.application_name, $2 || `+home+` || '/' || dead.incarnation || '/')
		  OR coalesce(w.application, '') = '' AND a.application_name = $3 || dead.incarnation AND `+onlyStore+`)
		WHERE a.application_name <> ''`), incarnations, applicationPrefix, formerApplication).Scan(&ended)
	if err != nil {
		return 0, fmt.Errorf("ending the connections of dead workers: %w", err)
	}
	return ended, nil
}

// PlannerLock implements tokenstore.Elector. The lock is that of a transaction.
func (d *Directory) PlannerLock(ctx context.Context, processor string, plan func() error) (bool, error) {
	got := false
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		// Planning may take longer than a handler may be idle: there may be thousands of segments.
		const try = `SELECT pg_try_advisory_xact_lock(` + lockOf + `) FROM set_config('idle_in_transaction_session_timeout', '10s', true)`
		if err := tx.QueryRow(ctx, try, lockName(d.schema, "planner", processor)).Scan(&got); err != nil || !got {
			return err
		}
		return plan()
	})
	return got, err
}
