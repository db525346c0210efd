package controllers

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// storeReachable is Unknown where only the operator cannot reach the store: it may not, or workers show that they can.
func storeReachable(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionStoreReachable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReachable,
		Message: "the operator reads the store"}
	p := s.store.Problem
	switch {
	case p == nil && !s.store.Seen:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "the operator is connecting to the store"
	case p == nil, !p.Outage():
	case p.Reason == v1alpha1.ReasonOperatorCannotConnect:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, p.Reason, p.Message
	case p.Reason == v1alpha1.ReasonConnectionFailed && workersGoOn(s.pods, p.Since.Unix()):
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonOperatorCannotConnect,
			p.Message+"; pods have become ready meanwhile, so workers can connect"
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, p.Reason, p.Message
	}
	return c
}
