package controllers

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
)

// verdict is why a processor is not ready. Where nothing but an edit helps, it is stalled.
type verdict struct {
	reason, message string
	stalled         bool
	unseen          bool // only a look at the store can tell
}

// checks are what Ready asks, in this order: the first that finds something explains it.
var checks = []func(*scope) *verdict{
	checkDeleting,
	checkSpec,
	checkNames,
	checkStore,
	checkSource,
	checkLayout,
	checkHandlers,
	checkAPIServer,
	checkReplicasOwner,
	checkSequencing,
	rolloutOf,
	checkDeclared,
	checkSegments,
	checkReset,
}

func verdictOf(s *scope) *verdict {
	for _, check := range checks {
		if v := check(s); v != nil {
			return v
		}
	}
	return nil
}

// readiness are Ready, and Reconciling or Stalled where it is not True: kstatus, Helm, Flux and Argo read those.
func readiness(s *scope) []metav1.Condition {
	v := verdictOf(s)
	if v == nil {
		return []metav1.Condition{readyCondition(s)}
	}
	if before := keptReadiness(s); v.unseen && len(before) > 0 {
		return before
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v.reason, Message: v.message}
	if v.reason == v1alpha1.ReasonProgressing && s.was(v1alpha1.ConditionReady) == "" {
		ready.Status = metav1.ConditionUnknown
	}
	why := metav1.Condition{Type: v1alpha1.ConditionReconciling, Status: metav1.ConditionTrue, Reason: v.reason, Message: v.message}
	if v.stalled {
		why.Type = v1alpha1.ConditionStalled
	}
	return []metav1.Condition{ready, why}
}

func readyCondition(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
		Message: "the spec is in effect"}
	if s.processor.Spec.DesiredState == v1alpha1.DesiredStatePaused {
		c.Reason, c.Message = v1alpha1.ReasonPaused, "no batch begins until spec.desiredState is Running again"
	}
	return c
}

func checkDeleting(s *scope) *verdict {
	if !s.deleting() {
		return nil
	}
	return &verdict{reason: v1alpha1.ReasonDeleting, message: or(s.leaving, "the processor is being deleted")}
}

func checkSpec(s *scope) *verdict {
	if s.invalid == "" {
		return nil
	}
	return &verdict{reason: v1alpha1.ReasonInvalidSpec, message: s.invalid, stalled: true}
}

func checkNames(s *scope) *verdict {
	if len(s.foreign) == 0 {
		return nil
	}
	return &verdict{reason: v1alpha1.ReasonNameConflict, message: fmt.Sprintf("%s exists and does not belong to this processor:"+
		" delete it, or give the processor another name", strings.Join(s.foreign, ", ")), stalled: true}
}

// checkStore finds what workers cannot get by either; what only the operator cannot do does not count.
func checkStore(s *scope) *verdict {
	c := storeReachable(s)
	if c.Status == metav1.ConditionFalse {
		return &verdict{reason: c.Reason, message: c.Message}
	}
	if p := s.store.Problem; p != nil && !p.Outage() {
		return &verdict{reason: p.Reason, message: p.Message, stalled: !p.Passes}
	}
	return nil
}

// checkSource finds a source in a database of its own that a new group waits for. While no group
// does, the spec is in effect, and the processor is degraded.
func checkSource(s *scope) *verdict {
	p := s.store.Source
	if p == nil || s.store.Declared == s.processor.Generation {
		return nil
	}
	return &verdict{reason: p.Reason, message: p.Message}
}

// checkLayout finds tokens that somebody has written to.
func checkLayout(s *scope) *verdict {
	for _, group := range s.store.Facts.Groups {
		if group.Broken != "" {
			return &verdict{reason: v1alpha1.ReasonLayoutInvalid, stalled: true,
				message: group.Broken + "; nobody handles its events until the rows of sluice.token are repaired: see docs/operations/restore.md"}
		}
	}
	return nil
}

func checkHandlers(s *scope) *verdict {
	c := handlerValid(s)
	if c.Status != metav1.ConditionFalse {
		return nil
	}
	// A missing table may be made; a handler that an image does not have needs another image, and a rollout that its statements
	// stop needs other statements.
	return &verdict{reason: c.Reason, message: c.Message, stalled: c.Reason == v1alpha1.ReasonNotRegistered || s.deployment != nil && rolling(s)}
}

func checkAPIServer(s *scope) *verdict {
	if s.refused == "" {
		return nil
	}
	return &verdict{reason: v1alpha1.ReasonProgressing, message: s.refused}
}

func checkReplicasOwner(s *scope) *verdict {
	manager, external := externalScaler(s.deployment, s.replicas())
	if !external {
		return nil
	}
	return &verdict{reason: v1alpha1.ReasonDeploymentScaledExternally, message: fmt.Sprintf("%s has set the replicas of Deployment %s to %d:"+
		" point it at the EventProcessor, which has a scale subresource, and set the Deployment back to %d",
		manager, s.deployment.Name, *s.deployment.Spec.Replicas, s.replicas()), stalled: true}
}

// checkDeclared waits until the store knows this generation, where the operator can see to that.
func checkDeclared(s *scope) *verdict {
	if s.store.Declared == s.processor.Generation || s.store.Problem != nil {
		return nil
	}
	return &verdict{reason: v1alpha1.ReasonProgressing, message: "the spec is being written to the store", unseen: s.unseen()}
}

func checkSegments(s *scope) *verdict {
	if s.store.Problem != nil {
		return nil
	}
	for _, group := range s.store.Facts.Groups {
		if r := resegmenting(s, group); r != nil {
			return &verdict{reason: v1alpha1.ReasonResegmenting, message: resegmentingText(s, group, r)}
		}
	}
	return nil
}

// resegmentingText says how far a group has come, at which rate, and what time is left.
func resegmentingText(s *scope, group stores.Group, r *v1alpha1.Resegmenting) string {
	done, what := "split", "splits"
	if group.Wanted < group.Segments {
		done, what = "merged", "merges"
	}
	return fmt.Sprintf("group %s has %s and is %s into %d: %d of %d %s are done, %s",
		group.Name, counted(group.Segments, "segment"), done, r.To, r.Done, r.Total, what, r.Forecast(s.now))
}
