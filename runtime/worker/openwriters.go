package worker

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
)

const (
	// lookForWriters is how often a worker looks who writes to the event table.
	lookForWriters = 10 * time.Second
	// openFor is for how long a writer has to be open to be told of.
	openFor = 10 * time.Second
	// toldWriters is how many of them are told of, the oldest ones.
	toldWriters = 5
)

// writerWatch knows the writers that stay open. A writer's events wait for its end and nobody else's do, but who waits for them should know
// for whom.
type writerWatch struct {
	seen map[string]time.Time // by transaction, when it was seen first
	open []eventsource.OpenWriter
}

// note takes in who writes at a time of the database's clock, and returns who is newly open for long, and who was.
func (w *writerWatch) note(writing []eventsource.OpenWriter, now time.Time) (opened, ended []eventsource.OpenWriter) {
	seen := map[string]time.Time{}
	var open []eventsource.OpenWriter
	for _, writer := range writing {
		first, known := w.seen[writer.Transaction]
		if !known {
			first = now
		}
		seen[writer.Transaction] = first
		if writer.Since.IsZero() { // it is another role's
			writer.Since = first
		}
		if now.Sub(writer.Since) >= openFor {
			open = append(open, writer)
		}
	}
	slices.SortStableFunc(open, eventsource.OpenWriter.Compare)
	opened, ended = lacking(open, w.open), lacking(w.open, open)
	w.seen, w.open = seen, open
	return opened, ended
}

// lacking returns those that are not among the others.
func lacking(writers, others []eventsource.OpenWriter) []eventsource.OpenWriter {
	return slices.DeleteFunc(slices.Clone(writers), func(w eventsource.OpenWriter) bool {
		return slices.ContainsFunc(others, func(o eventsource.OpenWriter) bool { return o.Transaction == w.Transaction })
	})
}

// told are those that the report names.
func (w *writerWatch) told() []eventsource.OpenWriter {
	return slices.Clone(w.open[:min(len(w.open), toldWriters)])
}

// oldest is the age of the oldest, 0 without any.
func (w *writerWatch) oldest(now time.Time) time.Duration {
	if len(w.open) == 0 {
		return 0
	}
	return now.Sub(w.open[0].Since)
}

// watchWriters looks who keeps a transaction open that has written events, and tells.
func (l *life) watchWriters(ctx context.Context) {
	var watch writerWatch
	failing := false
	ticker := time.NewTicker(lookForWriters)
	defer ticker.Stop()
	for ctx.Err() == nil {
		err := l.lookForWriters(ctx, &watch)
		if err != nil && !failing && ctx.Err() == nil {
			l.log.Warn("cannot see who keeps transactions open; trying again until it can be seen", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	l.metrics.writers(0, 0)
}

func (l *life) lookForWriters(ctx context.Context, watch *writerWatch) error {
	ctx, cancel := context.WithTimeout(ctx, lookForWriters/2)
	defer cancel()
	writing, now, err := l.source.OpenWriters(ctx)
	if err != nil {
		return err
	}
	opened, ended := watch.note(writing, now)
	for _, w := range opened {
		l.log.Warn("a transaction that has written events stays open, and its events wait for its end", described(w, now)...)
	}
	for _, w := range ended {
		l.log.Info("a transaction that had stayed open has ended", described(w, now)...)
	}
	l.metrics.writers(len(watch.open), watch.oldest(now))
	told := watch.told()
	l.openWriters.Store(&told)
	return nil
}

// described names a writer for a log.
func described(w eventsource.OpenWriter, now time.Time) []any {
	who := []any{"pid", w.PID, "application", w.Application}
	if w.Prepared != "" {
		who = []any{"prepared", w.Prepared}
	}
	return append(who, "user", w.User, "transaction", w.Transaction, "age", now.Sub(w.Since).Round(time.Second))
}
