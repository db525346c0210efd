package desired

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluice-project/sluice/definition"
)

// Ports of the worker.
const (
	metricsPort     = 9090
	probePort       = 8081
	metricsPortName = "metrics"
	probePortName   = "probe"
)

// nonRoot is the user that Sluice's own image runs as.
const nonRoot = 65532

// complete fills in the container that runs the runtime.
func complete(worker *corev1.Container, p Processor) {
	if worker.SecurityContext == nil {
		worker.SecurityContext = &corev1.SecurityContext{}
	}
	fill(&worker.SecurityContext.ReadOnlyRootFilesystem, true)
	if worker.Image == "" {
		worker.Image = p.Image
		fill(&worker.SecurityContext.RunAsUser, int64(nonRoot))
	}
	if len(worker.Command) == 0 && len(worker.Args) == 0 {
		worker.Args = []string{"worker"}
	}
	if worker.TerminationMessagePolicy == "" { // so that the last lines of a pod that fails can be told
		worker.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	}
	worker.Env = override(worker.Env, environment(p), func(e corev1.EnvVar) string { return e.Name })
	addPorts(worker)
	addProbes(worker)
	addMounts(worker)
}

// environment is what the worker is told; the rest it learns from the store.
func environment(p Processor) []corev1.EnvVar {
	return []corev1.EnvVar{
		{Name: "SLUICE_PROCESSOR", Value: p.StoreName()},
		{Name: "SLUICE_INSTALLATION", Value: p.Installation},
		{Name: "SLUICE_POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}},
		{Name: "SLUICE_DEFINITION_FILE", Value: definitionFolder + "/" + definitionKey},
		{Name: "SLUICE_STORE", Value: storeText(p.Spec.Store)},
		{Name: "SLUICE_SECRETS_DIR", Value: secretsFolder},
		{Name: "SLUICE_METRICS_ADDRESS", Value: fmt.Sprintf(":%d", metricsPort)},
		{Name: "SLUICE_PROBE_ADDRESS", Value: fmt.Sprintf(":%d", probePort)},
	}
}

// storeText is the store's spec as JSON. Accepting another store is no reason to restart pods, so that is left out.
func storeText(store definition.Store) string {
	if store.Postgres != nil {
		postgres := *store.Postgres
		postgres.ExpectedStoreID = ""
		store.Postgres = &postgres
	}
	data, err := json.Marshal(store)
	if err != nil {
		panic(fmt.Sprintf("desired: a store does not marshal: %v", err)) // plain strings and numbers do
	}
	return string(data)
}

func addPorts(worker *corev1.Container) {
	for _, port := range []corev1.ContainerPort{
		{Name: metricsPortName, ContainerPort: metricsPort, Protocol: corev1.ProtocolTCP},
		{Name: probePortName, ContainerPort: probePort, Protocol: corev1.ProtocolTCP},
	} {
		taken := func(other corev1.ContainerPort) bool {
			return other.Name == port.Name || other.ContainerPort == port.ContainerPort
		}
		if !slices.ContainsFunc(worker.Ports, taken) {
			worker.Ports = append(worker.Ports, port)
		}
	}
}

// addProbes asks the port by the name that it has, which may be the template's.
func addProbes(worker *corev1.Container) {
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: probeTarget(worker)}}
	}
	fill(&worker.ReadinessProbe, corev1.Probe{ProbeHandler: get("/readyz"), PeriodSeconds: 1, TimeoutSeconds: 2, FailureThreshold: 2})
	fill(&worker.LivenessProbe, corev1.Probe{ProbeHandler: get("/healthz"), PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 3})
}

func probeTarget(worker *corev1.Container) intstr.IntOrString {
	for _, port := range worker.Ports {
		if port.ContainerPort == probePort && port.Name != "" {
			return intstr.FromString(port.Name)
		}
	}
	return intstr.FromInt32(probePort)
}

// override returns the items with ours in place of those of the same name.
func override[T any](items, ours []T, name func(T) string) []T {
	kept := slices.DeleteFunc(slices.Clone(items), func(item T) bool {
		return slices.ContainsFunc(ours, func(our T) bool { return name(our) == name(item) })
	})
	return append(kept, ours...)
}
