package controllers

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// available is True when every segment is owned. One that was available stays so while a segment changes hands, for ten
// seconds at most.
func available(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAvailable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAllSegmentsOwned,
		Message: "every segment has an owner"}
	unowned, overdue := 0, 0
	for _, group := range s.store.Facts.Groups {
		unowned += group.Unowned()
		overdue += group.Overdue
	}
	if s.was(v1alpha1.ConditionAvailable) == string(metav1.ConditionTrue) {
		unowned = overdue
	}
	switch {
	case s.replicas() == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonScaledToZero, "spec.replicas is 0: no events are handled"
	case !s.store.Seen, s.store.Problem != nil && s.store.Problem.Hides():
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "the operator cannot see who owns what"
		if p := s.store.Problem; p != nil {
			c.Message += ": " + p.Message
		}
	case unowned > 0 || len(s.store.Facts.Groups) == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonSegmentsUnowned, unownedText(s)
	}
	return c
}

// unownedText names the groups, and not how many segments: that changes too often. What is known of the cause goes before
// what to look at.
func unownedText(s *scope) string {
	for _, group := range s.store.Facts.Groups {
		if group.Unowned() == 0 {
			continue
		}
		if group.Broken != "" {
			return group.Broken
		}
		if row := resetOf(s, group.Name); row != nil {
			return fmt.Sprintf("group %s is being reset by replay %s, and nobody may own its segments until that is done%s", group.Name, row.ID, because(row.Message))
		}
		return fmt.Sprintf("segments of group %s have no owner: look whether pods are ready", group.Name)
	}
	return "the processor has no segments yet"
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
