package worker

import (
	"context"

	"github.com/sluice-project/sluice/tokenstore"
)

// detector is what told of a worker's end.
type detector string

const (
	bySessionLock detector = "SessionLock" // its session ended while its lease ran
	byLease       detector = "Lease"       // it has not renewed it
	byOperator    detector = "Operator"    // its row says that it has ended, or is gone: its pod was seen to be
)

// death is the end of a worker that had not released its segments.
type death struct {
	worker int64
	by     detector
}

// detectorOf says what told of a worker's end, given the rows of those that have not ended by what they, or the operator, say.
func detectorOf(worker int64, workers []tokenstore.Worker) detector {
	for _, w := range workers {
		switch {
		case w.Incarnation != worker:
		case w.Leased:
			return bySessionLock
		default:
			return byLease
		}
	}
	return byOperator
}

// bury ends what connections dead workers have left, before their segments are claimed: a frozen one's open transaction would
// keep rows locked that the first batch of the new owner writes.
func (c *controller) bury(ctx context.Context, dead []death) error {
	if len(dead) == 0 {
		return nil
	}
	workers := make([]int64, len(dead))
	for i, d := range dead {
		workers[i] = d.worker
	}
	ended, err := c.directory.Evict(ctx, workers)
	if err != nil {
		return err
	}
	for _, d := range dead {
		c.log.Warn("taking over from a worker that did not release", "from", d.worker, "detector", d.by)
	}
	if ended > 0 {
		c.log.Warn("ended the connections that were left of dead workers", "workers", workers, "connections", ended)
	}
	return nil
}

// tellTakeovers counts the segments claimed that their owners had not released.
func (c *controller) tellTakeovers(dead []death, before, claimed []tokenstore.Token) {
	owners := map[tokenstore.Key]int64{}
	for _, t := range before {
		owners[t.Key] = t.Owner
	}
	for _, t := range claimed {
		for _, d := range dead {
			if owners[t.Key] == d.worker {
				c.metrics.takeovers.WithLabelValues(string(d.by)).Inc()
			}
		}
	}
}
