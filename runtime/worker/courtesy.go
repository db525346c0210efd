package worker

import (
	"context"
	"sync"
	"time"
)

// courtesy has this worker's backlogs rest between their batches while live batches, of whichever worker of the store, would commit slowly beside them. A database that
// has enough for both is left to the backlog whole; where both want more than there is, the backlog gives way.
//
// What is looked at is how long a commit takes that has nothing else to do: a probe, while there are both. One is slow that takes longer than both slowLeast and a few times
// the quickest of late. How long backlogs rest follows from how often that happens: each slow probe has them rest a step longer, each other one a fraction of a step
// less long, so that they settle where one in two hundred is slow. This is the stochastic approximation of a quantile (Robbins and Monro, 1951).
type courtesy struct {
	mu       sync.Mutex
	live     time.Time     // when somebody was known last to have live batches
	told     time.Time     // when this worker said so last, or heard it
	quickest time.Duration // probe of late: it grows slowly, so that it follows what the database takes
	factor   float64       // how many times as long as its batch took a backlog rests
}

const (
	probeEvery = 25 * time.Millisecond // while a backlog is handled beside live batches
	slowFactor = 5                     // times the quickest is slow
	slowLeast  = 10 * time.Millisecond // up to this nothing is slow
	slowShare  = 0.005                 // of probes may be slow
	restStep   = 0.5
	mostRest   = 9.0 // a backlog works for a tenth of the time at least
	restAtMost = time.Second
	forgetting = 1.001 // by which the quickest grows with each probe

	tellEvery = 2 * time.Second // that there are live batches, whoever has some
	liveFor   = 5 * time.Second // after which there are none any more
)

// committed takes note of a live batch of this worker, and reports whether the others are to be told. They are where none of them has said the same of late.
func (c *courtesy) committed(now time.Time) (tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = now
	if now.Sub(c.told) < tellEvery {
		return false
	}
	c.told = now
	return true
}

// heard takes note of a worker that has live batches.
func (c *courtesy) heard(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live, c.told = now, now
}

// isDue reports whether there are live batches to give way to.
func (c *courtesy) isDue(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Sub(c.live) < liveFor
}

// probed takes note of how long a commit took that had nothing else to do.
func (c *courtesy) probed(took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quickest = time.Duration(float64(c.quickest) * forgetting); c.quickest == 0 || took < c.quickest {
		c.quickest = took
	}
	if took > max(slowFactor*c.quickest, slowLeast) {
		c.factor = min(c.factor+restStep, mostRest)
	} else {
		c.factor = max(c.factor-restStep*slowShare/(1-slowShare), 0)
	}
}

// resting is how many times as long as its batch took a backlog is to rest now.
func (c *courtesy) resting(now time.Time) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.live) >= liveFor {
		c.factor = 0
	}
	return c.factor
}

// rest is how long a backlog is to rest after a batch that took so long.
func (c *courtesy) rest(took time.Duration, now time.Time) time.Duration {
	return min(time.Duration(c.resting(now)*float64(took)), restAtMost)
}

// beginBacklog takes note that a batch of a backlog begins.
func (l *life) beginBacklog() {
	select {
	case l.backlog <- struct{}{}:
	default:
	}
}

// endBacklog has another segment with a backlog go on, at once or after a rest, unless one does
// that already because the batch has lasted.
func (l *life) endBacklog(took time.Duration, counts bool) {
	if counts {
		l.runnable.doneAfter(l.courtesy.rest(took, time.Now()))
	}
}

// committedLive takes note of a live batch that has committed.
func (l *life) committedLive() {
	if l.courtesy.committed(time.Now()) {
		select {
		case l.alive <- struct{}{}:
		default: // the one before is being sent
		}
	}
}

// tellOfLive tells the other workers of the database that this one has live batches, now and then, until the context ends.
func (l *life) tellOfLive(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.alive:
			if err := l.directory.NotifyLiveEvents(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn("cannot tell other workers, whose backlogs would give way, that there are live events here", "error", err)
			}
		}
	}
}

// giveWay probes how quickly the database commits while a backlog is handled here and there are live batches somewhere, until the context ends.
func (l *life) giveWay(ctx context.Context) {
	if l.options.CatchUpWorkers < 0 {
		return
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-l.backlog:
		}
		for last := time.Now(); ctx.Err() == nil && time.Since(last) < restAtMost && l.courtesy.isDue(time.Now()); sleep(ctx, probeEvery) {
			began := time.Now()
			if err := l.directory.Probe(ctx, l.self.Incarnation); err != nil {
				l.log.Debug("a probe failed; the next batch of a backlog has another one made", "error", err)
				break
			}
			l.courtesy.probed(time.Since(began))
			select {
			case <-l.backlog:
				last = time.Now()
			default:
			}
		}
	}
}
