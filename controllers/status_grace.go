package controllers

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// defaultGrace is how long the operator may be without a store before conditions say so. Workers go on meanwhile, and most
// outages are shorter: a failover, a lost connection, a round that took too long.
const defaultGrace = 20 * time.Second

// graceLeft is how long an outage of the store does not count yet; 0 where there is none, or it counts. A store that this
// object has never reached has no grace: somebody waits for the first report. Nor has what is wrong in a store that
// answers.
func graceLeft(s *scope) time.Duration {
	p := s.store.Problem
	if p == nil || !p.Outage() || s.was(v1alpha1.ConditionStoreReachable) != string(metav1.ConditionTrue) {
		return 0
	}
	return max(s.grace-s.now.Sub(p.Since), 0)
}

// sourceGraceLeft is graceLeft for a source in a database of its own. There is no grace while a new
// group waits for the source.
func sourceGraceLeft(s *scope) time.Duration {
	p := s.store.Source
	if p == nil || s.store.Declared != s.processor.Generation {
		return 0
	}
	return max(s.grace-s.now.Sub(p.Since), 0)
}

// withGrace is the scope as conditions are to see it: without outages that do not count yet.
func withGrace(s *scope) *scope {
	settled := *s
	if graceLeft(s) > 0 {
		settled.store.Problem = nil
	}
	if sourceGraceLeft(s) > 0 {
		settled.store.Source = nil
	}
	return &settled
}

// unseen reports whether this operator has still to look at the store for the first time. It has just been started or become
// the leader, or other stores go first; so what was last said of the store holds.
func (s *scope) unseen() bool { return !s.store.Seen && s.store.Problem == nil }

// keptReadiness are Ready and what explains it, as they were last written for this generation.
func keptReadiness(s *scope) []metav1.Condition {
	if s.processor.Status.ObservedGeneration != s.processor.Generation {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.processor.Status.Conditions), func(c metav1.Condition) bool {
		return c.Type != v1alpha1.ConditionReady && c.Type != v1alpha1.ConditionReconciling && c.Type != v1alpha1.ConditionStalled
	})
}

// kept is a condition that only the store decides: as it is now, or as it was while the store has not been seen.
func kept(s *scope, c metav1.Condition) metav1.Condition {
	if before := meta.FindStatusCondition(s.processor.Status.Conditions, c.Type); before != nil && s.unseen() {
		return *before
	}
	return c
}
