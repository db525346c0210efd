package controllers

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// statusOf is the status that the scope asks for, on top of the one that was written last.
func statusOf(s *scope) v1alpha1.EventProcessorStatus {
	status := *s.processor.Status.DeepCopy()
	status.ObservedGeneration = s.processor.Generation
	status.Selector = labels.SelectorFromSet(s.desired.Selector()).String()
	status.Definition = s.desired.ID
	if s.deployment != nil {
		status.Replicas = s.deployment.Status.Replicas
	}
	if s.store.StoreID != "" {
		status.StoreID = s.store.StoreID
	}
	figures(s, &status)
	setConditions(&status, s)
	return status
}

// setConditions replaces the conditions. Those that say the same as before keep the time of their last change.
func setConditions(status *v1alpha1.EventProcessorStatus, s *scope) {
	s = withGrace(s)
	wanted := append(readiness(s), kept(s, available(s)), kept(s, handlerValid(s)), kept(s, storeReachable(s)), kept(s, replaying(s)), kept(s, degraded(s)))
	were := status.Conditions
	status.Conditions = nil
	for _, c := range wanted {
		c.ObservedGeneration = s.processor.Generation
		c.Message = short(c.Message)
		c.LastTransitionTime = metav1.NewTime(s.now)
		if before := meta.FindStatusCondition(were, c.Type); before != nil && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		status.Conditions = append(status.Conditions, c)
	}
}

// urgent reports whether two statuses differ in more than figures. Messages alone are figures, and so is a call that goes on for long.
func urgent(before, after v1alpha1.EventProcessorStatus) bool {
	for _, s := range []*v1alpha1.EventProcessorStatus{&before, &after} {
		s.Segments, s.Groups, s.Lag, s.Runtime, s.OpenWriters = v1alpha1.SegmentCounts{}, nil, "", v1alpha1.RuntimeVersions{}, nil
		s.AsOf = nil
		s.Conditions = slices.Clone(s.Conditions)
		for i := range s.Conditions {
			c := &s.Conditions[i]
			if c.Message = ""; c.Reason == v1alpha1.ReasonCallRunning {
				c.Reason = v1alpha1.ReasonHealthy
			}
		}
	}
	return !equality.Semantic.DeepEqual(before, after)
}
