package declare

import (
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

// ReplayRequest returns the replay that a spec asks for; false if it asks for none. It goes with the
// spec's own definition, whatever that is when it is reset.
func ReplayRequest(s definition.Spec) (tokenstore.ReplayRequest, bool, error) {
	if s.Replay == nil {
		return tokenstore.ReplayRequest{}, false, nil
	}
	at := s.Replay.From
	if at.Type == "" {
		at.Type = definition.Earliest
	}
	start, err := progress.ParseStartPosition(at.Type, at.Position, at.Timestamp)
	if err != nil {
		return tokenstore.ReplayRequest{}, false, fmt.Errorf("spec.replay.from.timestamp: %w", err)
	}
	return tokenstore.ReplayRequest{ID: s.Replay.ID, Groups: slices.Sorted(slices.Values(s.Replay.Groups)), From: start, Context: s.Replay.Context,
		Unguarded: s.Unguarded(s.Replay.Groups), Definition: s.Definition().ID(), Rebind: true, State: tokenstore.ReplayWanted,
		Sequencing: s.Sequencings(s.Replay.Groups)}, true, nil
}

// Refusal is why a replay of groups cannot run with a spec, as far as the spec tells. Only the
// program knows whether a Go handler has a reset.
type Refusal struct {
	Reason  string // ReplayGroupMissing, ReplayNoReset or ReplayDenied
	Message string
}

// ReplayDenied is the reason of a refusal by a group's policy.
const ReplayDenied = "ReplayDenied"

// RefuseReplay returns why groups cannot be replayed, nil if nothing speaks against it.
func RefuseReplay(s definition.Spec, groups []string) *Refusal {
	for _, name := range groups {
		i := slices.IndexFunc(s.ProcessingGroups, func(g definition.Group) bool { return g.Name == name })
		if i < 0 {
			return &Refusal{tokenstore.ReplayGroupMissing, "the processor has no group " + name}
		}
		group := s.ProcessingGroups[i]
		switch {
		case group.Replay == definition.ReplayDeny:
			return &Refusal{ReplayDenied, fmt.Sprintf("group %s says replay: Deny; set spec.processingGroups[%d].replay: Allow, or remove it", name, i)}
		case group.Replay != definition.ReplayAllow && group.Handler.SQL != nil && group.Handler.SQL.Reset == "":
			return &Refusal{tokenstore.ReplayNoReset, fmt.Sprintf("group %s has no reset: set handler.sql.reset, or replay: Allow if its handler may see events twice", name)}
		}
	}
	return nil
}
