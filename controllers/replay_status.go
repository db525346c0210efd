package controllers

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore"
)

// outlook is what the conditions of a Replay say.
type outlook struct {
	accepted, complete, failed, cancelled *metav1.Condition
	reconciling, stalled                  bool
}

func says(status bool, reason, message string) *metav1.Condition {
	c := &metav1.Condition{Status: metav1.ConditionFalse, Reason: reason, Message: message}
	if status {
		c.Status = metav1.ConditionTrue
	}
	return c
}

// replayStatus is the status of a Replay: a view of its row in the ledger.
func replayStatus(replay *v1alpha1.Replay, s *scope) v1alpha1.ReplayStatus {
	status := *replay.Status.DeepCopy()
	status.ObservedGeneration = replay.Generation
	row := s.row(replay.ID())
	o := outlookOf(replay, s, row)
	if o.accepted.Status == metav1.ConditionTrue && status.Definition == "" && row == nil {
		status.Definition = s.desired.ID
	}
	if row != nil {
		status.Definition = row.Definition
		replayFigures(&status, row, s.now)
	}
	setReplayConditions(&status, o, replay.Generation, s.now)
	return status
}

func outlookOf(replay *v1alpha1.Replay, s *scope, row *tokenstore.Replay) outlook {
	if row != nil && (row.ResetAt != nil || row.Phase.Ended()) {
		return begunOutlook(replay, row)
	}
	if refusal := refusalOf(replay, s, row); refusal != nil {
		return outlook{accepted: says(false, refusal.Reason, refusal.Message), stalled: true,
			complete: says(false, refusal.Reason, "the replay is not accepted: nothing has happened")}
	}
	if row == nil {
		return outlook{accepted: says(true, v1alpha1.ReasonAccepted, "the replay will run"), reconciling: true,
			complete: says(false, v1alpha1.ReasonPending, "the replay is being written to the store")}
	}
	reason, message := row.Reason, row.Message
	switch {
	case reason == "" && row.Phase == tokenstore.ReplayResetting:
		reason, message = v1alpha1.ReasonResetting, "the groups are being moved back"
	case reason == "":
		reason, message = v1alpha1.ReasonPending, "no worker has looked at the replay yet"
	}
	return outlook{accepted: says(true, v1alpha1.ReasonAccepted, "the replay will run"), complete: says(false, reason, message), reconciling: true}
}

// refusalOf is why a replay that has not begun cannot run as things are; nil where it can.
func refusalOf(replay *v1alpha1.Replay, s *scope, row *tokenstore.Replay) *definition.Refusal {
	if s.processor == nil {
		return &definition.Refusal{Reason: v1alpha1.ReasonProcessorNotFound,
			Message: fmt.Sprintf("there is no EventProcessor %s in this namespace", replay.Spec.ProcessorName)}
	}
	if refusal := s.desired.Spec.RefuseReplay(replay.Spec.Groups); refusal != nil {
		return refusal
	}
	if row != nil && row.Phase == tokenstore.ReplayPending {
		switch row.Reason {
		case tokenstore.ReplayNoReset, tokenstore.ReplayGroupMissing, tokenstore.ReplayPlaceInvalid:
			return &definition.Refusal{Reason: row.Reason, Message: row.Message}
		}
	}
	return nil
}

// begunOutlook is that of a replay which has been reset, or has ended.
func begunOutlook(replay *v1alpha1.Replay, row *tokenstore.Replay) outlook {
	o := outlook{accepted: says(true, v1alpha1.ReasonAccepted, "the replay has run")}
	switch row.Phase {
	case tokenstore.ReplayPending, tokenstore.ReplayResetting: // have not begun
	case tokenstore.ReplayRunning:
		o.accepted.Message = "the replay runs"
		o.complete = says(false, v1alpha1.ReasonReplayRunning, "the groups handle events again")
		if replay.Spec.DesiredState == v1alpha1.ReplayCancelled {
			o.cancelled = says(false, v1alpha1.ReasonAlreadyReset, "too late to cancel: the projection has been reset; let it run, or set desiredState: Abandoned, which leaves the projection incomplete")
		}
	case tokenstore.ReplayComplete:
		o.complete = says(true, v1alpha1.ReasonReplayComplete, "the groups have handled again what they had handled")
		if ranBefore(replay, row) {
			o.complete = says(true, v1alpha1.ReasonAlreadyRun, "ran on "+date(row.ResetAt)+"; use a new id to run again")
		}
	case tokenstore.ReplaySuperseded:
		o.complete = says(true, row.Reason, row.Message)
	case tokenstore.ReplayFailed:
		o.complete, o.failed = says(false, row.Reason, "the replay has failed"), says(true, row.Reason, row.Message+"; the groups go on where they were")
	case tokenstore.ReplayCancelled:
		o.complete, o.failed = says(false, v1alpha1.ReasonCancelled, "the replay was cancelled"), says(true, v1alpha1.ReasonCancelled, "cancelled before the reset: nothing has happened")
		o.cancelled = says(true, v1alpha1.ReasonCancelled, "nothing has happened")
	case tokenstore.ReplayAbandoned:
		o.complete, o.failed = says(false, v1alpha1.ReasonAbandoned, "the replay was abandoned"),
			says(true, v1alpha1.ReasonAbandoned, "abandoned after the reset: the projection is incomplete until another replay of the groups is complete")
		o.cancelled = says(true, v1alpha1.ReasonAbandoned, "the groups go on where they were")
	}
	return o
}

// ranBefore reports whether the replay had been asked for before this object was there, by the clocks of store and API server.
func ranBefore(replay *v1alpha1.Replay, row *tokenstore.Replay) bool {
	return row.RequestedAt.Before(replay.CreationTimestamp.Time)
}

func date(at *time.Time) string {
	if at == nil {
		return "an unknown date"
	}
	return at.UTC().Format(time.RFC3339)
}

// replayFigures takes over what the row counts.
func replayFigures(status *v1alpha1.ReplayStatus, row *tokenstore.Replay, now time.Time) {
	status.ResetAt, status.CompletedAt, status.ETA, status.Progress = nil, nil, nil, nil
	if row.ResetAt == nil {
		return
	}
	status.ResetAt = &metav1.Time{Time: row.ResetAt.UTC().Truncate(time.Second)}
	status.Events = v1alpha1.ReplayEvents{Handled: row.Done, Total: row.Total}
	status.Progress = ptr.To(percent(row))
	if row.Phase == tokenstore.ReplayComplete && row.EndedAt != nil {
		status.CompletedAt = &metav1.Time{Time: row.EndedAt.UTC().Truncate(time.Second)}
	}
	if row.Phase == tokenstore.ReplayRunning && row.Done > 0 && *status.Progress >= 5 {
		left := float64(row.Total-row.Done) / float64(row.Done) * float64(now.Sub(*row.ResetAt))
		status.ETA = &metav1.Time{Time: now.Add(time.Duration(left)).UTC().Truncate(time.Second)}
	}
}

// percent is a replay's progress in steps of 5; 100 only when it is complete.
func percent(row *tokenstore.Replay) int32 {
	switch {
	case row.Phase == tokenstore.ReplayComplete:
		return 100
	case row.Total == 0:
		return 0
	}
	return int32(min(row.Done*20/row.Total*5, 95))
}

// setReplayConditions replaces the conditions; those that say the same as before keep the time of their last change.
func setReplayConditions(status *v1alpha1.ReplayStatus, o outlook, generation int64, now time.Time) {
	kept := status.Conditions
	status.Conditions = nil
	set := func(kind string, c *metav1.Condition) {
		if c == nil {
			return
		}
		c.Type, c.ObservedGeneration, c.LastTransitionTime, c.Message = kind, generation, metav1.NewTime(now.UTC().Truncate(time.Second)), short(c.Message)
		if before := meta.FindStatusCondition(kept, kind); before != nil && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		status.Conditions = append(status.Conditions, *c)
	}
	set(v1alpha1.ConditionAccepted, o.accepted)
	set(v1alpha1.ConditionComplete, o.complete)
	set(v1alpha1.ConditionFailed, o.failed)
	set(v1alpha1.ConditionCancelled, o.cancelled)
	if o.reconciling {
		set(v1alpha1.ConditionReconciling, says(true, o.complete.Reason, o.complete.Message))
	}
	if o.stalled {
		set(v1alpha1.ConditionStalled, says(true, o.accepted.Reason, o.accepted.Message))
	}
}
