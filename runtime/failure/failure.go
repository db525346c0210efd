// Package failure decides what happens after a batch that did not commit. It is a pure policy: it has no clock, no store and
// no handler, so that everything which processes events can use the same one.
//
// What must always hold:
//   - An attempt is counted only after it has failed, and only against a batch of one event.
//   - Failures that are no evidence against an event count nothing.
//   - An event that always fails is found: whatever counts against an event or the definition is
//     tried again with fewer events, until one is alone.
//   - No failure is tried again without a wait but those that make the next batch smaller, which ends after few steps.
package failure

import (
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// Failed is a batch that did not commit.
type Failed struct {
	Kind   tokenstore.FaultKind
	Events int // in the batch, from 1
	// Culprit is the index of the event that failed, where it is known; below 0 where it is not.
	Culprit int
	// TimedOut says that the batch ran out of time, so that each failure takes as long as the limit.
	TimedOut bool
	// Unknown says that the batch may have committed: nothing may be concluded before the segment was claimed again.
	Unknown bool
	// Attempts counted before at the first event of the batch.
	Attempts int
	// Repeats is how many batches in a row that began with the same event failed without an attempt being counted.
	Repeats int
}

// Policy is what a group's settings say about failures.
type Policy struct {
	// Initial and Max are the shortest and the longest wait between two attempts.
	Initial, Max time.Duration
}

// Action is what to do after a failure.
type Action int

const (
	// Retry tries again, after the wait, with as many events.
	Retry Action = iota
	// Reclaim claims the segment again, and begins no batch of it before the wait is over.
	Reclaim
	// Isolate handles the events before the culprit as one batch, and then the culprit alone.
	Isolate
	// Halve searches the culprit: it tries again with half as many events.
	Halve
	// Single searches the culprit too, but handles the events of the batch one by one. It takes one
	// more failure, where halving takes several.
	Single
	// Shrink tries again with half as many events, after the wait, since others are in the way of large transactions.
	Shrink
	// Count counts an attempt at the only event of the batch, and tries it again after the wait.
	Count
)

// Decision is what to do, and how long to wait before the next batch.
type Decision struct {
	Action Action
	Wait   time.Duration
}

// Waits after failures that count nothing.
const (
	contentionWait    = 20 * time.Millisecond
	contentionMax     = 5 * time.Second
	quickContentions  = 5 // that are tried again without the wait growing
	infrastructureMin = 100 * time.Millisecond
	infrastructureMax = 5 * time.Second
)

// Decide says what to do after a batch has failed. random returns a number from 0 up to 1, for the jitter.
func Decide(f Failed, p Policy, random func() float64) Decision {
	switch {
	case f.Unknown && f.Kind == tokenstore.EventFault: // what it counts for is decided once the segment was claimed again
		return Decision{Action: Reclaim}
	case f.Unknown:
		return Decision{Reclaim, jittered(Backoff(infrastructureMin, infrastructureMax, f.Repeats+1), random)}
	}
	several := f.Events > 1
	switch f.Kind {
	// A fault of the definition may be in a statement that few events reach.
	case tokenstore.EventFault, tokenstore.DefinitionFault:
		switch {
		case several && f.Culprit >= 0:
			return Decision{Action: Isolate}
		case several && f.TimedOut:
			return Decision{Action: Single}
		case several:
			return Decision{Action: Halve}
		case f.Kind == tokenstore.EventFault:
			return Decision{Count, jittered(Backoff(p.Initial, p.Max, f.Attempts+1), random)}
		}
		return Decision{Retry, jittered(Backoff(p.Initial, p.Max, f.Repeats+1), random)}
	case tokenstore.ContentionFault:
		return Decision{Shrink, jittered(Backoff(contentionWait*2, contentionMax, max(1, f.Repeats-quickContentions)), random)}
	default:
		return Decision{Retry, jittered(Backoff(infrastructureMin, infrastructureMax, f.Repeats+1), random)}
	}
}

// Backoff is the wait after the nth failure in a row, from 1: initial, and twice as long each time, up to the longest wait.
func Backoff(initial, longest time.Duration, n int) time.Duration {
	wait := initial
	for ; n > 1 && wait < longest; n-- {
		wait *= 2
	}
	return min(wait, longest)
}

// jittered returns three quarters of a wait up to all of it, so that those who wait for the same thing do not come together.
func jittered(wait time.Duration, random func() float64) time.Duration {
	return wait - time.Duration(random()*float64(wait)/4)
}
