package postgres

import (
	"context"
	"fmt"
	"time"
)

// waitingStatement finds the next event by the index on positions. Its age is a number, so that a
// time that is infinite has one too.
const waitingStatement = `SELECT (SELECT extract(epoch FROM clock_timestamp())::float8 - extract(epoch FROM {{time}})::float8
FROM {{table}} e WHERE e.{{position}} > $1::bigint ORDER BY e.{{position}} LIMIT 1)`

// Waiting returns how old the next event after a position is, by the database's clock; false where
// there is none. It reads one row. Events with lower positions that became visible later do not
// count: it is for figures of lag.
func (s *Source) Waiting(ctx context.Context, after int64) (age time.Duration, waits bool, err error) {
	var seconds *float64
	if err := s.steadily(ctx, func(k *known) error { return s.queryRow(ctx, k.waiting, []any{after}, &seconds) }); err != nil {
		return 0, false, fmt.Errorf("looking for the oldest event that waits: %w", err)
	}
	if seconds == nil {
		return 0, false, nil
	}
	const longest = 100 * 365 * 24 * 3600 // further back is not a time at which anybody recorded
	return time.Duration(min(max(*seconds, 0), longest) * float64(time.Second)), true, nil
}
