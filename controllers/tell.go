package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// message is an event to be recorded.
type message struct{ kind, reason, note string }

// tell records events for what the status says anew. It comes after the write, so that nothing is told twice.
func (r *Reconciler) tell(processor *v1alpha1.EventProcessor, before, after v1alpha1.EventProcessorStatus) {
	for _, m := range news(before, after) {
		r.Events.Eventf(processor, nil, m.kind, m.reason, "Reconcile", "%s", note(m.note))
	}
}

// news are the conditions whose status or reason has changed, each reason once.
func news(before, after v1alpha1.EventProcessorStatus) []message {
	var all []message
	told := map[string]bool{}
	for _, name := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionAvailable, v1alpha1.ConditionHandlerValid,
		v1alpha1.ConditionStoreReachable, v1alpha1.ConditionReplaying, v1alpha1.ConditionDegraded} {
		was, is := meta.FindStatusCondition(before.Conditions, name), meta.FindStatusCondition(after.Conditions, name)
		if is == nil || told[is.Reason] || is.Status == metav1.ConditionUnknown || passes(was) && passes(is) || !worthTelling(was, is) {
			continue
		}
		told[is.Reason] = true
		all = append(all, message{kindOf(is), is.Reason, is.Message})
	}
	return all
}

// worthTelling leaves out what is as it should be from the beginning.
func worthTelling(was, is *metav1.Condition) bool {
	if was == nil || was.Status == metav1.ConditionUnknown {
		return bad(is) || is.Type == v1alpha1.ConditionReady || is.Type == v1alpha1.ConditionReplaying && is.Reason != v1alpha1.ReasonNotReplaying
	}
	return was.Status != is.Status || was.Reason != is.Reason
}

// passes reports whether a condition says that all is well, or that something only takes long.
func passes(c *metav1.Condition) bool {
	return c != nil && c.Type == v1alpha1.ConditionDegraded && c.Status == metav1.ConditionFalse
}

func bad(c *metav1.Condition) bool {
	if c.Type == v1alpha1.ConditionReplaying {
		return false
	}
	return (c.Status == metav1.ConditionTrue) == (c.Type == v1alpha1.ConditionDegraded)
}

// kindOf is Warning for what somebody may have to look at.
func kindOf(c *metav1.Condition) string {
	switch c.Reason {
	case v1alpha1.ReasonProgressing, v1alpha1.ReasonRollingOut, v1alpha1.ReasonScaling, v1alpha1.ReasonResegmenting,
		v1alpha1.ReasonScaledToZero, v1alpha1.ReasonDeleting, v1alpha1.ReasonSetupRuns:
		return corev1.EventTypeNormal
	}
	if bad(c) {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}
