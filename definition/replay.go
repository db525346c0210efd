package definition

import (
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

// ReplayRequest returns the replay that a spec asks for; false where it asks for none. It goes with the spec's own definition,
// whatever that is when it is reset.
func (s Spec) ReplayRequest() (tokenstore.ReplayRequest, bool, error) {
	if s.Replay == nil {
		return tokenstore.ReplayRequest{}, false, nil
	}
	at := s.Replay.From
	if at.Type == "" {
		at.Type = Earliest
	}
	place, err := progress.ParseStartPosition(at.Type, at.Position, at.Timestamp)
	if err != nil {
		return tokenstore.ReplayRequest{}, false, fmt.Errorf("spec.replay.from.timestamp: %w", err)
	}
	return tokenstore.ReplayRequest{ID: s.Replay.ID, Groups: slices.Sorted(slices.Values(s.Replay.Groups)), From: place, Context: s.Replay.Context,
		Unguarded: s.Unguarded(s.Replay.Groups), Definition: s.Definition().ID(), Rebind: true, State: tokenstore.ReplayWanted,
		Sequencing: s.Sequencings(s.Replay.Groups)}, true, nil
}

// Unguarded are those of the groups that may be replayed without a reset.
func (s Spec) Unguarded(groups []string) []string {
	var allowed []string
	for _, g := range s.ProcessingGroups {
		if g.Replay == ReplayAllow && slices.Contains(groups, g.Name) {
			allowed = append(allowed, g.Name)
		}
	}
	return allowed
}

// Refusal is why a replay of groups cannot run with a spec, as far as the spec tells: whether a Go handler has a reset only
// the program knows.
type Refusal struct {
	Reason  string // ReplayGroupMissing, ReplayNoReset or ReplayDenied
	Message string
}

// ReplayDenied is the reason of a refusal by a group's policy.
const ReplayDenied = "ReplayDenied"

// RefuseReplay returns why groups cannot be replayed, nil where nothing speaks against it.
func (s Spec) RefuseReplay(groups []string) *Refusal {
	for _, name := range groups {
		i := slices.IndexFunc(s.ProcessingGroups, func(g Group) bool { return g.Name == name })
		if i < 0 {
			return &Refusal{tokenstore.ReplayGroupMissing, "the processor has no group " + name}
		}
		group := s.ProcessingGroups[i]
		switch {
		case group.Replay == ReplayDeny:
			return &Refusal{ReplayDenied, fmt.Sprintf("group %s says replay: Deny; set spec.processingGroups[%d].replay: Allow, or remove it", name, i)}
		case group.Replay != ReplayAllow && group.Handler.SQL != nil && group.Handler.SQL.Reset == "":
			return &Refusal{tokenstore.ReplayNoReset, fmt.Sprintf("group %s has no reset: set handler.sql.reset, or replay: Allow if its handler may see events twice", name)}
		}
	}
	return nil
}
