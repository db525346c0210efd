// Package tokenstore holds the interfaces behind which all state of processors lies, and their data
// types.
//
// Directory knows, for one processor, its workers, the plan and what takes effect without a rollout.
// Store knows, for one database, how far each segment has come; it lies next to the projections, so
// that one transaction covers both. Membership gives each worker its incarnation, and a session by
// which it receives signals and its peers notice its end.
//
// What must always hold, and who guarantees it:
//   - A batch commits only if its token has the epoch and version that the caller believes (the fence, in the database).
//   - Epoch and version of a token never go back: not by release, split, merge, reset, or delete and creation.
//   - The segments of a group cover the hash space exactly once (Split and Merge are one transaction each).
//   - What each operation makes of a token, and what its owner may believe of it, is in package protocol.
//   - Nothing of this needs a clock or a failure detector: those decide only who may try.
package tokenstore

import (
	"context"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// Key names a token.
type Key struct {
	Group   string
	Segment uint32
}

// Token is what is known of a segment's progress and ownership.
type Token struct {
	Key
	Mask       uint32
	Parts      []progress.Part // at least one; disjoint; together they are the segment
	Generation int64           // grows with every reset
	Epoch      int64           // grows with every claim, split, merge and reset
	Version    int64           // grows with every write
	Owner      int64           // incarnation of the worker that claimed it, 0 for nobody
	// Least is the number of the oldest definition whose workers may claim it; math.MaxInt64 while its group is being reset.
	Least int64
	// Sequencing of its group, as segment.Sequencing writes it: by its hashes the segment is meant.
	Sequencing string
}

// Range is the segment of the hash space that the token stands for.
func (t Token) Range() segment.Segment { return segment.Segment{ID: t.Segment, Mask: t.Mask} }

// Group is what a processor declares of a processing group.
type Group struct {
	Name     string
	Segments int // wanted, 1 to 32,767
	// Sequencing as segment.Sequencing writes it: the wanted one where a group is declared, that of its tokens where the store
	// gives it. Empty stands for segment.PerStream.
	Sequencing string
	// Incomplete says that a replay of the group was abandoned after its reset, and none has completed since. Given by the store.
	Incomplete bool
}

// Claim asks for a token that is believed to have this epoch.
type Claim struct {
	Key
	Epoch int64
	// Sequencing by which the worker would handle it; empty stands for segment.PerStream.
	Sequencing string
}

// Advance moves a token. Epoch and Version are what the caller believes it to have; its version is one higher afterwards.
type Advance struct {
	Key
	Epoch, Version int64
	Parts          []progress.Part
	WasParted      bool // the token had more than one part before
	Release        bool // give up the ownership with this write
	Recovers       bool // the token has passed the event that the segment stood still at: its failure is deleted
	// Unsynced says that the store need not have the write on disk before it counts as committed: if its server crashes at once, the token is
	// where it was, and so is all else that the transaction wrote. It counts where all moves of a transaction say so.
	Unsynced bool
}

// Failure is why a segment stands still at an event.
type Failure struct {
	Key
	Position int64 // of the event that failed
	// EventMark is the event's Mark. 0 also stands for one that is not known.
	EventMark uint64
	Attempts  int
	RetryAt   time.Time // by the database's clock
	FailedAt  time.Time // by the database's clock
	Since     time.Time // of the first attempt at the event, by the database's clock
	Message   string
	Reason    string    // CamelCase, for conditions
	Type      string    // of the event
	Stream    string    // of the event
	SQL       *SQLError // what PostgreSQL said, where the error is its
	Tried     []int64   // incarnations of the workers at which the event failed

	// Calling says that a call of the handler has begun, for the events from Position to Last, and
	// that its end is not known. It is the mark of a suspect segment: see Store.Mark. EventMark is
	// that of the event at Position.
	Calling bool
	Last    int64
}

// Marks reports whether the failure is the mark of a call for an event.
func (f *Failure) Marks(position int64) bool {
	return f != nil && f.Calling && f.Position <= position && position <= f.Last
}

// Store keeps the tokens of one database.
//
// Methods return ErrFenced, ErrLayoutChanged and *GroupConflictError as documented there; all other errors are the database's.
type Store interface {
	// Declare makes the named groups the owner's: it creates those that are missing, with tokens at
	// start, takes over those that were retired or that the owner may take (Owner.MayTake), records
	// the wanted number of segments, and retires the processor's groups that are not named. A group
	// that changes its owner is fenced: its tokens get new epochs, so that nothing that the former
	// owner's workers are writing commits. Nothing is changed when a group, or the processor's
	// name, belongs to another owner: that is a *GroupConflictError. Nor is anything when a group
	// has tokens of another sequencing, unless one of the replays that are requested gives it the
	// wanted one with its reset, and the group is not in the middle of another: that is a
	// *SequencingChangedError. start is asked once for each group that is created. Of the replays
	// that are requested, those which are for nothing but groups created now are recorded as
	// superseded.
	Declare(ctx context.Context, owner Owner, groups []Group, requested []ReplayRequest, start func(group string) (progress.Progress, error)) error

	// Drop deletes the tokens of the owner's groups. Their epochs go on where they were when a
	// group is declared again. Groups that another installation has under the same name stay.
	Drop(ctx context.Context, owner Owner) error

	// Groups returns the processor's groups that are not retired, by name.
	Groups(ctx context.Context, processor string) ([]Group, error)

	// Tokens returns all tokens of the processor's groups, by group and segment.
	Tokens(ctx context.Context, processor string) ([]Token, error)

	// Failures returns why segments of the processor stand still, by group and segment: those with
	// at least one attempt.
	Failures(ctx context.Context, processor string) ([]Failure, error)

	// Attempts returns the same, and marks without an attempt.
	Attempts(ctx context.Context, processor string) ([]Failure, error)

	// Claim makes the worker the owner of those tokens that still have the epoch named, and returns them with their new epoch.
	// Tokens that have moved on, or whose row is locked by a running batch, are left out: look again and retry.
	// definition is the number of the worker's definition; groups that want a newer one are left out too, and those of another
	// sequencing than the claim's.
	Claim(ctx context.Context, processor string, worker, definition int64, claims []Claim) ([]Token, error)

	// Advance moves tokens, all or none, in a transaction of its own. ErrFenced when any has moved on.
	Advance(ctx context.Context, advances []Advance) error

	// Fail records a failure of an event, if the token still has this epoch and version; ErrFenced
	// otherwise. The database's clock gives RetryAt, retryIn after now; Since is kept as long as
	// the position is the same. It is there until an Advance recovers from it.
	Fail(ctx context.Context, epoch, version int64, failure Failure, retryIn time.Duration) error

	// Mark records, before a call of the handler for a suspect segment, that the call is under way,
	// or with Calling false that it has ended without an attempt being counted. It keeps attempts,
	// message and times of a failure at the same position, and replaces another one. ErrFenced
	// where the token has another epoch or version. It is there until an Advance recovers from it.
	Mark(ctx context.Context, epoch, version int64, mark Failure) error

	// Split makes two tokens of one, both at its progress, without an owner, with a new epoch. Its owner is fenced off.
	// ErrLayoutChanged when the group has no such segment (any more).
	Split(ctx context.Context, group string, s segment.Segment) error

	// Merge makes one token of two halves; it keeps a part for each half until these have met.
	// half is either of them. ErrLayoutChanged when the group does not have both (any more).
	Merge(ctx context.Context, group string, half segment.Segment) error
}
