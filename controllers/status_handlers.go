package controllers

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/tokenstore"
)

// handlerValid is what workers of the wanted definition say of its handlers.
func handlerValid(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionHandlerValid, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonValid,
		Message: "workers run the handlers"}
	facts := s.store.Facts
	for _, fault := range facts.Faults {
		if fault.Definition == s.desired.ID && speaksAgainstDefinition(fault) && !aboutSequencing(fault) {
			c.Status, c.Reason, c.Message = metav1.ConditionFalse, handlerReason(fault.Reason), short(fmt.Sprintf("group %s: %s", fault.Group, fault.Message))
			return c
		}
	}
	reported := func(w stores.Worker) bool { return w.Definition == s.desired.ID && w.Reported }
	found := s.was(v1alpha1.ConditionHandlerValid) == string(metav1.ConditionTrue) && s.processor.Status.Definition == s.desired.ID
	if !found && !slices.ContainsFunc(facts.Workers, reported) {
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "no worker has reported on this definition yet"
	}
	return c
}

func speaksAgainstDefinition(f stores.Fault) bool {
	return f.Refused || f.Kind == tokenstore.DefinitionFault
}

// handlerReason is one of the condition's reasons. Workers know finer ones, such as TableMissing; their message says the same.
func handlerReason(reason string) string {
	switch reason {
	case v1alpha1.ReasonNotRegistered, v1alpha1.ReasonSetupFailed:
		return reason
	}
	return v1alpha1.ReasonStatementInvalid
}

// degraded is True while an event, or trouble that does not go away, keeps a segment from going on.
func degraded(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonHealthy,
		Message: "no segment is blocked by an event"}
	faults := slices.DeleteFunc(slices.Clone(s.store.Facts.Faults), speaksAgainstDefinition)
	switch {
	case !s.store.Seen:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "the operator has not seen the store yet"
	case len(faults) > 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonSegmentBlocked, faultText(faults)
	case len(incomplete(s)) > 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonProjectionIncomplete, fmt.Sprintf(
			"a replay of %s was abandoned after its reset: the projection lacks what was not handled again, until another replay is complete", strings.Join(incomplete(s), ", "))
	default:
		if text := unsupported(s.store.Facts.Workers); text != "" {
			c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonSettingsUnsupported, text
		}
	}
	return c
}

// unsupported says which settings a worker's version does not know; empty where all know all.
func unsupported(workers []stores.Worker) string {
	for _, w := range workers {
		if len(w.Unsupported) > 0 {
			return fmt.Sprintf("workers of version %s do not support some settings and go on as before: %s; use an image of the operator's version",
				or(w.Version, "unknown"), strings.Join(w.Unsupported, "; "))
		}
	}
	return ""
}

func faultText(faults []stores.Fault) string {
	first := faults[0]
	text := "group " + first.Group
	if first.Segment != nil {
		text += fmt.Sprintf(", segment %d", *first.Segment)
	}
	if first.Kind == tokenstore.EventFault && first.Position > 0 {
		text += fmt.Sprintf(", event at position %d", first.Position)
	}
	if first.Attempts > 0 {
		text += ", " + counted(first.Attempts, "attempt")
	}
	text = short(text + ": " + first.Message)
	if more := len(faults) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// note keeps a text to what the API server accepts as an event's note.
func note(text string) string {
	const longest = 1024
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest-len("…")], "") + "…"
}

// short keeps a message to what a screen shows; Kubernetes allows more, etcd should not have to.
func short(text string) string {
	const longest = 900
	if runes := []rune(text); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return text
}
