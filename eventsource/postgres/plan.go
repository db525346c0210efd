package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/eventsource"
)

// keepPlan has the rest of its transaction use plans that a session makes once, whatever the parameters, and only such as walk an index.
//
// Left to itself the server plans each page anew, as it takes a number of bands or gaps that it does not know to be a large one. That takes several times
// as long as to read a page of few events. The statements that give pages are written so that their plan does not depend on parameters. Without
// sequential scans it does not depend either on how full the table was when it was made: a session that began with an empty one would go on to read all of
// it. What is switched off counts as dear, which is not to start the compiler.
var keepPlan = func() string {
	var calls []string
	for _, name := range slices.Sorted(maps.Keys(PageSettings())) {
		calls = append(calls, fmt.Sprintf("set_config('%s', '%s', true)", name, PageSettings()[name]))
	}
	return "SELECT " + strings.Join(calls, ", ")
}()

// PageSettings are the settings that keepPlan makes for one transaction. A session that only reads
// events has them from the beginning: see [Source.Through].
func PageSettings() map[string]string {
	return map[string]string{"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off", "row_security": "off"}
}

// Through returns the source on a pool whose sessions have the [PageSettings]. A page is then one
// statement, however closely pages follow one another.
func (s *Source) Through(db DB) *Source {
	through := *s
	through.db, through.prepared = db, true
	return &through
}

// refuseHiding has the server refuse the rest of its transaction where row level security would
// hide rows, which no later page would find.
const refuseHiding = `SELECT set_config('row_security', 'off', true)`

// atRest is how long ago the last page was read where a plan for each is no matter. A statement more would be: idle workers are to send few.
const atRest = 100 * time.Millisecond

// cadence says whether pages follow one another so closely that their plan is to be kept.
type cadence struct{ last atomic.Int64 } // when the last page was read, in nanoseconds of the wall clock: where that jumps, a plan more is made or kept

func (c *cadence) keepsPlan() bool {
	now := time.Now().UnixNano()
	return now-c.last.Swap(now) < int64(atRest)
}

// readPage sends the statement that gives a page, and has the builder take its rows, up to the limit.
func (s *Source) readPage(ctx context.Context, k *known, p *pageBuilder, limit int, args ...any) (full bool, err error) {
	p.shape, p.fields = k.shape, k.fields
	before := ""
	switch {
	case s.prepared:
	case s.cadence.keepsPlan():
		before = keepPlan
	case s.guarded():
		before = refuseHiding
	}
	err = s.query(ctx, before, s.pageSQL(k), args, func(rows pgx.Rows) (err error) {
		full, err = s.fill(ctx, p, rows, limit)
		return err
	})
	if p.secured {
		s.guard.always.Store(true)
		return false, s.secured()
	}
	if err == nil || !notRead(err) {
		return full, err
	}
	for range 3 {
		if full, err = s.readCarefully(ctx, k, p, limit, args); !errors.Is(err, errVanished) {
			break
		}
	}
	return full, err
}

// guarded reports whether the server has to be told to refuse statements that row level security
// would hide rows from. Sluice's own table says itself whether it does, and until it has, no plan
// was made that leaves rows out; so that idle workers send one statement less.
func (s *Source) guarded() bool { return s.events.table != nil || s.guard.always.Load() }

// query sends a statement, in one message and one transaction with the one that has to precede it,
// if any.
func (s *Source) query(ctx context.Context, before, sql string, args []any, take func(pgx.Rows) error) error {
	if before == "" {
		rows, err := s.db.Query(ctx, sql, args...)
		if err != nil {
			return lost(err)
		}
		defer rows.Close()
		return take(rows)
	}
	batch := &pgx.Batch{}
	batch.Queue(before)
	batch.Queue(sql, args...)
	results := s.db.SendBatch(ctx, batch)
	defer results.Close() // its error would be of what comes after the last row
	if _, err := results.Exec(); err != nil {
		return lost(err)
	}
	rows, err := results.Query()
	if err != nil {
		return lost(err)
	}
	defer rows.Close()
	return take(rows)
}

// queryRow reads one row of a user's table, or of another.
func (s *Source) queryRow(ctx context.Context, sql string, args []any, values ...any) error {
	return s.query(ctx, refuseHiding, sql, args, func(rows pgx.Rows) error {
		if !rows.Next() {
			return cmp.Or(lost(rows.Err()), pgx.ErrNoRows)
		}
		if err := rows.Scan(values...); err != nil {
			return err
		}
		rows.Close()
		return lost(rows.Err())
	})
}

// lost marks an error after which the server may have crashed: the connection was lost, or the
// server ended it or cannot be connected to.
func lost(err error) error {
	if err == nil {
		return nil
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case ok && pg.SeverityUnlocalized != "FATAL" && pg.SeverityUnlocalized != "PANIC":
		return err
	case ok && len(pg.Code) == 5 && slices.Contains([]string{"28", "3D", "53"}, pg.Code[:2]): // it is there, and lets nobody in
		return err
	}
	return fmt.Errorf("%w: %w", eventsource.ErrStale, err)
}
