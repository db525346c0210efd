package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-project/sluice/progress"

	"github.com/jackc/pgx/v5"
)

// startGapsStatement gives, of positions above $1, the highest that is visible, and the gaps between those that are. The first row tells of the
// page: the highest position, and whether this is a standby.
const startGapsStatement = `
SELECT coalesce(max({{position}}), 0)::bigint, 0::bigint, pg_is_in_recovery(), ` + serverOf + ` FROM {{table}} WHERE {{position}} > $1::bigint
UNION ALL (
  SELECT before + 1, position - 1, false, ''
    FROM (SELECT {{position}}::bigint AS position, lag({{position}}::bigint, 1, $1::bigint) OVER (ORDER BY {{position}}) AS before FROM {{table}} WHERE {{position}} > $1::bigint) AS e
   WHERE position > before + 1 ORDER BY position LIMIT $2)`

// Looking for what has been given at a place waits for writers to end: nobody else has to, and where they do not, gaps are looked for in all of the table.
const (
	settleTime  = 300 * time.Millisecond
	settlePause = 10 * time.Millisecond
	mostHoles   = 100 * mostGaps
)

// latestGapped has been given what is visible up to through.
func (s *Source) latestGapped(ctx context.Context, through int64) (progress.Progress, error) {
	var set ranges
	err := s.steadily(ctx, func(k *known) (err error) {
		set, err = s.visible(ctx, k)
		return err
	})
	if err != nil {
		return progress.Progress{}, fmt.Errorf("looking for the latest position: %w", err)
	}
	if set = set.upTo(through); len(set) > mostGaps {
		return progress.Progress{}, fmt.Errorf("looking for the latest position: %w", s.tooMany(answer{}))
	}
	return (&gapped{table: s.events.name(), set: set}).Progress(), nil
}

// visible are the positions of all events that are visible, and of those that nobody can fill any more.
func (s *Source) visible(ctx context.Context, k *known) (ranges, error) {
	proved, err := s.settle(ctx, k)
	if err != nil {
		return nil, err
	}
	above := int64(0) // all up to here is settled
	if len(proved.settled) > 0 && proved.settled[0].from == 1 {
		above = proved.settled[0].to
	}
	set, server, err := s.scan(ctx, nil, above)
	if err != nil {
		return nil, err
	}
	if proved.server != "" && proved.server != server {
		return nil, ErrServerRestarted
	}
	return set.union(proved.settled), s.unaltered(ctx, k)
}

// scan returns all positions up to one, and above it those with a visible event, to the transaction
// if one is given; and the server that it has asked.
func (s *Source) scan(ctx context.Context, tx pgx.Tx, above int64) (set ranges, server string, err error) {
	sql, args := s.events.in(startGapsStatement), []any{above, mostHoles}
	take := func(rows pgx.Rows) error {
		set, server, err = s.setOf(rows, above)
		return err
	}
	if tx == nil {
		err = s.query(ctx, refuseHiding, sql, args, take)
		return set, server, err
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, "", err
	}
	return s.setOf(rows, above)
}

// setOf is what a scan has found.
func (s *Source) setOf(rows pgx.Rows, above int64) (set ranges, server string, err error) {
	var from, to, highest int64
	var standby bool
	var on string
	var gaps ranges
	if _, err := pgx.ForEachRow(rows, []any{&from, &to, &standby, &on}, func() error {
		switch {
		case standby:
			return ErrStandby
		case to == 0:
			highest, server = from, on
		default:
			gaps = append(gaps, span{from, to})
		}
		return nil
	}); err != nil {
		return nil, "", err
	}
	if len(gaps) == mostHoles {
		return nil, "", s.tooMany(answer{})
	}
	return gaps.rest().upTo(max(highest, above)), server, nil
}

// givenGapped is Given, exact in any case: the coverage leaves out the positions, and those that the transaction's snapshot sees no event at, unless nobody can fill them
// any more and nobody has done so since.
func (s *Source) givenGapped(ctx context.Context, tx pgx.Tx, through int64, except []int64) (progress.Progress, error) {
	then, _, err := s.scan(ctx, tx, 0)
	if err != nil {
		return progress.Progress{}, fmt.Errorf("looking for events that are visible: %w", err)
	}
	var proved proved
	err = s.steadily(ctx, func(k *known) (err error) {
		if proved, err = s.settle(ctx, k); err != nil {
			return err
		}
		return s.unaltered(ctx, k)
	})
	if err != nil {
		return progress.Progress{}, fmt.Errorf("looking for writers: %w", err)
	}
	now, _, err := s.scan(ctx, nil, 0)
	if err != nil {
		return progress.Progress{}, fmt.Errorf("looking for events that are visible: %w", err)
	}
	var out ranges
	for _, p := range slices.Sorted(slices.Values(except)) {
		if p > 0 {
			out = out.add(span{p, p})
		}
	}
	set := then.union(now.rest().meet(proved.settled)).meet(out.rest()).upTo(through)
	if len(set) > mostGaps {
		return progress.Progress{}, fmt.Errorf("%w: the token to go on from has %d gaps below position %d that may still be filled, and one here can hold %d: let the other reader go on until its gaps are behind it, as it forgets them after a while, and try again; or have `sluice source prepare` add the column for columns.transaction, which has no such limit",
			ErrTooManyGaps, len(set), through, mostGaps)
	}
	return (&gapped{table: s.events.name(), set: set}).Progress(), nil
}

// settle takes rounds of proof until all positions that have been given out so far are settled, for some time.
func (s *Source) settle(ctx context.Context, k *known) (proved, error) {
	if s.gaps.reserved {
		return proved{}, nil
	}
	first, err := s.takeRound(ctx, k, nil)
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
		if known, err = s.takeRound(ctx, k, nil); err != nil {
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
