package controllers

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/tokenstore"
)

// A change of a group's sequencing is rolled out only when the store has agreed: pods of a definition with another one than the
// tokens have can claim nothing. It agrees where a replay that is asked for is going to reset the group.

// resequenced are the groups whose tokens have another sequencing than the spec's.
func resequenced(s *scope) map[string]stores.Group {
	all := map[string]stores.Group{}
	for _, wanted := range s.desired.Spec.ProcessingGroups {
		for _, group := range s.store.Facts.Groups {
			if group.Name == wanted.Name && group.Sequencing != wanted.Sequencing.Policy().String() {
				all[group.Name] = group
			}
		}
	}
	return all
}

// heldBack reports whether the objects must not be applied yet: the store has refused a sequencing, or has not been asked.
func heldBack(s *scope) bool {
	if p := s.store.Problem; p != nil && p.Reason == v1alpha1.ReasonSequencingChanged {
		return true
	}
	if !s.store.Seen && s.store.Problem == nil && s.deployment != nil { // a new definition waits for the look that is on its way
		return s.deployment.Spec.Template.Labels[desired.LabelDefinition] != s.desired.ID
	}
	for name := range resequenced(s) {
		if _, ahead := resetAhead(s, name); !ahead {
			return true
		}
	}
	return false
}

// resetAhead is the replay that gives a group the spec's sequencing.
func resetAhead(s *scope, group string) (tokenstore.Replay, bool) {
	return tokenstore.ResetAhead(s.store.Facts.Replays, group, s.desired.Spec.Sequencings([]string{group})[group])
}

// checkSequencing is why a change of a sequencing does not go on: the store has not answered, or workers see that it cannot.
func checkSequencing(s *scope) *verdict {
	for _, fault := range s.store.Facts.Faults {
		if fault.Definition == s.desired.ID && aboutSequencing(fault) {
			return &verdict{reason: v1alpha1.ReasonSequencingChanged, message: short(fault.Message), stalled: runningReplay(s, fault.Group) == nil}
		}
	}
	if heldBack(s) && s.store.Seen {
		return &verdict{reason: v1alpha1.ReasonProgressing, message: "a change of a sequencing is being written to the store"}
	}
	return nil
}

// checkReset waits for the replays that bring changes of sequencings.
func checkReset(s *scope) *verdict {
	groups := resequenced(s)
	for _, name := range slices.Sorted(maps.Keys(groups)) { // the same one each time
		group := groups[name]
		if replay, ahead := resetAhead(s, name); ahead {
			return &verdict{reason: v1alpha1.ReasonSequencingChanged, message: fmt.Sprintf("group %s has the sequencing %s until the reset of replay %s: %s",
				name, group.Sequencing, replay.ID, or(replay.Message, "no worker has looked at it yet"))}
		}
	}
	return nil
}

func aboutSequencing(f stores.Fault) bool { return f.Reason == tokenstore.SequencingChanged }
