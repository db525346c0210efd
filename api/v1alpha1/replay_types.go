package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Replay moves processing groups back and has them handle events again. It is a view of a row in the store: an id runs
// at most once in the life of a store, whatever happens to this object.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=sluice
// +kubebuilder:printcolumn:name="Processor",type=string,JSONPath=`.spec.processorName`
// +kubebuilder:printcolumn:name="Complete",type=string,JSONPath=`.status.conditions[?(@.type=="Complete")].status`
// +kubebuilder:printcolumn:name="Progress",type=integer,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Complete")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.') || self.metadata.name.startsWith(self.spec.processorName + '.')",message="a metadata.name with a dot must begin with spec.processorName and that dot, such as payments.fix-rounding for the processor payments"
type Replay struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is wanted.
	// +required
	Spec ReplaySpec `json:"spec"`
	// status is what was last observed.
	// +optional
	Status ReplayStatus `json:"status,omitempty,omitzero"`
}

// ID is the replay's id in the store, one name space a processor: the object's name without a leading processor's name
// and dot.
func (r *Replay) ID() string {
	return strings.TrimPrefix(r.Name, r.Spec.ProcessorName+".")
}

// ReplayList is a list of Replays.
//
// +kubebuilder:object:root=true
type ReplayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Replay `json:"items"`
}

// ReplaySpec is what is wanted of a Replay.
//
// +kubebuilder:validation:XValidation:rule="self.processorName == oldSelf.processorName && self.groups == oldSelf.groups && self.from == oldSelf.from && has(self.context) == has(oldSelf.context) && (!has(self.context) || self.context == oldSelf.context)",message="only desiredState can be changed: create a Replay with a new name instead"
type ReplaySpec struct {
	// processorName is the EventProcessor, in the same namespace, whose groups are replayed. It cannot be changed.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=52
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be a DNS label: lower-case letters a to z, digits and '-', beginning and ending with a letter or a digit"
	ProcessorName string `json:"processorName"`
	// groups are the processing groups to replay, together. It cannot be changed.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Groups []string `json:"groups"`
	// from is where the groups go back to. It cannot be changed.
	// +optional
	// +kubebuilder:default={type: Earliest}
	From ReplayFrom `json:"from,omitempty,omitzero"`
	// context is handed to the reset handler and to every handler of a replayed event, such as why: rounding. It cannot
	// be changed.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	Context map[string]ContextValue `json:"context,omitempty"`
	// desiredState is Running, Cancelled (possible before the reset) or Abandoned (after it: the groups go on from where
	// they were, and their projection stays incomplete until a replay completes).
	// +optional
	// +kubebuilder:default=Running
	DesiredState ReplayState `json:"desiredState,omitempty"`
}

// ContextValue is a value of a replay's context.
//
// +kubebuilder:validation:MaxLength=1024
type ContextValue string

// ReplayEvents counts events by their positions, as an average over the hash space. Positions that no event has are included, as of
// transactions that were rolled back: where there are many, so are these figures higher than the number of events.
type ReplayEvents struct {
	// handled is how many have been handled again.
	// +optional
	Handled int64 `json:"handled,omitempty"`
	// total is how many are to be handled again.
	// +optional
	Total int64 `json:"total,omitempty"`
}

// ReplayDeclaration asks for a replay in the spec of an EventProcessor: the operator makes the Replay <processor>.<id>.
//
// +kubebuilder:validation:XValidation:rule="self.id != oldSelf.id || (self.groups == oldSelf.groups && self.from == oldSelf.from && has(self.context) == has(oldSelf.context) && (!has(self.context) || self.context == oldSelf.context))",message="groups, from and context cannot be changed under the same id: choose another id"
type ReplayDeclaration struct {
	// id names the replay. An id runs at most once in the life of a store: to replay again, choose another one.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=60
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be a DNS label, since a Replay's name is made of it: lower-case letters a to z, digits and '-', beginning and ending with a letter or a digit"
	ID string `json:"id"`
	// groups are the processing groups to replay, together.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Groups []string `json:"groups"`
	// from is where the groups go back to.
	// +optional
	// +kubebuilder:default={type: Earliest}
	From ReplayFrom `json:"from,omitempty,omitzero"`
	// context is handed to the reset handler and to every handler of a replayed event, such as why: rounding.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	Context map[string]ContextValue `json:"context,omitempty"`
}

// ReplayFrom is where a replay begins.
//
// +kubebuilder:validation:XValidation:rule="self.type == 'Position' ? has(self.position) && !has(self.timestamp) : !has(self.position) && has(self.timestamp) == (self.type == 'Timestamp')",message="type Position needs position, type Timestamp needs timestamp, and the other types take neither"
type ReplayFrom struct {
	// type is Earliest, the first event there is; Latest, which handles nothing again; Position or Timestamp.
	// +required
	Type ReplayFromType `json:"type"`
	// position is where it begins, for type Position: the event at it, or the first one above, as the source writes positions.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Position string `json:"position,omitempty"`
	// timestamp is when it begins, for type Timestamp: with the first event recorded then or later.
	// +optional
	Timestamp *metav1.Time `json:"timestamp,omitempty"`
}

// ReplayFromType names a kind of position to replay from.
//
// +kubebuilder:validation:Enum=Earliest;Latest;Position;Timestamp
type ReplayFromType string

// Positions to replay from.
const (
	ReplayFromEarliest  ReplayFromType = "Earliest"
	ReplayFromLatest    ReplayFromType = "Latest"
	ReplayFromPosition  ReplayFromType = "Position"
	ReplayFromTimestamp ReplayFromType = "Timestamp"
)

// ReplayState is what is wanted of a replay.
//
// +kubebuilder:validation:Enum=Running;Cancelled;Abandoned
type ReplayState string

// States that can be wanted of a replay.
const (
	ReplayRunning   ReplayState = "Running"
	ReplayCancelled ReplayState = "Cancelled"
	ReplayAbandoned ReplayState = "Abandoned"
)

// ReplayStatus is what was last observed of a Replay.
type ReplayStatus struct {
	// observedGeneration is the generation of the spec that the rest of the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are listed in docs/spec/replay.md.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// definition is the id of the processor's definition that the replay is bound to.
	// +optional
	Definition string `json:"definition,omitempty"`
	// progress is the share of events handled again, in percent and in steps of 5. It is 100 only when
	// the replay is complete.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Progress *int32 `json:"progress,omitempty"`
	// events counts what the progress is of: positions, those that no event has included.
	// +optional
	Events ReplayEvents `json:"events,omitempty,omitzero"`
	// eta is when the replay will be complete if it goes on as it did. It is there between 5 and 100 percent.
	// +optional
	ETA *metav1.Time `json:"eta,omitempty"`
	// resetAt is when the groups were moved back.
	// +optional
	ResetAt *metav1.Time `json:"resetAt,omitempty"`
	// completedAt is when the groups had handled again what they had handled at the reset.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
}
