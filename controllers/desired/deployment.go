package desired

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
)

// Deployment runs the processor's pods. A rolling update starts the new pod before it stops an old one, so that each
// segment has a place to go to. Without a number of replicas that is left to whoever set it.
func Deployment(p Processor, replicas *int32) (*appsac.DeploymentApplyConfiguration, error) {
	template, err := templateConfiguration(PodTemplate(p))
	if err != nil {
		return nil, err
	}
	spec := appsac.DeploymentSpec().
		WithRevisionHistoryLimit(5).
		WithStrategy(appsac.DeploymentStrategy().
			WithType(appsv1.RollingUpdateDeploymentStrategyType).
			WithRollingUpdate(appsac.RollingUpdateDeployment().
				WithMaxSurge(intstr.FromInt32(1)).WithMaxUnavailable(intstr.FromInt32(0)))).
		WithSelector(selector(p.Selector())).
		WithTemplate(template)
	if replicas != nil {
		spec = spec.WithReplicas(*replicas)
	}
	return appsac.Deployment(p.DeploymentName(), p.Object.Namespace).
		WithLabels(p.Labels()).
		WithOwnerReferences(p.owner()).
		WithSpec(spec), nil
}

// templateConfiguration writes a template as an apply configuration: the same JSON, but for fields that are not set.
func templateConfiguration(template corev1.PodTemplateSpec) (*coreac.PodTemplateSpecApplyConfiguration, error) {
	data, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("writing the pod template: %w", err)
	}
	configuration := coreac.PodTemplateSpec()
	if err := json.Unmarshal(data, configuration); err != nil {
		return nil, fmt.Errorf("writing the pod template: %w", err)
	}
	return configuration, nil
}
