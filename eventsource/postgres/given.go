package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-project/sluice/progress"

	"github.com/jackc/pgx/v5"
)

// ErrInexact is wrapped where what a token has been given cannot be said exactly.
var ErrInexact = errors.New("a transaction has been handled in part")

// Given returns the progress of a token that has been given all events up to a position, but for those at some positions, in a reader that
// kept gaps. tx is a REPEATABLE READ transaction: what its snapshot sees is what is meant by all events. One of those positions that is
// visible has not been given, and will be; one that becomes visible later will be then.
//
// A coverage cannot leave a position out, but a transaction above a position. So an error is returned where a transaction has an event
// that was left out below another one that was given: to be exact is not possible then, and the error wraps ErrInexact.
func (s *Source) Given(ctx context.Context, tx pgx.Tx, through int64, except []int64) (progress.Progress, error) {
	if through <= 0 {
		return progress.Progress{}, nil
	}
	if s.gaps != nil {
		return s.givenGapped(ctx, tx, through, except)
	}
	var text string
	var standby bool
	if err := tx.QueryRow(ctx, "SELECT pg_current_snapshot()::text, pg_is_in_recovery()").Scan(&text, &standby); err != nil {
		return progress.Progress{}, fmt.Errorf("taking a snapshot: %w", err)
	}
	if standby {
		return progress.Progress{}, ErrStandby
	}
	snapshot, err := ParseSnapshot(text)
	if err != nil {
		return progress.Progress{}, err
	}
	from, err := s.leftOut(ctx, tx, through, except)
	if err != nil {
		return progress.Progress{}, err
	}
	return leaveOut(s.events.name(), through, snapshot, from).Progress(), nil
}

// leaveOut covers what a snapshot sees up to a position, but for each of some transactions only what is below its position there.
func leaveOut(table string, through int64, snapshot Snapshot, from map[uint64]int64) *coverage {
	c := &coverage{table: table}
	positions := slices.Compact(slices.Sorted(maps.Values(from)))
	for _, end := range append(positions, through+1) {
		without := snapshot
		for _, txid := range slices.Sorted(maps.Keys(from)) {
			if from[txid] < end {
				without = without.without(txid)
			}
		}
		c = c.with(step{end - 1, without})
	}
	return c
}

// leftOut finds the transactions with visible events among the positions, and the lowest of those of each.
func (s *Source) leftOut(ctx context.Context, tx pgx.Tx, through int64, except []int64) (map[uint64]int64, error) {
	rows, err := tx.Query(ctx, s.events.in(`
		WITH out AS (SELECT {{txid}} AS txid, min({{position}})::bigint AS lowest FROM {{table}} WHERE {{position}} = ANY ($1::bigint[]) AND {{position}} <= $2::bigint GROUP BY 1)
		SELECT o.txid, o.lowest, coalesce((SELECT max(e.{{position}}) FROM {{table}} e
		  WHERE e.{{txid}} = o.txid AND e.{{position}} + 0 <= $2::bigint AND e.{{position}} <> ALL ($1::bigint[])), 0)::bigint FROM out o`), except, through)
	if err != nil {
		return nil, fmt.Errorf("looking for events that were left out: %w", err)
	}
	from := map[uint64]int64{}
	var txid uint64
	var lowest, given int64
	_, err = pgx.ForEachRow(rows, []any{&txid, &lowest, &given}, func() error {
		if given > lowest {
			return fmt.Errorf("%w: of transaction %d (or of the time before the table was prepared) the event at position %d has not been handled, and the one at %d has", ErrInexact, txid, lowest, given)
		}
		from[txid] = lowest
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for events that were left out: %w", err)
	}
	return from, nil
}

// without is the snapshot that does not see a transaction either.
func (s Snapshot) without(txid uint64) Snapshot {
	return s.Meet(Snapshot{xmin: txid, xmax: max(s.xmax, txid+1), xip: []uint64{txid}})
}
