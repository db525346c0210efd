package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EventProcessor runs handlers over the events of a source, shared out over pods by segments.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:shortName=evp,categories=sluice
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Segments",type=string,JSONPath=`.status.segments.summary`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.replicas`
// +kubebuilder:printcolumn:name="Lag",type=string,JSONPath=`.status.lag`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name must be a DNS label of at most 52 characters: lower-case letters a to z, digits and '-', beginning and ending with a letter or a digit"
type EventProcessor struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is wanted.
	// +required
	Spec EventProcessorSpec `json:"spec"`
	// status is what was last observed.
	// +optional
	Status EventProcessorStatus `json:"status,omitempty,omitzero"`
}

// EventProcessorList is a list of EventProcessors.
//
// +kubebuilder:object:root=true
type EventProcessorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []EventProcessor `json:"items"`
}

// EventProcessorSpec is what is wanted of an EventProcessor.
//
// +kubebuilder:validation:XValidation:rule="!has(self.replay) || self.replay.groups.all(g, self.processingGroups.exists(p, p.name == g))",message="replay.groups must be processing groups of this processor"
// +kubebuilder:validation:XValidation:rule="self.processingGroups.map(g, g.segments).sum() <= 65536",message="the segments of all processing groups together must not be more than 65536: lower segments, or move groups into another processor"
type EventProcessorSpec struct {
	// desiredState is Running, or Paused: pods stay and keep their segments, and no batch begins. A live field.
	// +optional
	// +kubebuilder:default=Running
	DesiredState DesiredState `json:"desiredState,omitempty"`

	// replicas is the number of pods that share the segments. It is also set by kubectl scale and by
	// autoscalers. Pods are added or removed; those that stay are not restarted.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	Replicas *int32 `json:"replicas,omitempty"`

	// deletionPolicy says what becomes of the processor's rows in the store when the processor is deleted: Retain keeps
	// them, so that a processor created later goes on where this one stood; Delete drops them after the pods are gone.
	// +optional
	// +kubebuilder:default=Retain
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// lease is how long a worker keeps its segments without a heartbeat. After that, other workers
	// take them over, unless something else has detected the worker's end before. A live field.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('2s') && duration(self) <= duration('1m')",message="must be a duration from 2s to 1m, such as 5s"
	Lease *metav1.Duration `json:"lease,omitempty"`

	// errorDetails says whether conditions, events and logs show those details of an error that may
	// hold data of events: PostgreSQL's detail and the values in its message. A live field.
	// +optional
	// +kubebuilder:default=Hidden
	ErrorDetails ErrorDetails `json:"errorDetails,omitempty"`

	// takeOverFrom are the processors whose processing groups this one may take over, as a
	// GroupConflict names them. A group changes its owner only if it was retired or if its owner is
	// in this list.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=320
	TakeOverFrom []string `json:"takeOverFrom,omitempty"`

	// store is the database that holds tokens and projections.
	// +required
	Store Store `json:"store"`

	// source is where events come from. A definition field.
	// +optional
	// +kubebuilder:default={type: Store}
	Source Source `json:"source,omitempty,omitzero"`

	// processingGroups are sets of handlers, each of which moves through the events with segments of its own.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	ProcessingGroups []ProcessingGroup `json:"processingGroups"`

	// replay asks for a replay of processing groups, once, with the handlers that this spec declares:
	// a correction and its replay can be applied together. It takes effect without a rollout.
	// +optional
	Replay *ReplayDeclaration `json:"replay,omitempty"`

	// template is the pod to run, needed only for handlers of one's own: the container worker has the image with them.
	// What it leaves open is filled in. A definition field.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.spec) || !has(self.spec.containers) || size(self.spec.containers) == 0 || self.spec.containers.exists(c, c.name == 'worker')",message="spec.containers must have a container named worker, the one that runs the handlers: give the container with your image that name"
	// +kubebuilder:validation:XValidation:rule="!has(self.spec) || !has(self.spec.initContainers) || !self.spec.initContainers.exists(c, c.name == 'worker')",message="no init container may be named worker: the container that runs the handlers has that name"
	// +kubebuilder:validation:XValidation:rule="!has(self.spec) || !has(self.spec.restartPolicy)",message="spec.restartPolicy must not be set: the containers of a processor are always restarted"
	// +kubebuilder:validation:XValidation:rule="!has(self.metadata) || !has(self.metadata.labels) || !self.metadata.labels.exists(k, k.startsWith('sluice.dev/'))",message="metadata.labels must not have keys under sluice.dev/: the operator sets those"
	Template *corev1.PodTemplateSpec `json:"template,omitempty"`
}

// DesiredState says whether batches begin.
//
// +kubebuilder:validation:Enum=Running;Paused
type DesiredState string

// States that can be wanted of a processor and of a group.
const (
	DesiredStateRunning DesiredState = "Running"
	DesiredStatePaused  DesiredState = "Paused"
)

// ErrorDetails says whether details of errors that may hold data are shown.
//
// +kubebuilder:validation:Enum=Hidden;Shown
type ErrorDetails string

// Choices for the details of errors.
const (
	ErrorDetailsHidden ErrorDetails = "Hidden"
	ErrorDetailsShown  ErrorDetails = "Shown"
)

// DeletionPolicy says what becomes of a processor's rows in the store.
//
// +kubebuilder:validation:Enum=Retain;Delete
type DeletionPolicy string

// Deletion policies.
const (
	DeletionPolicyRetain DeletionPolicy = "Retain"
	DeletionPolicyDelete DeletionPolicy = "Delete"
)
