package controllers

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/definition/declare"
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

// replayStatus is the status of a Replay: a view of its row in the ledger, nil where none is known. moved is since when the row has
// had done what it has.
func replayStatus(replay *v1alpha1.Replay, s *scope, row *tokenstore.Replay, moved time.Time) v1alpha1.ReplayStatus {
	status := *replay.Status.DeepCopy()
	status.ObservedGeneration = replay.Generation
	if row == nil && remembered(replay, s) {
		keepReplayConditions(&status)
		return status
	}
	o := outlookOf(replay, s, row)
	switch {
	case row != nil:
		status.Definition = row.Definition
		replayFigures(&status, row, moved, s.now)
	case o.accepted.Status != metav1.ConditionTrue:
		status.Definition = "" // it is bound when it is accepted
	case status.Definition == "" && s.processor != nil:
		status.Definition = s.desired.ID
	}
	if s.processor == nil {
		status.ETA = nil
	}
	setReplayConditions(&status, o, replay.Generation, s.now)
	return status
}

// remembered reports whether the last status says more of a replay than can be seen now: nobody has looked into the store yet, or
// there is no processor any more that would lead there.
func remembered(replay *v1alpha1.Replay, s *scope) bool {
	switch {
	case s.store.Seen:
		return false
	case s.processor == nil:
		return ended(replay.Status)
	case ended(replay.Status), replay.Status.ResetAt != nil:
		return true
	}
	accepted := meta.IsStatusConditionTrue(replay.Status.Conditions, v1alpha1.ConditionAccepted)
	return accepted && declare.RefuseReplay(s.desired.Spec, replay.Spec.Groups) == nil
}

// ended reports whether a status says that nothing more will happen.
func ended(status v1alpha1.ReplayStatus) bool {
	return meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionComplete) || meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionFailed)
}

func outlookOf(replay *v1alpha1.Replay, s *scope, row *tokenstore.Replay) outlook {
	if row != nil && (row.ResetAt != nil || row.Phase.Ended()) {
		return begunOutlook(replay, row)
	}
	if s.processor == nil && replay.Status.ResetAt != nil {
		return outlook{accepted: says(true, v1alpha1.ReasonAccepted, "the replay has been reset"),
			complete: says(false, v1alpha1.ReasonProcessorNotFound, missingProcessor(replay)+": the replay goes on when there is")}
	}
	if refusal := refusalOf(replay, s, row); refusal != nil {
		return outlook{accepted: says(false, refusal.Reason, refusal.Message), stalled: true,
			complete: says(false, refusal.Reason, "the replay is not accepted: nothing has happened")}
	}
	if row == nil && !s.store.Seen {
		unknown := &metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonUnknown, Message: "the operator has not seen the store yet"}
		return outlook{accepted: says(true, v1alpha1.ReasonAccepted, "the replay will run, if it has not"), reconciling: true, complete: unknown}
	}
	if row == nil {
		message := "the replay is being written to the store"
		if ended(replay.Status) {
			message = "the store does not know that the replay has ended, so it is another one, or was restored: it will run again"
		}
		return outlook{accepted: says(true, v1alpha1.ReasonAccepted, "the replay will run"), reconciling: true,
			complete: says(false, v1alpha1.ReasonPending, message)}
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
func refusalOf(replay *v1alpha1.Replay, s *scope, row *tokenstore.Replay) *declare.Refusal {
	if s.processor == nil {
		return &declare.Refusal{Reason: v1alpha1.ReasonProcessorNotFound, Message: missingProcessor(replay)}
	}
	if refusal := declare.RefuseReplay(s.desired.Spec, replay.Spec.Groups); refusal != nil {
		return refusal
	}
	if refusedByWorkers(row) {
		return &declare.Refusal{Reason: row.Reason, Message: row.Message}
	}
	return nil
}

// refusedByWorkers reports whether those who would carry a replay out have said that it cannot be, as the definition is.
func refusedByWorkers(row *tokenstore.Replay) bool {
	if row == nil || row.Phase != tokenstore.ReplayPending {
		return false
	}
	return row.Reason == tokenstore.ReplayNoReset || row.Reason == tokenstore.ReplayGroupMissing || row.Reason == tokenstore.ReplayPlaceInvalid
}

func missingProcessor(replay *v1alpha1.Replay) string {
	return fmt.Sprintf("there is no EventProcessor %s in this namespace", replay.Spec.ProcessorName)
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
		if row.Total == 0 {
			o.complete.Message = "there was nothing to handle again: the groups had handled no event from the start position on"
		}
		if ranBefore(replay, row) {
			o.complete = says(true, v1alpha1.ReasonAlreadyRun, "ran on "+date(row.ResetAt)+"; use a new id to run again")
		}
	case tokenstore.ReplaySuperseded:
		o.accepted.Message = "the replay was accepted, and has not run"
		o.complete = says(true, row.Reason, row.Message)
	case tokenstore.ReplayFailed:
		o.accepted.Message = "the replay was accepted, and its reset has failed"
		o.complete, o.failed = says(false, row.Reason, "the replay has failed"), says(true, row.Reason, row.Message+"; the groups go on where they were")
		o.stalled = true
	case tokenstore.ReplayCancelled:
		o.accepted.Message = "the replay was accepted, and cancelled before its reset had committed"
		o.complete, o.failed = says(false, v1alpha1.ReasonCancelled, "the replay was cancelled"), says(true, v1alpha1.ReasonCancelled, "cancelled before the reset had committed: nothing has happened")
		o.cancelled = says(true, v1alpha1.ReasonCancelled, "nothing has happened")
	case tokenstore.ReplayAbandoned:
		o.complete, o.failed = says(false, v1alpha1.ReasonAbandoned, "the replay was abandoned"),
			says(true, v1alpha1.ReasonAbandoned, "abandoned after the reset: the projection is incomplete until another replay of the groups is complete")
		o.cancelled = says(true, v1alpha1.ReasonAbandoned, "the groups go on where they were")
	}
	return o
}

// ranBefore reports whether the replay had ended before this object was there. If it was seen to wait or run, it had not; only at
// the first look do the clocks of store and API server count, which need not agree.
func ranBefore(replay *v1alpha1.Replay, row *tokenstore.Replay) bool {
	before := meta.FindStatusCondition(replay.Status.Conditions, v1alpha1.ConditionComplete)
	accepted := meta.IsStatusConditionTrue(replay.Status.Conditions, v1alpha1.ConditionAccepted)
	if before != nil && before.Status != metav1.ConditionUnknown && accepted {
		return before.Reason == v1alpha1.ReasonAlreadyRun
	}
	return row.EndedAt != nil && row.EndedAt.Before(replay.CreationTimestamp.Time)
}

func date(at *time.Time) string {
	if at == nil {
		return "an unknown date"
	}
	return at.UTC().Format(time.RFC3339)
}

// replayFigures takes over what the row counts.
func replayFigures(status *v1alpha1.ReplayStatus, row *tokenstore.Replay, moved, now time.Time) {
	status.ResetAt, status.CompletedAt, status.ETA, status.Progress, status.Events = nil, nil, nil, nil, v1alpha1.ReplayEvents{}
	if row.ResetAt == nil {
		return
	}
	status.ResetAt = &metav1.Time{Time: row.ResetAt.UTC().Truncate(time.Second)}
	status.Events = v1alpha1.ReplayEvents{Handled: row.Done, Total: row.Total}
	status.Progress = ptr.To(percent(row))
	if row.Phase == tokenstore.ReplayComplete && row.EndedAt != nil {
		status.CompletedAt = &metav1.Time{Time: row.EndedAt.UTC().Truncate(time.Second)}
	}
	if row.Phase == tokenstore.ReplayRunning && *status.Progress >= 5 && now.Sub(moved) < stillAfter {
		left := float64(row.Total-row.Done) / float64(row.Done) * float64(moved.Sub(*row.ResetAt))
		status.ETA = &metav1.Time{Time: moved.Add(time.Duration(left)).UTC().Truncate(time.Second)}
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
		why := o.accepted
		if o.failed != nil {
			why = o.failed
		}
		set(v1alpha1.ConditionStalled, says(true, why.Reason, why.Message))
	}
}

// keepReplayConditions says of the conditions that they still hold.
func keepReplayConditions(status *v1alpha1.ReplayStatus) {
	for i := range status.Conditions {
		status.Conditions[i].ObservedGeneration = status.ObservedGeneration
	}
}
