package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

// refuseBeyond returns a *eventsource.StartPositionError for a position above the next one, or a time that
// has not come. What is meant by it is not known: whoever starts there would get events from before
// it.
func (s *Source) refuseBeyond(ctx context.Context, at progress.StartPosition, first int64) error {
	if at.Type == progress.AtTimestamp {
		return s.refuseFuture(ctx, at.Timestamp)
	}
	head, err := s.head(ctx)
	if err != nil {
		return err
	}
	if first-1 > head {
		return &eventsource.StartPositionError{Problem: fmt.Sprintf("position %d is beyond the newest event, which is at position %d at most: choose the type %s for what comes from now on, or a position up to that one",
			first, head, progress.Latest)}
	}
	return nil
}

// refuseFuture goes by the database's clock, which is that of the events.
func (s *Source) refuseFuture(ctx context.Context, at time.Time) error {
	var now time.Time
	if err := s.db.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return fmt.Errorf("asking for the database's time: %w", err)
	}
	if at.After(now) {
		return &eventsource.StartPositionError{Problem: fmt.Sprintf("%s is in the future, since the database's clock is at %s: choose the type %s for what comes from now on, or a time in the past",
			at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), progress.Latest)}
	}
	return nil
}
