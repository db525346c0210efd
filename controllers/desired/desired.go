// Package desired builds the objects that an EventProcessor becomes, one object a file.
//
// What always holds: a builder is a pure function of its Processor, so that the same spec gives the same bytes, and a
// template's hash changes only where this package or the spec does. What the user's template says is kept; the few values
// that the runtime cannot work without are set over it (the volumes and variables whose names begin with sluice).
package desired

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/definition"
)

// Processor is what the objects are built from.
type Processor struct {
	Object *v1alpha1.EventProcessor
	// Spec is Object's in plain Go, with its defaults.
	Spec definition.Spec
	// ID is the definition's.
	ID string
	// Cluster names the Kubernetes cluster within the store.
	Cluster string
	// Installation is the operator's ID in stores.
	Installation string
	// Image is the worker's where the template has none.
	Image string
}

// New reads the spec of an EventProcessor.
func New(object *v1alpha1.EventProcessor, cluster, image string) (Processor, error) {
	data, err := json.Marshal(object.Spec)
	if err != nil {
		return Processor{}, fmt.Errorf("reading the spec: %w", err)
	}
	var spec definition.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return Processor{}, fmt.Errorf("reading the spec: %w", err)
	}
	spec.Default()
	return Processor{Object: object, Spec: spec, ID: spec.Definition().ID(), Cluster: cluster, Image: image}, nil
}

// StoreName is the processor's name in its store.
func (p Processor) StoreName() string {
	return p.Cluster + "/" + p.Object.Namespace + "/" + p.Object.Name
}

// DeploymentName of the processor; its PodDisruptionBudget has the same.
func (p Processor) DeploymentName() string { return p.Object.Name }

// ConfigMapName of the wanted definition.
func (p Processor) ConfigMapName() string { return p.Object.Name + "-" + p.ID }

// Labels that the operator sets and reads.
const (
	// LabelProcessor has the EventProcessor's name; it alone selects the pods.
	LabelProcessor = "sluice.dev/processor"
	// LabelDefinition has the definition's id, on ConfigMaps and pods.
	LabelDefinition = "sluice.dev/definition"

	labelName      = "app.kubernetes.io/name"
	labelInstance  = "app.kubernetes.io/instance"
	labelManagedBy = "app.kubernetes.io/managed-by"
)

// Labels of the processor's objects.
func (p Processor) Labels() map[string]string {
	return map[string]string{
		labelName:      "sluice-worker",
		labelInstance:  p.Object.Name,
		labelManagedBy: "sluice-operator",
		LabelProcessor: p.Object.Name,
	}
}

// Selector of the processor's pods.
func (p Processor) Selector() map[string]string {
	return map[string]string{LabelProcessor: p.Object.Name}
}

// owner makes the processor the controller of an object, so that it is deleted with it.
func (p Processor) owner() *metaac.OwnerReferenceApplyConfiguration {
	return metaac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).WithKind("EventProcessor").
		WithName(p.Object.Name).WithUID(p.Object.UID).
		WithController(true).WithBlockOwnerDeletion(true)
}

func selector(labels map[string]string) *metaac.LabelSelectorApplyConfiguration {
	return metaac.LabelSelector().WithMatchLabels(labels)
}

// IsControlledBy reports whether an object belongs to the processor.
func IsControlledBy(object metav1.Object, processor *v1alpha1.EventProcessor) bool {
	owner := metav1.GetControllerOf(object)
	return owner != nil && owner.UID == processor.UID
}
