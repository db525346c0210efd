package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

// oldestStatement returns a row where events have ever been deleted: the highest position among those and the latest time, and the same of
// the oldest event that is left, if one is.
const oldestStatement = `SELECT d.position, d.recorded_at, e.position, e.recorded_at
FROM {{schema}}.event_deleted d LEFT JOIN LATERAL (SELECT position, recorded_at FROM {{schema}}.event ORDER BY position LIMIT 1) AS e ON true`

// refuseDeleted returns a *eventsource.StartPositionError for a position that stands before deleted
// events and before the oldest that is left.
// Positions that are missing at the table's start because appends were rolled back do not count: nothing was ever there.
func (s *Source) refuseDeleted(ctx context.Context, at progress.StartPosition, upTo func(position int64, recorded time.Time) bool) error {
	if s.events.table != nil {
		return nil // nobody notes what is deleted there
	}
	var deleted int64
	var deletedAt time.Time
	var oldest *int64
	var oldestAt *time.Time
	err := s.db.QueryRow(ctx, s.oldestSQL).Scan(&deleted, &deletedAt, &oldest, &oldestAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("looking for the oldest event: %w", err)
	case !upTo(deleted, deletedAt) || oldest != nil && !upTo(*oldest-1, oldestAt.Add(-time.Microsecond)):
		return nil
	}
	place, choice := "position "+at.Position, "position"
	if at.Type == progress.AtTimestamp {
		place, choice = at.Timestamp.UTC().Format(time.RFC3339Nano), "time"
	}
	if oldest == nil {
		return &eventsource.StartPositionError{Problem: fmt.Sprintf("%s is before the oldest event: all events up to position %d have been deleted, and no other is there: choose the type %s, or a %s after them",
			place, deleted, progress.Latest, choice)}
	}
	return &eventsource.StartPositionError{Problem: fmt.Sprintf("%s is before the oldest event, which is at position %d and was recorded at %s; events before it have been deleted: choose the type %s, or a %s from there on",
		place, *oldest, oldestAt.UTC().Format(time.RFC3339Nano), progress.Earliest, choice)}
}
