package tokenstore

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-project/sluice/progress"
)

// ReplayState is what is wanted of a replay.
type ReplayState string

const (
	ReplayWanted        ReplayState = "Running"
	ReplayToBeCancelled ReplayState = "Cancelled" // possible before the reset; without effect after it
	ReplayToBeAbandoned ReplayState = "Abandoned" // after the reset: the tokens go where they were; before it: like Cancelled
)

// ReplayPhase is how far a replay has come.
type ReplayPhase string

const (
	ReplayPending    ReplayPhase = "Pending"    // nothing has happened; Reason says what it waits for
	ReplayResetting  ReplayPhase = "Resetting"  // nobody may claim segments of its groups until the reset has committed
	ReplayRunning    ReplayPhase = "Replaying"  // the groups handle events again
	ReplayComplete   ReplayPhase = "Complete"   // they have handled again what they had handled at the reset
	ReplayFailed     ReplayPhase = "Failed"     // the reset handler failed; the groups go on where they were
	ReplayCancelled  ReplayPhase = "Cancelled"  // before the reset
	ReplayAbandoned  ReplayPhase = "Abandoned"  // after the reset: the projection is incomplete
	ReplaySuperseded ReplayPhase = "Superseded" // never run: the groups were new, or the id had run for another processor
)

// Ended reports whether nothing more will happen.
func (p ReplayPhase) Ended() bool {
	return !slices.Contains([]ReplayPhase{ReplayPending, ReplayResetting, ReplayRunning}, p)
}

// Reasons of a Replay that is pending, resetting, failed, superseded or about to be abandoned, in CamelCase as conditions have them.
const (
	ReplayWaitsForRollout   = "WaitingForRollout" // a live worker runs another definition than the one it is bound to
	ReplayWaitsForOther     = "Waiting"           // another replay of one of its groups runs first
	ReplayWaitsForPause     = "Paused"            // the processor or one of the groups is paused
	ReplayWaitsForLocks     = "WaitingForLocks"   // the reset waits for somebody's locks
	ReplayWaitsForStore     = "WaitingForStore"   // the database does not let it begin, or its reset run
	ReplayNoReset           = "NoReset"           // a group has no reset, and its spec does not allow a replay without
	ReplayGroupMissing      = "GroupNotFound"     // the processor has no such group
	ReplayResetRuns         = "Resetting"         // the reset handlers have been running for some time
	ReplayResetFailing      = "ResetFailing"      // the reset has failed, and is tried again
	ReplayResetHandlerFails = "ResetFailed"       // the reset handler failed
	ReplayGroupsNew         = "Superseded"        // the groups' tokens were first made when the id was there already
	ReplayRanElsewhere      = "AlreadyRun"        // the id has run for one of the groups under another processor
	ReplayPlaceInvalid      = "PlaceInvalid"      // the source has no such place to begin at

	ReplayAbandoning = "Abandoning" // of one that is running: it is abandoned as soon as all have what only some had handled
	// Of a *NotDueError only.
	ReplayMoved              = "Moved"     // somebody else has gone on with the replay: look again
	ReplayCancelledMeanwhile = "Cancelled" // cancelled or abandoned before the reset
)

// ReplayRequest is what is asked for.
type ReplayRequest struct {
	ID      string
	Groups  []string
	From    progress.StartPosition
	Context map[string]string // for the reset handlers and for handlers of replayed events
	// Unguarded are those of the groups that may be replayed without a reset.
	Unguarded []string
	// Definition that must be the wanted one, and run by every live worker, before the reset.
	Definition string
	// Rebind makes Definition replace the one that the replay was bound to at first, as long as it has not been reset.
	Rebind bool
	State  ReplayState
	// Sequencing that Definition has, by group: the reset makes it the group's. A group that is not in it keeps what it has.
	Sequencing map[string]string
}

// Replay is a row of the ledger. An id runs at most once in the life of a store.
type Replay struct {
	ReplayRequest
	Number  int64 // orders all replays of the store
	Phase   ReplayPhase
	Reason  string
	Message string
	// Done of Total positions have been handled again, counted over the hash space; positions without an event count too.
	Done, Total int64
	// Attempts are the tries of its reset that ended without success, those that only lacked a lock
	// left out.
	Attempts    int
	RequestedAt time.Time
	ResetAt     *time.Time
	EndedAt     *time.Time
}

// Replays is the ledger of a store's replays.
type Replays interface {
	// RequestReplays makes known what is asked for now, all of it: rows are added for ids that the ledger does not have; the
	// state of those that have not ended is updated, the definition where Rebind is set, and all else while they are Pending.
	// Those that are Pending and not asked for any more are withdrawn, as if nobody ever had; those that are Resetting then are
	// to be cancelled; and those that are Pending and to be cancelled are, at once. What has been reset goes on whatever is
	// asked for.
	RequestReplays(ctx context.Context, processor string, requests []ReplayRequest) error

	// Replays returns the processor's ledger, oldest request first, and the replays that groups are in the middle of which
	// were another processor's.
	Replays(ctx context.Context, processor string) ([]Replay, error)
}

// Replaying is a replay that a group is in the middle of.
type Replaying struct {
	Number     int64
	ID         string
	Context    map[string]string
	Boundaries []Boundary
}

// ResetRun is one run of the reset handlers of a replay.
type ResetRun struct {
	// Limit is the time that the handlers have; 0 for none. The store ends a transaction that is idle
	// for longer, and a statement that takes longer: the client may be frozen.
	Limit time.Duration
	// Handlers runs them in the reset's transaction.
	Handlers func(ctx context.Context, tx Tx) error
}

// ResetTry is one try of a reset, in a session of its own: what the handlers leave in it reaches
// nobody else. Run is called once. The other methods may be called meanwhile.
type ResetTry interface {
	// Run runs the reset handlers of a replay that BeginReset has begun, and moves the tokens of its
	// groups to start. All of it commits, or none. A *NotDueError says that the reset is not to go
	// on: end it. Errors of handlers come back as they are.
	Run(ctx context.Context, processor string, r Replay, n progress.Algebra, start progress.Progress, run ResetRun) error
	// BlockedBy describes the sessions that hold the locks that Run waits for now; it is empty if
	// there are none.
	BlockedBy(ctx context.Context) (string, error)
	// Unblock ends those of the sessions that BlockedBy has found last that are workers': BeginReset
	// has fenced their batches off.
	Unblock(ctx context.Context) error
	// Abandon closes the session under a Run that does not return. It commits nothing any more.
	Abandon() error
	// Close ends the session after Run has returned, or without it.
	Close(ctx context.Context)
}

// Resets carries replays out. A crash between two of these leaves what whoever comes next goes on
// with.
type Resets interface {
	// TryReset opens the session of a try.
	TryReset(ctx context.Context) (ResetTry, error)

	// MarkReset notes that a worker is about to call the reset handlers, apart from the reset's
	// transaction, so that the mark stays if the worker ends in the call. A mark that is there
	// already is from such a worker: it is counted as a failure of the reset. MarkReset returns the
	// attempts and, of these, the failures so far. A *NotDueError says that the reset has ended.
	MarkReset(ctx context.Context, r Replay, worker int64) (attempts, failures int, err error)

	// UnmarkReset notes that a worker's call of the reset handlers has ended without success:
	// attempts and failures are added to what is counted.
	UnmarkReset(ctx context.Context, r Replay, worker int64, attempts, failures int) error

	// TerminateReset ends the session that runs the reset handlers of a replay, of whichever worker,
	// and reports whether there was one.
	TerminateReset(ctx context.Context, r Replay) (bool, error)

	// Replaying returns, by group, the replays that the processor's groups are in the middle of.
	Replaying(ctx context.Context, processor string) (map[string]*Replaying, error)

	// BeginReset takes the segments of a pending replay's groups from their owners: running batches are fenced off, and nobody
	// may claim until the reset has ended. A *NotDueError says why it is not the time; nothing was written then.
	BeginReset(ctx context.Context, processor string, r Replay) error

	// EndReset lets the groups of a replay whose reset has begun go on where they were. phase is what becomes of the replay:
	// Pending, Failed or Cancelled.
	EndReset(ctx context.Context, r Replay, phase ReplayPhase, reason, message string) error

	// Explain says what a replay waits for that has not been reset.
	Explain(ctx context.Context, r Replay, reason, message string) error

	// Record notes how far a replay has come that runs.
	Record(ctx context.Context, r Replay, done, total int64) error

	// Complete ends a replay that runs, and whose groups have what their boundaries have.
	Complete(ctx context.Context, r Replay) error

	// Abandon ends a replay that runs: the tokens go to what was handled before, and what has been handled again stays so. The
	// projection lacks the rest until another replay of the groups is complete. Where the replay has changed a group's sequencing,
	// tokens go to what all of the group had handled, and the replay still runs, ReplayAbandoning, until the group has handled again
	// what only some of it had: Abandon has to be called again then.
	Abandon(ctx context.Context, r Replay, n progress.Algebra) error
}

// NotDueError says why a replay cannot go on now.
type NotDueError struct{ Reason, Message string }

func (e *NotDueError) Error() string { return e.Message }

// Agreed returns a *NotDueError unless the definition that a replay is bound to is the wanted one and no pod runs another.
func Agreed(bound, wanted string, others []string) error {
	switch {
	case bound != wanted:
		return &NotDueError{ReplayWaitsForRollout, "the replay is bound to definition " + bound + ", and the processor wants " + wanted +
			": apply that definition again, or cancel this replay and create another one"}
	case len(others) == 1:
		return &NotDueError{ReplayWaitsForRollout, "pod " + others[0] + " runs another definition than " + bound}
	case len(others) > 1:
		return &NotDueError{ReplayWaitsForRollout, "pod " + others[0] + " and others run another definition than " + bound}
	}
	return nil
}

// Boundary is what a part of the hash space had handled when its group was reset. An event is handled again, rather than for
// the first time, if and only if the boundary that it belongs to has been given it. The boundaries of a group cover the hash
// space exactly once; they do not depend on what its segments are meanwhile.
type Boundary struct {
	progress.Part
	Start int64 // position from which it is handled again
	// Sequencing of the group before the reset: by its hashes the segment is meant. All of a group have the same.
	Sequencing string
}
