package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// Tries that failed before a replay has: the groups stand still meanwhile.
const (
	mostFailures = 5
	mostTimeouts = 2 // each takes the whole time limit
)

// course is what follows from how a try of a reset ended.
type course int

const (
	done      course = iota // the reset has committed
	leave                   // somebody else has gone on with the replay, or will
	cancelled               // nobody wants it any more
	putOff                  // it is not due any more: it goes back to Pending
	lockBusy                // somebody has a lock that it needs: again soon
	retry                   // again after a while; the try counts if it speaks against the reset
	fail                    // the groups go on where they were
)

// verdict is the course, whether the try counts as a failure, and what to say.
type verdict struct {
	course          course
	counts          bool
	reason, message string
}

// Errors of a call that did not return one.
var (
	errExited    = errors.New("the reset handler called runtime.Goexit: return an error instead")
	errAbandoned = errors.New("the reset handler ignores that its context has ended; its transaction was ended, and the worker goes on without it")
	errStopped   = errors.New("nobody waits for the reset any more")
	// errWorkersEnded is that of a call that was not made, since it would be one too many.
	errWorkersEnded = errors.New("the worker that ran it ended in the call")
)

// timeLimitError says that the reset handlers did not end in time.
type timeLimitError struct {
	limit time.Duration
	err   error
}

func (e *timeLimitError) Error() string {
	return fmt.Sprintf("the reset did not end within its time limit of %s, the largest processingGroups[].timeout of the replay's groups: %v", e.limit, e.err)
}

func (e *timeLimitError) Unwrap() error { return e.err }

// panicError is a panic that nobody has caught before.
type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprintf("the reset handler panicked: %v", e.value) }

// outcome is how a try ended.
type outcome struct {
	groups   []string
	err      error
	called   bool // it had come as far as to call the handlers
	failures int  // of the tries before it
	tries    int  // how many there have been, with it
}

// judge says what follows from how a try ended.
func judge(o outcome, store tokenstore.Classifier) verdict {
	err := o.err
	var wait *tokenstore.NotDueError
	var place *eventsource.StartPositionError
	kind, evidence := handler.Classify(err, store)
	if !errors.As(err, new(*handler.UserError)) { // which may wrap anything
		errors.As(err, &wait)
		errors.As(err, &place)
	}
	switch {
	case err == nil:
		return verdict{course: done}
	case errors.Is(err, errStopped), wait != nil && wait.Reason == tokenstore.ReplayMoved:
		return verdict{course: leave}
	case wait != nil && wait.Reason == tokenstore.ReplayCancelledMeanwhile:
		return verdict{course: cancelled}
	case wait != nil:
		return verdict{course: putOff, reason: wait.Reason, message: wait.Message}
	case place != nil: // since it was asked first, events have been deleted
		return verdict{course: putOff, reason: tokenstore.ReplayPlaceInvalid, message: place.Problem}
	case kind == tokenstore.ContentionFault:
		return verdict{course: lockBusy, reason: tokenstore.ReplayWaitsForLocks,
			message: fmt.Sprintf("the reset of %s (attempt %d) met another transaction, and is tried again: %v", named(o.groups), o.tries, err)}
	case errors.Is(err, errWorkersEnded):
		return verdict{course: fail, reason: tokenstore.ReplayResetHandlerFails, message: fmt.Sprintf("the reset of %s failed %s: %v", named(o.groups), times(mostFailures), err)}
	case !o.called, kind == tokenstore.InfrastructureFault && slices.Contains(ofTheServer, evidence):
		return verdict{course: retry, reason: tokenstore.ReplayWaitsForStore,
			message: fmt.Sprintf("the database does not let the reset of %s run (attempt %d), which is tried again: %v", named(o.groups), o.tries, err)}
	}
	tries, most := o.failures+1, mostFailures
	var late *timeLimitError
	switch {
	case errors.Is(err, errAbandoned):
		most = 1 // no second call beside one that still runs
	case errors.As(err, &late):
		most = mostTimeouts
	}
	if tries >= most {
		return verdict{fail, true, tokenstore.ReplayResetHandlerFails, fmt.Sprintf("the reset of %s failed %s: %v", named(o.groups), times(tries), err)}
	}
	return verdict{retry, true, tokenstore.ReplayResetFailing, fmt.Sprintf("the reset of %s failed %s, and is tried again: %v", named(o.groups), times(tries), err)}
}

func named(groups []string) string {
	if len(groups) == 1 {
		return "group " + groups[0]
	}
	return "groups " + strings.Join(groups, ", ")
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

// ofTheServer are the reasons with which a server has answered that it cannot run a statement,
// rather than that the statement is wrong. A connection that ended in a call of the handlers is
// none: they may have ended it themselves.
var ofTheServer = []string{handler.ReasonServerError, handler.ReasonReadOnly}

// overran gives the error of handlers whose context has ended because of the time limit its reason.
func overran(ctx context.Context, limit time.Duration, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &timeLimitError{limit, err}
	}
	return err
}

// stackOf is the stack of a panic, empty where there was none.
func stackOf(err error) string {
	var user *handler.UserError
	var panicked *panicError
	switch {
	case errors.As(err, &panicked):
		return panicked.stack
	case errors.As(err, &user):
		return user.Stack
	}
	return ""
}
