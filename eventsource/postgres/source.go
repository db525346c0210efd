package postgres

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

// DB is a pool of connections, or one connection; *pgxpool.Pool and *pgx.Conn are. Never a transaction: each page is to have
// a snapshot of its own.
type DB interface {
	querier
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// querier is a DB, or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Source reads the event table of one schema, or a table of the user's. Several goroutines may use it at once. It holds no state but what it has
// proved of the gaps of a table that has no column of transactions.
type Source struct {
	db                  DB
	prepared            bool // db's sessions have the PageSettings
	schema              string
	events              mapping
	checkSQL, oldestSQL string
	window              int64
	pageBytes           int64      // of the events' texts
	gaps                *gapReader // of a table without a column of transactions; nil for others
	contents            *contents  // nil where pages always have them
	cadence             *cadence
	watch               *tableWatch
	guard               *guard
}

var _ eventsource.Source = (*Source)(nil)

// NewSource returns the source that reads the event table of the schema. It asks the server for nothing yet: call
// [Source.Check] before the first read, and after each lost connection.
func NewSource(db DB, schema string) *Source { return newSource(db, schema, ownMapping(schema)) }

// Open returns the source that a definition declares, in the store of the schema: Sluice's own table, or one of the user's in the same
// database. As with [NewSource], call [Source.Check] first.
func Open(db DB, schema string, source definition.Source) *Source {
	if source.Table == nil {
		return NewSource(db, schema)
	}
	return newSource(db, schema, tableMapping(*source.Table))
}

func newSource(db DB, schema string, events mapping) *Source {
	quoted := pgx.Identifier{schema}.Sanitize()
	inSchema := func(text string) string { return strings.ReplaceAll(text, "{{schema}}", quoted) }
	watch := &tableWatch{}
	if events.table == nil {
		watch.known = &known{statements: events.statements()}
	}
	return &Source{
		db: db, schema: schema, events: events, window: window, pageBytes: defaultPageBytes, gaps: newGapReader(events.table), cadence: &cadence{},
		watch: watch, guard: &guard{}, oldestSQL: inSchema(oldestStatement), checkSQL: inSchema(checkStatement),
	}
}

const (
	// The subquery keeps the planner from walking the primary key up to the first event of the time.
	timeStatement  = `SELECT coalesce((SELECT min({{position}}) FROM (SELECT {{position}} FROM {{table}} WHERE {{since}} OFFSET 0) AS since), 0)::bigint`
	startStatement = `SELECT ({{head}}), pg_current_snapshot()::text, pg_is_in_recovery()`
)

// Start implements eventsource.Source. Latest begins with the first event whose transaction had not
// ended when the server took the statement's snapshot; so do the others with events below their
// place. The next position is Latest, and so is a time after all events; what is beyond that is no
// place. A place before the oldest event is none where events have been deleted that it stands
// before; Earliest is the oldest event there is, whatever has been deleted.
func (s *Source) Start(ctx context.Context, at progress.StartPosition) (progress.Progress, error) {
	switch at.Type {
	case progress.Earliest:
		return progress.Progress{}, nil
	case progress.Latest:
		return s.latest(ctx, math.MaxInt64)
	case progress.AtPosition:
		first, err := strconv.ParseInt(at.Position, 10, 64)
		if err != nil || first < 0 {
			return progress.Progress{}, &eventsource.StartPositionError{Problem: fmt.Sprintf("position %q is none: want a whole number, 0 or above", at.Position)}
		}
		if err := s.refuseDeleted(ctx, at, func(position int64, _ time.Time) bool { return first <= position }); err != nil {
			return progress.Progress{}, err
		}
		if err := s.refuseBeyond(ctx, at, first); err != nil {
			return progress.Progress{}, err
		}
		return s.latest(ctx, first-1)
	case progress.AtTimestamp:
		if err := s.refuseBeyond(ctx, at, 0); err != nil {
			return progress.Progress{}, err
		}
		if err := s.refuseDeleted(ctx, at, func(_ int64, recorded time.Time) bool { return !at.Timestamp.After(recorded) }); err != nil {
			return progress.Progress{}, err
		}
		return s.since(ctx, at.Timestamp)
	}
	return progress.Progress{}, &eventsource.StartPositionError{Problem: fmt.Sprintf("the place %q is not known, choose %s, %s, %s or %s", at.Type,
		progress.Earliest, progress.Latest, progress.AtPosition, progress.AtTimestamp)}
}

// since finds the first position of a time, and what has been given before it.
func (s *Source) since(ctx context.Context, at time.Time) (progress.Progress, error) {
	// The snapshot comes first: an event that is written between the two statements is above the position, or not seen by it.
	all, err := s.latest(ctx, math.MaxInt64)
	if err != nil {
		return progress.Progress{}, err
	}
	var first int64
	if err := s.steadily(ctx, func(k *known) error { return s.queryRow(ctx, k.time, []any{at}, &first) }); err != nil {
		return progress.Progress{}, fmt.Errorf("looking for the first event since %s: %w", at.Format(time.RFC3339), err)
	}
	if first == 0 {
		return all, nil
	}
	return s.below(all, first-1)
}

// below is what a progress has been given up to a position.
func (s *Source) below(all progress.Progress, through int64) (progress.Progress, error) {
	if s.gaps != nil {
		c, err := s.parseGapped(all)
		if err != nil {
			return progress.Progress{}, err
		}
		return c.upTo(through).Progress(), nil
	}
	c, err := s.parse(all)
	if err != nil {
		return progress.Progress{}, err
	}
	return c.upTo(through).Progress(), nil
}

// latest is one statement: its snapshot is taken before it reads the sequence, or the positions that the snapshot sees, so every event that the snapshot sees has a position up to
// that number. Events up to it that the snapshot does not see are found by their transactions. It has been given nothing above through.
func (s *Source) latest(ctx context.Context, through int64) (progress.Progress, error) {
	if s.gaps != nil {
		return s.latestGapped(ctx, through)
	}
	var head int64
	var text string
	var standby bool
	if err := s.steadily(ctx, func(k *known) error { return s.queryRow(ctx, k.start, nil, &head, &text, &standby) }); err != nil {
		return progress.Progress{}, fmt.Errorf("looking for the latest position: %w", err)
	}
	if standby {
		return progress.Progress{}, fmt.Errorf("looking for the latest position: %w", ErrStandby)
	}
	snapshot, err := ParseSnapshot(text)
	if err != nil {
		return progress.Progress{}, fmt.Errorf("looking for the latest position: %w", err)
	}
	return (&coverage{table: s.events.name()}).with(step{min(head, through), snapshot}).Progress(), nil
}

// Parse reads a token's progress.
func (s *Source) Parse(p progress.Progress) (eventsource.Coverage, error) {
	if s.gaps != nil {
		c, err := s.parseGapped(p)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := s.parse(p)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Head implements eventsource.Source. It is at the highest position that has been given out. It
// covers at most that position, so that a reader which did begin there would miss nothing else.
func (s *Source) Head(ctx context.Context) (eventsource.Coverage, error) {
	head, err := s.head(ctx)
	switch {
	case err != nil:
		return nil, err
	case s.gaps != nil && head > 0:
		return &gapped{table: s.events.name(), set: ranges{{head, head}}}, nil
	case s.gaps != nil:
		return &gapped{table: s.events.name()}, nil
	case head > 0:
		return &coverage{s.events.name(), []step{{through: head}}}, nil
	}
	return &coverage{table: s.events.name()}, nil
}

// head is the highest position that has been given out.
func (s *Source) head(ctx context.Context) (int64, error) {
	var head int64
	if err := s.db.QueryRow(ctx, s.events.head).Scan(&head); err != nil {
		return 0, fmt.Errorf("looking for the head of the events: %w", err)
	}
	return head, nil
}
