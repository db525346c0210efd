package tokenstore

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/segment"
)

// A group's tokens stand for shares of the hashes of one sequencing: under another one the same event lies elsewhere, so that
// tokens would skip some and handle others twice. So a group's sequencing changes in the transaction of a reset, and nowhere
// else; until then only workers claim its tokens that have the one which is recorded. Sequencings are compared as the texts that
// segment.Sequencing writes.

// SameSequencing compares two. Empty stands for segment.PerStream.
func SameSequencing(a, b string) bool {
	perStream := segment.PerStream.String()
	return cmp.Or(a, perStream) == cmp.Or(b, perStream)
}

// SequencingChangedError is returned when a group is declared with another sequencing than its tokens have, and no replay that is
// asked for would reset it.
type SequencingChangedError struct {
	Group            string
	Recorded, Wanted string
	Running          string // id of a replay that the group is in the middle of, for whose end the change has to wait; or empty
}

func (e *SequencingChangedError) Error() string {
	text := fmt.Sprintf("processing group %s has handled its events by the sequencing %s, and the spec asks for %s: under it they belong to other segments.", e.Group, e.Recorded, e.Wanted)
	if e.Running != "" {
		return text + " The change waits for the end of replay " + e.Running + " of the group: let it end, abandon it, or set the sequencing back"
	}
	return text + " Set the sequencing back, or ask for a replay of the group in the same edit, by spec.replay with a new id"
}

// SequencingChanged is the reason of a Fault: a group's tokens have another sequencing than the worker's definition, and no replay
// is going to change that.
const SequencingChanged = "SequencingChanged"

// ResetAhead returns the first of the replays that is going to reset the group for a definition with this sequencing.
func ResetAhead(replays []Replay, group, sequencing string) (Replay, bool) {
	for _, r := range replays {
		if (r.Phase == ReplayPending || r.Phase == ReplayResetting) && r.resequences(group, sequencing) {
			return r, true
		}
	}
	return Replay{}, false
}

// resequences reports whether the replay's reset gives a group the sequencing.
func (r ReplayRequest) resequences(group, sequencing string) bool {
	return r.State == ReplayWanted && slices.Contains(r.Groups, group) && r.Sequencing[group] != "" && SameSequencing(r.Sequencing[group], sequencing)
}

// RefuseSequencing returns why a group whose tokens have one sequencing cannot be declared with another; nil where it can.
// ledger are the processor's replays, and those that its groups are in the middle of; running is the one that this group is in the
// middle of, or empty.
func RefuseSequencing(group, recorded, wanted, running string, requested []ReplayRequest, ledger []Replay) *SequencingChangedError {
	if SameSequencing(recorded, wanted) {
		return nil
	}
	refusal := &SequencingChangedError{Group: group, Recorded: recorded, Wanted: wanted, Running: running}
	if running != "" {
		return refusal
	}
	for _, r := range requested {
		i := slices.IndexFunc(ledger, func(row Replay) bool { return row.ID == r.ID })
		if i >= 0 && ledger[i].Phase != ReplayPending && ledger[i].Phase != ReplayResetting {
			continue // it has run, and runs once
		}
		if i >= 0 && !r.Rebind {
			r.Sequencing = ledger[i].Sequencing
		}
		if r.resequences(group, wanted) {
			return nil
		}
	}
	return refusal
}
