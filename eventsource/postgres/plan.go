package postgres

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// keepPlan has the rest of its transaction use plans that a session makes once, whatever the parameters, and only such as walk an index.
//
// Left to itself the server plans each page anew, as it takes a number of bands or gaps that it does not know to be a large one. That takes several times
// as long as to read a page of few events. The statements that give pages are written so that their plan does not depend on parameters. Without
// sequential scans it does not depend either on how full the table was when it was made: a session that began with an empty one would go on to read all of
// it. What is switched off counts as dear, which is not to start the compiler.
const keepPlan = `SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)`

// atRest is how long ago the last page was read where a plan for each is no matter. A statement more would be: idle workers are to send few.
const atRest = 100 * time.Millisecond

// cadence says whether pages follow one another so closely that their plan is to be kept.
type cadence struct{ last atomic.Int64 } // when the last page was read, in nanoseconds of the wall clock: where that jumps, a plan more is made or kept

func (c *cadence) keepsPlan() bool {
	now := time.Now().UnixNano()
	return now-c.last.Swap(now) < int64(atRest)
}

// readPage sends the statement that gives a page, and has the builder take its rows, up to the limit.
func (s *Source) readPage(ctx context.Context, p *pageBuilder, limit int, args ...any) (full bool, err error) {
	if !s.cadence.keepsPlan() {
		rows, err := s.db.Query(ctx, s.pageSQL(), args...)
		if err != nil {
			return false, err
		}
		defer rows.Close()
		return s.fill(ctx, p, rows, limit)
	}
	batch := &pgx.Batch{}
	batch.Queue(keepPlan)
	batch.Queue(s.pageSQL(), args...)
	results := s.db.SendBatch(ctx, batch) // one transaction
	defer results.Close()                 // its error would be of what comes after the last row
	if _, err := results.Exec(); err != nil {
		return false, err
	}
	rows, err := results.Query()
	if err != nil {
		return false, err
	}
	defer rows.Close()
	return s.fill(ctx, p, rows, limit)
}
