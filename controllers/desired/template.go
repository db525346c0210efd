package desired

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/definition"
)

// gracePeriod is how long a worker has to drain and release, in seconds.
const gracePeriod = 30

// PodTemplate is the user's template with what it leaves open filled in: pods run under the restricted profile and
// without a service account's token, for they never talk to the Kubernetes API.
func PodTemplate(p Processor) corev1.PodTemplateSpec {
	template := corev1.PodTemplateSpec{}
	if p.Object.Spec.Template != nil {
		template = *p.Object.Spec.Template.DeepCopy()
	}
	label(&template, p)
	pod := &template.Spec
	fill(&pod.AutomountServiceAccountToken, false)
	fill(&pod.EnableServiceLinks, false)
	fill(&pod.TerminationGracePeriodSeconds, int64(gracePeriod))
	restrictPod(pod)
	addVolumes(pod, p)
	complete(workerContainer(pod), p)
	for i := range pod.Containers {
		restrict(&pod.Containers[i])
	}
	for i := range pod.InitContainers {
		restrict(&pod.InitContainers[i])
	}
	return template
}

// label adds the labels; those that users may set, under app.kubernetes.io, stay theirs.
func label(template *corev1.PodTemplateSpec, p Processor) {
	labels := p.Labels()
	for key, value := range template.Labels {
		labels[key] = value
	}
	labels[LabelProcessor], labels[LabelDefinition] = p.Object.Name, p.ID
	template.Labels = labels
}

// workerContainer returns the container that runs the runtime; it is added where the template has none.
func workerContainer(pod *corev1.PodSpec) *corev1.Container {
	for i := range pod.Containers {
		if pod.Containers[i].Name == definition.WorkerContainer {
			return &pod.Containers[i]
		}
	}
	pod.Containers = append(pod.Containers, corev1.Container{Name: definition.WorkerContainer})
	return &pod.Containers[len(pod.Containers)-1]
}

func restrictPod(pod *corev1.PodSpec) {
	if pod.SecurityContext == nil {
		pod.SecurityContext = &corev1.PodSecurityContext{}
	}
	fill(&pod.SecurityContext.RunAsNonRoot, true)
	fill(&pod.SecurityContext.SeccompProfile, corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault})
}

// restrict fills in what the restricted profile asks of every container.
func restrict(container *corev1.Container) {
	if container.SecurityContext == nil {
		container.SecurityContext = &corev1.SecurityContext{}
	}
	fill(&container.SecurityContext.AllowPrivilegeEscalation, false)
	fill(&container.SecurityContext.Capabilities, corev1.Capabilities{Drop: []corev1.Capability{"ALL"}})
}

// fill sets what is not set.
func fill[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}
