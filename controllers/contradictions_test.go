package controllers_test

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// contradictions are what kstatus, Helm, Flux or Argo would read wrongly in a status.
func contradictions(p *v1alpha1.EventProcessor) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	is := func(name string, status metav1.ConditionStatus) bool {
		c := meta.FindStatusCondition(p.Status.Conditions, name)
		return c != nil && c.Status == status
	}
	if len(p.Status.Conditions) == 0 {
		return nil // not looked at yet
	}
	ready := is("Ready", metav1.ConditionTrue)
	for _, name := range []string{"Ready", "Available", "HandlerValid", "StoreReachable", "Degraded"} {
		if meta.FindStatusCondition(p.Status.Conditions, name) == nil {
			say("%s is missing", name)
		}
	}
	for _, name := range []string{"Reconciling", "Stalled"} {
		c := meta.FindStatusCondition(p.Status.Conditions, name)
		if c == nil {
			continue
		}
		if c.Status != metav1.ConditionTrue {
			say("%s is there and not True", name)
		}
		if ready {
			say("Ready and %s at once: %s", name, c.Reason)
		}
		if r := meta.FindStatusCondition(p.Status.Conditions, "Ready"); r != nil && r.Reason != c.Reason {
			say("Ready says %s, %s says %s", r.Reason, name, c.Reason)
		}
	}
	if is("Reconciling", metav1.ConditionTrue) == is("Stalled", metav1.ConditionTrue) && !ready {
		say("not Ready needs one of Reconciling and Stalled")
	}
	for _, name := range []string{"HandlerValid", "StoreReachable"} {
		if ready && is(name, metav1.ConditionFalse) {
			say("Ready though %s is False", name)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.ObservedGeneration != p.Status.ObservedGeneration {
			say("%s is of generation %d, the status of %d", c.Type, c.ObservedGeneration, p.Status.ObservedGeneration)
		}
		if c.Message == "" || c.Reason == "" {
			say("%s has no message or reason", c.Type)
		}
	}
	if s := p.Status.Segments; s.Summary != fmt.Sprintf("%d/%d", s.Owned, s.Desired) &&
		(!strings.HasPrefix(s.Summary, fmt.Sprintf("%d/", s.Owned)) || !strings.HasSuffix(s.Summary, fmt.Sprintf("->%d", s.Desired))) {
		say("summary %s of %+v", s.Summary, s)
	}
	return found
}

// replayContradictions are what tools would read wrongly in a Replay's status.
func replayContradictions(r *v1alpha1.Replay) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	is := func(name string, status metav1.ConditionStatus) bool {
		c := meta.FindStatusCondition(r.Status.Conditions, name)
		return c != nil && c.Status == status
	}
	if len(r.Status.Conditions) == 0 {
		return nil // not looked at yet
	}
	for _, name := range []string{"Accepted", "Complete"} {
		if meta.FindStatusCondition(r.Status.Conditions, name) == nil {
			say("%s is missing", name)
		}
	}
	complete, failed := is("Complete", metav1.ConditionTrue), is("Failed", metav1.ConditionTrue)
	reconciling, stalled := is("Reconciling", metav1.ConditionTrue), is("Stalled", metav1.ConditionTrue)
	if complete && (failed || stalled) {
		say("complete, and not well: %+v", r.Status.Conditions)
	}
	if reconciling && (stalled || complete || failed || r.Status.ResetAt != nil) {
		say("Reconciling, and there is nothing to wait for: %+v", r.Status)
	}
	if refused := is("Accepted", metav1.ConditionFalse); refused && !stalled || stalled && !refused && !failed {
		say("Stalled is for what is not accepted or has failed: %+v", r.Status.Conditions)
	}
	if p := r.Status.Progress; p != nil && (*p == 100) != complete {
		say("%d %%, Complete is %t", *p, complete)
	}
	for _, c := range r.Status.Conditions {
		if c.ObservedGeneration != r.Status.ObservedGeneration {
			say("%s is of generation %d, the status of %d", c.Type, c.ObservedGeneration, r.Status.ObservedGeneration)
		}
		if c.Message == "" || c.Reason == "" {
			say("%s has no message or reason", c.Type)
		}
	}
	return found
}
