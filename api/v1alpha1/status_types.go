package v1alpha1

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// EventProcessorStatus is what was last observed of an EventProcessor. It holds no positions: figures are written at
// most every ten seconds, conditions at once.
type EventProcessorStatus struct {
	// observedGeneration is the generation of the spec that the rest of the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are listed in docs/spec/eventprocessor.md.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// replicas is the number of pods there are.
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// selector selects the processor's pods, for autoscalers.
	// +optional
	Selector string `json:"selector,omitempty"`
	// segments counts the segments of all groups.
	// +optional
	Segments SegmentCounts `json:"segments,omitempty,omitzero"`
	// lag is the largest lag of all groups; Unknown if that of a group is.
	// +optional
	Lag Lag `json:"lag,omitempty"`
	// asOf is since when the operator cannot read the store: segments and groups are as they were
	// then. It is absent while they are up to date.
	// +optional
	AsOf *metav1.Time `json:"asOf,omitempty"`
	// storeID is the id of the store that the processor belongs to.
	// +optional
	StoreID string `json:"storeID,omitempty"`
	// definition is the id of the desired definition: of template, handlers and source.
	// +optional
	Definition string `json:"definition,omitempty"`
	// runtime is the range of the runtime's versions in the pods.
	// +optional
	Runtime RuntimeVersions `json:"runtime,omitempty,omitzero"`
	// groups are the processing groups.
	// +optional
	// +listType=map
	// +listMapKey=name
	Groups []GroupStatus `json:"groups,omitempty"`
	// openWriters are the five oldest transactions that have been open for ten seconds or longer and
	// have written to the event table, or keep a gap open in a table that is read by its gaps. The
	// events that a transaction has written wait for its end.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=5
	OpenWriters []OpenWriter `json:"openWriters,omitempty"`
}

// OpenWriter is a transaction that has written to the event table and stays open.
type OpenWriter struct {
	// pid of the backend in the database; absent where the transaction is prepared.
	// +optional
	PID int32 `json:"pid,omitempty"`
	// prepared is the transaction's name where it is prepared for a two-phase commit.
	// +optional
	Prepared string `json:"prepared,omitempty"`
	// application is what the writer calls itself, its application_name.
	// +optional
	Application string `json:"application,omitempty"`
	// user is the writer's role in the database.
	// +optional
	User string `json:"user,omitempty"`
	// since is when the transaction began or was prepared, or when it was first seen where the workers' role may not know that.
	// +optional
	Since metav1.Time `json:"since,omitempty,omitzero"`
}

// SegmentCounts counts segments by state.
type SegmentCounts struct {
	// summary is owned/existing segments, such as 16/16, and 16/16->64 if the spec asks for another
	// number than exists.
	// +optional
	Summary string `json:"summary,omitempty"`
	// desired is the number of segments that the spec asks for.
	// +optional
	Desired int32 `json:"desired,omitempty"`
	// owned is the number of segments that a live worker owns.
	// +optional
	Owned int32 `json:"owned,omitempty"`
	// moving is the number of segments whose owner is not the worker that they are assigned to.
	// +optional
	Moving int32 `json:"moving,omitempty"`
	// unowned is the number of segments that no live worker owns.
	// +optional
	Unowned int32 `json:"unowned,omitempty"`
}

// RuntimeVersions is a range of versions.
type RuntimeVersions struct {
	// min is the oldest version.
	// +optional
	Min string `json:"min,omitempty"`
	// max is the newest version.
	// +optional
	Max string `json:"max,omitempty"`
}

// GroupStatus is what was last observed of a processing group.
type GroupStatus struct {
	// name of the group.
	// +required
	Name string `json:"name"`
	// segments is the number of segments that the group has.
	// +optional
	Segments int32 `json:"segments,omitempty"`
	// state is what the group does.
	// +optional
	State GroupState `json:"state,omitempty"`
	// lag is the age of the oldest event that has not been handled.
	// +optional
	Lag Lag `json:"lag,omitempty"`
	// replayPercent is how much of a replay is done, in percent and in steps of 5; absent while no
	// replay of the group runs.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	ReplayPercent *int32 `json:"replayPercent,omitempty"`
	// resegmenting is how far the group has come with splitting or merging its segments; absent if
	// it has as many as the spec asks for.
	// +optional
	Resegmenting *Resegmenting `json:"resegmenting,omitempty"`
}

// Resegmenting is how far a group has come with splitting or merging its segments.
type Resegmenting struct {
	// to is the number of segments that the group is to have.
	// +optional
	To int32 `json:"to,omitempty"`
	// done is the number of splits or merges that are done.
	// +optional
	Done int32 `json:"done,omitempty"`
	// total is the number of splits or merges to do, including those that are done.
	// +optional
	Total int32 `json:"total,omitempty"`
	// perMinute is how many are done in a minute, measured over the last 30 s; absent while it is
	// not known.
	// +optional
	PerMinute int32 `json:"perMinute,omitempty"`
	// eta is when all are done at this rate; absent while the rate is not known.
	// +optional
	ETA *metav1.Time `json:"eta,omitempty"`
}

// Forecast is the rate and the time left, such as "61/s, about 6m47s left".
func (r *Resegmenting) Forecast(now time.Time) string {
	if r.ETA == nil {
		return "time left not known yet"
	}
	rate := fmt.Sprintf("%d/min", r.PerMinute)
	if r.PerMinute >= 120 {
		rate = fmt.Sprintf("%d/s", r.PerMinute/60)
	}
	return fmt.Sprintf("%s, about %s left", rate, duration.HumanDuration(max(r.ETA.Sub(now), time.Second)))
}

// GroupState is what a group does.
//
// +kubebuilder:validation:Enum=Running;Replaying;Resetting;Paused;Blocked;Unowned
type GroupState string

// States of a group.
const (
	// GroupRunning handles events as they come.
	GroupRunning GroupState = "Running"
	// GroupReplaying handles events that it had handled before.
	GroupReplaying GroupState = "Replaying"
	// GroupResetting waits for the reset of a replay; nobody may own its segments until then.
	GroupResetting GroupState = "Resetting"
	// GroupPaused begins no batch.
	GroupPaused GroupState = "Paused"
	// GroupBlocked has a segment at least that waits for an event that keeps failing or for a valid
	// definition, or its segments do not cover the hash space exactly once.
	GroupBlocked GroupState = "Blocked"
	// GroupUnowned has a segment at least that no worker has owned for a while: its events wait.
	GroupUnowned GroupState = "Unowned"
)

// Lag is an age in buckets, so that status is written seldom.
//
// +kubebuilder:validation:Enum="0s";"<1s";"<10s";"<1m";"<10m";"<1h";">1h";"Unknown"
type Lag string

// Buckets of lag. Lag0s means that nothing is waiting, LagUnknown that the operator cannot tell.
const (
	Lag0s       Lag = "0s"
	LagUnder1s  Lag = "<1s"
	LagUnder10s Lag = "<10s"
	LagUnder1m  Lag = "<1m"
	LagUnder10m Lag = "<10m"
	LagUnder1h  Lag = "<1h"
	LagOver1h   Lag = ">1h"
	LagUnknown  Lag = "Unknown"
)
