package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

// DB is a pool of connections, or one connection; *pgxpool.Pool and *pgx.Conn are. Never a transaction: each page is to have
// a snapshot of its own.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Source reads the event table of one schema. It holds no state: several goroutines may use it at once.
type Source struct {
	db                          DB
	schema                      string
	readSQL, startSQL, checkSQL string
	headSQL                     string
	window                      int64
}

var _ eventsource.Source = (*Source)(nil)

// NewSource returns the source that reads the event table of the schema. It asks the server for nothing yet: call
// [Source.Check] before the first read, and after each lost connection.
func NewSource(db DB, schema string) *Source {
	quoted := pgx.Identifier{schema}.Sanitize()
	statement := func(text string) string { return strings.ReplaceAll(text, "{{schema}}", quoted) }
	return &Source{
		db: db, schema: schema, window: window,
		readSQL: readStatementFor(quoted), startSQL: statement(startStatement), headSQL: statement(headStatement), checkSQL: statement(checkStatement),
	}
}

const (
	headStatement  = `SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {{schema}}.event_position_seq`
	startStatement = `SELECT CASE WHEN is_called THEN last_value ELSE 0 END, pg_current_snapshot()::text, pg_is_in_recovery() FROM {{schema}}.event_position_seq`
)

// Start returns the progress of a token that has seen nothing before the place named. Latest begins with the first event
// whose transaction had not ended when the server took the statement's snapshot.
func (s *Source) Start(ctx context.Context, at eventsource.Initial) (tokenstore.Progress, error) {
	switch at {
	case eventsource.Earliest:
		return tokenstore.Progress{}, nil
	case eventsource.Latest:
		return s.latest(ctx)
	}
	return tokenstore.Progress{}, fmt.Errorf("initial position %q is not known, choose %q or %q", string(at), string(eventsource.Earliest), string(eventsource.Latest))
}

// latest is one statement: its snapshot is taken before it reads the sequence, so every event that the snapshot sees has a position up to
// that number. Events up to it that the snapshot does not see are found by their transactions.
func (s *Source) latest(ctx context.Context) (tokenstore.Progress, error) {
	var head int64
	var text string
	var standby bool
	if err := s.db.QueryRow(ctx, s.startSQL).Scan(&head, &text, &standby); err != nil {
		return tokenstore.Progress{}, fmt.Errorf("looking for the latest position: %w", err)
	}
	if standby {
		return tokenstore.Progress{}, fmt.Errorf("looking for the latest position: %w", ErrStandby)
	}
	snapshot, err := ParseSnapshot(text)
	if err != nil {
		return tokenstore.Progress{}, fmt.Errorf("looking for the latest position: %w", err)
	}
	return (&coverage{}).with(step{head, snapshot}).Progress(), nil
}

// Parse reads a token's progress.
func (s *Source) Parse(p tokenstore.Progress) (eventsource.Coverage, error) {
	c, err := parseProgress(p)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Head is the highest position that has been given out.
func (s *Source) Head(ctx context.Context) (int64, error) {
	var head int64
	if err := s.db.QueryRow(ctx, s.headSQL).Scan(&head); err != nil {
		return 0, fmt.Errorf("looking for the head of the events: %w", err)
	}
	return head, nil
}
