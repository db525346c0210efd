package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// startGapsStatement gives, of positions above $1, the highest that is visible, and the gaps between those that are. The first row tells of the
// page: the highest position, and whether this is a standby.
const startGapsStatement = `
SELECT coalesce(max({{position}}), 0)::bigint, 0::bigint, pg_is_in_recovery(), ` + serverOf + ` FROM {{table}} WHERE {{position}} > $1::bigint
UNION ALL (
  SELECT before + 1, position - 1, false, ''
    FROM (SELECT {{position}}::bigint AS position, lag({{position}}::bigint, 1, $1::bigint) OVER (ORDER BY {{position}}) AS before FROM {{table}} WHERE {{position}} > $1::bigint) AS e
   WHERE position > before + 1 ORDER BY position LIMIT $2)`

// Looking for what has been given at a place, waits for writers to end: nobody else has to, and where they do not, gaps are looked for in all of the table.
const (
	settleTime  = 2 * time.Second
	settlePause = 10 * time.Millisecond
	mostHoles   = 100 * mostGaps
)

// latestGapped has been given what is visible up to through.
func (s *Source) latestGapped(ctx context.Context, through int64) (tokenstore.Progress, error) {
	set, err := s.visible(ctx, s.db.Query)
	if err != nil {
		return tokenstore.Progress{}, fmt.Errorf("looking for the latest position: %w", err)
	}
	if set = set.upTo(through); len(set) > mostGaps {
		return tokenstore.Progress{}, fmt.Errorf("looking for the latest position: %w", s.tooMany())
	}
	return (&gapped{table: s.events.name(), set: set}).Progress(), nil
}

// visible are the positions of all events that are visible, and of those that nobody can fill any more.
func (s *Source) visible(ctx context.Context, query func(ctx context.Context, sql string, args ...any) (pgx.Rows, error)) (ranges, error) {
	proved, err := s.settle(ctx)
	if err != nil {
		return nil, err
	}
	above := int64(0) // all up to here is settled
	if len(proved.settled) > 0 && proved.settled[0].from == 1 {
		above = proved.settled[0].to
	}
	rows, err := query(ctx, s.events.in(startGapsStatement), above, mostHoles)
	if err != nil {
		return nil, err
	}
	var highest int64
	var gaps ranges
	var server string
	if _, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var from, to int64
		var standby bool
		var on string
		err := row.Scan(&from, &to, &standby, &on)
		switch {
		case err != nil:
		case standby:
			err = ErrStandby
		case to == 0:
			highest, server = from, on
		default:
			gaps = append(gaps, span{from, to})
		}
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	if proved.server != "" && proved.server != server {
		return nil, ErrServerRestarted
	}
	if len(gaps) == mostHoles {
		return nil, s.tooMany()
	}
	return gaps.rest().upTo(highest).union(proved.settled), nil
}

// settle takes rounds of proof until all positions that have been given out so far are settled, for some time.
func (s *Source) settle(ctx context.Context) (proved, error) {
	if s.gaps.reserved {
		return proved{}, nil
	}
	first, err := s.takeRound(ctx, nil)
	if err != nil {
		return proved{}, err
	}
	mark := s.gaps.mark()
	for began, known := time.Now(), first; ; {
		if known.settled.contains(through(mark)) || time.Since(began) > settleTime {
			return known, nil
		}
		select {
		case <-ctx.Done():
			return proved{}, ctx.Err()
		case <-time.After(settlePause):
		}
		if known, err = s.takeRound(ctx, nil); err != nil {
			return proved{}, err
		}
	}
}

// mark is that of the last round.
func (g *gapReader) mark() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.fence.slices); n > 0 {
		return g.fence.slices[n-1].through
	}
	return 0
}
