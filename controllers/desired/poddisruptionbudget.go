package desired

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyac "k8s.io/client-go/applyconfigurations/policy/v1"
)

// PodDisruptionBudget lets one pod go at a time. With one replica too: it never keeps a node from being drained, since
// what is not ready, or alone, may always go.
func PodDisruptionBudget(p Processor) *policyac.PodDisruptionBudgetApplyConfiguration {
	return policyac.PodDisruptionBudget(p.DeploymentName(), p.Object.Namespace).
		WithLabels(p.Labels()).
		WithOwnerReferences(p.owner()).
		WithSpec(policyac.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(1)).
			WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow).
			WithSelector(selector(p.Selector())))
}
