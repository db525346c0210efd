package controllers

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/tokenstore"
)

// replaying is True while a group handles events again.
func replaying(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReplaying, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNotReplaying, Message: "no group is replaying"}
	if !s.store.Seen {
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "the operator has not seen the store yet"
		return c
	}
	for i := range s.store.Facts.Replays {
		row := &s.store.Facts.Replays[i]
		switch {
		case row.Phase == tokenstore.ReplayRunning:
			c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonReplayRunning
			c.Message = fmt.Sprintf("replay %s of %s: %d %%", row.ID, strings.Join(row.Groups, ", "), percent(row))
			return c
		case row.Phase.Ended() || c.Reason != v1alpha1.ReasonNotReplaying:
		case row.Reason == v1alpha1.ReasonWaitingForRollout, row.Reason == v1alpha1.ReasonWaitingForLocks:
			c.Reason, c.Message = row.Reason, fmt.Sprintf("replay %s: %s", row.ID, row.Message)
		case refusedByWorkers(row):
			c.Reason, c.Message = v1alpha1.ReasonReplayWaiting, fmt.Sprintf("replay %s is not accepted: %s", row.ID, row.Message)
		case row.Phase == tokenstore.ReplayResetting:
			c.Reason, c.Message = v1alpha1.ReasonReplayWaiting, fmt.Sprintf("replay %s: %s", row.ID, or(row.Message, "the groups are being reset"))
		default:
			c.Reason, c.Message = v1alpha1.ReasonReplayWaiting, fmt.Sprintf("replay %s waits to begin: %s", row.ID, or(row.Message, "no worker has looked at it yet"))
		}
	}
	if refusal := refusedDeclaration(s); refusal != nil && c.Reason == v1alpha1.ReasonNotReplaying {
		c.Reason, c.Message = v1alpha1.ReasonReplayWaiting, fmt.Sprintf("replay %s is not accepted: %s", s.declaredReplay(), refusal.Message)
	}
	return c
}

// refusedDeclaration is why spec.replay is not asked for; nil where it is, or has been.
func refusedDeclaration(s *scope) *declare.Refusal {
	declared := s.desired.Spec.Replay
	if declared == nil || s.begun(declared.ID) {
		return nil
	}
	return declare.RefuseReplay(s.desired.Spec, declared.Groups)
}

// runningReplay is the replay that a group is in the middle of; nil where there is none.
func runningReplay(s *scope, group string) *tokenstore.Replay {
	return replayIn(s, group, tokenstore.ReplayRunning)
}

// resetOf is the replay that resets a group now; nil where there is none.
func resetOf(s *scope, group string) *tokenstore.Replay {
	return replayIn(s, group, tokenstore.ReplayResetting)
}

func replayIn(s *scope, group string, phase tokenstore.ReplayPhase) *tokenstore.Replay {
	for i := range s.store.Facts.Replays {
		if row := &s.store.Facts.Replays[i]; row.Phase == phase && slices.Contains(row.Groups, group) {
			return row
		}
	}
	return nil
}

// incomplete names the groups whose projection a replay has left incomplete.
func incomplete(s *scope) []string {
	var names []string
	for _, group := range s.store.Facts.Groups {
		if group.Incomplete {
			names = append(names, group.Name)
		}
	}
	return names
}
