package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ProcessingGroup is a set of handlers that moves through the events together.
//
// +kubebuilder:validation:XValidation:rule="self.handler.rows != 'BySequence' || self.sequencing.type != 'Broadcast'",message="handler.rows BySequence needs sequences, and sequencing Broadcast has none: every segment handles every event; leave rows out"
type ProcessingGroup struct {
	// name of the group, unique within the store: tokens are kept by it. A definition field.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be a DNS label: lower-case letters a to z, digits and '-', beginning and ending with a letter or a digit"
	Name string `json:"name"`
	// segments is how many parts the group's events are divided into; at most that many pods work on it at a time.
	// Powers of two share the load evenly. A live field: segments are split and merged while events are processed.
	// +optional
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32767
	Segments int32 `json:"segments,omitempty"`
	// sequencing says which events of the group are handled in order. It decides which segment an event belongs to, so a change
	// is refused unless the group is replayed in the same edit. A definition field.
	// +optional
	// +kubebuilder:default={type: Stream, hash: Default}
	Sequencing Sequencing `json:"sequencing,omitempty,omitzero"`
	// initialPosition is where the group begins when it has no tokens yet. It is used once and cannot be changed. A
	// definition field.
	// +optional
	// +kubebuilder:default={type: Earliest}
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="initialPosition is used once, when the group first starts, and cannot be changed: create a Replay to read events again"
	InitialPosition InitialPosition `json:"initialPosition,omitempty,omitzero"`
	// maxBatchSize is how many events at most are handled in one transaction. Batches grow towards it while there is a backlog,
	// as long as they take less than a quarter of a second. A live field.
	// +optional
	// +kubebuilder:default=5000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxBatchSize int32 `json:"maxBatchSize,omitempty"`
	// timeout is the time limit of a batch, its handler calls included, and of the handler's reset
	// and setup. A handler's context ends with it, and its transaction cannot commit after it. 0s
	// is for no limit, as a debugger needs it. A live field.
	// +optional
	// +kubebuilder:default="1m0s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && (duration(self) == duration('0s') || duration(self) >= duration('100ms') && duration(self) <= duration('24h'))",message="must be 0s for no limit, or a duration from 100ms to 24h, such as 30s or 1m30s"
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// desiredState of this group; the processor's Paused goes before it. A live field.
	// +optional
	// +kubebuilder:default=Running
	DesiredState DesiredState `json:"desiredState,omitempty"`
	// replay says whether the group may be replayed. Without a value it may if its handler has a
	// reset. Allow is for a handler that has none and may see events twice. Deny refuses all replays.
	// A change takes effect at once and does not concern workers.
	// +optional
	Replay ReplayPolicy `json:"replay,omitempty"`
	// handler is what is done with an event. A definition field.
	// +required
	Handler Handler `json:"handler"`
	// onError says what happens when an event cannot be handled. A live field.
	// +optional
	// +kubebuilder:default={maxAttempts: 5, backoff: {initial: "1s", max: "1m0s"}, then: Block}
	OnError OnError `json:"onError,omitempty,omitzero"`
}

// ReplayPolicy says whether a group may be replayed.
//
// +kubebuilder:validation:Enum=Allow;Deny
type ReplayPolicy string

// Replay policies.
const (
	ReplayAllow ReplayPolicy = "Allow"
	ReplayDeny  ReplayPolicy = "Deny"
)

// Sequencing says which events are handled in order: those with the same sequence key, one after the other in one segment.
//
// +kubebuilder:validation:XValidation:rule="has(self.property) == (self.type == 'Property') && has(self.metadata) == (self.type == 'Metadata')",message="type Property needs property, type Metadata needs metadata, and the other types take neither"
type Sequencing struct {
	// type names what the sequence key is: Stream, the stream's id; Property or Metadata, a value of the event; Sequential, one key
	// for all events; Concurrent, none, so that nothing is kept in order; Broadcast, none, and every segment handles every event.
	// +optional
	// +kubebuilder:default=Stream
	Type SequencingType `json:"type,omitempty"`
	// property is a value of the event's data, for type Property.
	// +optional
	Property *PropertySequencing `json:"property,omitempty"`
	// metadata is a value of the event's metadata, for type Metadata.
	// +optional
	Metadata *MetadataSequencing `json:"metadata,omitempty"`
	// hash of the sequence key: Default, or Java, which is Axon Framework's.
	// +optional
	// +kubebuilder:default=Default
	Hash SequenceHash `json:"hash,omitempty"`
}

// SequencingType names a kind of sequence key.
//
// +kubebuilder:validation:Enum=Stream;Property;Metadata;Sequential;Concurrent;Broadcast
type SequencingType string

// Kinds of sequence keys.
const (
	SequencingStream     SequencingType = "Stream"
	SequencingProperty   SequencingType = "Property"
	SequencingMetadata   SequencingType = "Metadata"
	SequencingSequential SequencingType = "Sequential"
	SequencingConcurrent SequencingType = "Concurrent"
	SequencingBroadcast  SequencingType = "Broadcast"
)

// SequenceHash names a hash of sequence keys.
//
// +kubebuilder:validation:Enum=Default;Java
type SequenceHash string

// Hashes of sequence keys.
const (
	SequenceHashDefault SequenceHash = "Default"
	SequenceHashJava    SequenceHash = "Java"
)

// PropertySequencing takes the sequence key out of the event's data.
type PropertySequencing struct {
	// path is where the value is: names of fields with dots between them. Where there is none, or it is null, an object or an
	// array, the stream's id is the key.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^.]+([.][^.]+)*$') && self.matches('\\\\S')",message="must be names of fields with dots between them, such as customer.id"
	Path string `json:"path"`
}

// MetadataSequencing takes the sequence key out of the event's metadata.
type MetadataSequencing struct {
	// key is the field's name. Where there is none, or it is null, an object or an array, the stream's id is the key.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('\\\\S')",message="must not be blank: write a value or remove the field"
	Key string `json:"key"`
}

// InitialPosition is where a group begins.
//
// +kubebuilder:validation:XValidation:rule="self.type == 'Position' ? has(self.position) && !has(self.timestamp) : !has(self.position) && has(self.timestamp) == (self.type == 'Timestamp')",message="type Position needs position, type Timestamp needs timestamp, and the other types take neither"
type InitialPosition struct {
	// type is Earliest, the first event there is; Latest, the first event appended after the group
	// was created; Position or Timestamp.
	// +required
	Type InitialPositionType `json:"type"`
	// position is the start position, for type Position: the event at it, or the first one above, as
	// the source writes positions.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Position string `json:"position,omitempty"`
	// timestamp is when it begins, for type Timestamp: with the first event recorded then or later.
	// +optional
	Timestamp *metav1.Time `json:"timestamp,omitempty"`
}

// InitialPositionType names a kind of position to begin at.
//
// +kubebuilder:validation:Enum=Earliest;Latest;Position;Timestamp
type InitialPositionType string

// Positions to begin at.
const (
	InitialPositionEarliest  InitialPositionType = "Earliest"
	InitialPositionLatest    InitialPositionType = "Latest"
	InitialPositionPosition  InitialPositionType = "Position"
	InitialPositionTimestamp InitialPositionType = "Timestamp"
)

// Handler is what is done with an event.
//
// +kubebuilder:validation:XValidation:rule="self.type == 'SQL' ? has(self.sql) && !has(self.go) : !has(self.sql)",message="exactly one handler must be set, the one that type names: sql for type SQL; go, which may be left out, for type Go"
type Handler struct {
	// type names the kind of handler.
	// +required
	Type HandlerType `json:"type"`
	// rows says whether events of different sequences may write the same row. With Shared they may,
	// as for a total of all streams: each segment has transactions of its own. With BySequence you
	// promise that no two sequences write the same row; with sequencing Stream, a sequence is a
	// stream. Live segments of a worker then share a transaction, which costs the database less. A
	// definition field.
	// +optional
	// +kubebuilder:default=Shared
	Rows RowOwnership `json:"rows,omitempty"`
	// sql are statements that the runtime carries out in the store.
	// +optional
	SQL *SQLHandler `json:"sql,omitempty"`
	// go is a handler that the binary in the container worker has registered.
	// +optional
	Go *GoHandler `json:"go,omitempty"`
}

// RowOwnership says whether events of different sequences may write the same row.
//
// +kubebuilder:validation:Enum=Shared;BySequence
type RowOwnership string

// Who writes a row.
const (
	RowsShared     RowOwnership = "Shared"
	RowsBySequence RowOwnership = "BySequence"
)

// HandlerType names a kind of handler.
//
// +kubebuilder:validation:Enum=SQL;Go
type HandlerType string

// Kinds of handlers.
const (
	HandlerTypeSQL HandlerType = "SQL"
	HandlerTypeGo  HandlerType = "Go"
)

// SQLHandler are statements that the runtime carries out in the store.
type SQLHandler struct {
	// setup is carried out once for each definition, before its workers claim segments. It must be
	// repeatable, such as CREATE TABLE IF NOT EXISTS.
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:XValidation:rule="self.matches('\\\\S')",message="must not be blank: write SQL or remove the field"
	Setup string `json:"setup,omitempty"`
	// reset empties the projection at the start of a replay, such as DELETE FROM payments.
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:XValidation:rule="self.matches('\\\\S')",message="must not be blank: write SQL or remove the field"
	Reset string `json:"reset,omitempty"`
	// statements are carried out for the events of their types.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Statements []SQLStatement `json:"statements"`
}

// SQLStatement is one SQL command and the events that it is for.
//
// +kubebuilder:validation:XValidation:rule="has(self.batch) != has(self.each)",message="exactly one of batch and each must be set"
type SQLStatement struct {
	// eventTypes are the types of the events that the statement is for. Without them it is for
	// events of all types.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:XValidation:rule="!self.contains('*')",message="must be a type's whole name, without *: name each type, or leave eventTypes out for events of all types"
	EventTypes []string `json:"eventTypes,omitempty"`
	// batch is carried out once for each batch. It reads the batch's events from the table
	// expression events.
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:XValidation:rule="self.matches('\\\\S')",message="must not be blank: write SQL or remove the field"
	Batch string `json:"batch,omitempty"`
	// each is carried out once for each event, in order. It reads that event from the table
	// expression event.
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:XValidation:rule="self.matches('\\\\S')",message="must not be blank: write SQL or remove the field"
	Each string `json:"each,omitempty"`
}

// GoHandler is a handler that the binary in the container worker has registered.
type GoHandler struct {
	// handler is the name under which it is registered, by default the group's name.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('\\\\S')",message="must not be blank: write a value or remove the field"
	Handler string `json:"handler,omitempty"`
}

// OnError says what happens when an event cannot be handled.
type OnError struct {
	// maxAttempts is the number of attempts at an event after which then applies. It has no effect
	// with then: Block.
	// +optional
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxAttempts int32 `json:"maxAttempts,omitempty"`
	// backoff is how long to wait between attempts.
	// +optional
	// +kubebuilder:default={initial: "1s", max: "1m0s"}
	Backoff Backoff `json:"backoff,omitempty,omitzero"`
	// then says what happens to an event that keeps failing. Block, the only choice, tries it again
	// without end, with the waits of backoff. Its segment waits.
	// +optional
	// +kubebuilder:default=Block
	Then OnErrorAction `json:"then,omitempty"`
}

// Backoff is how long to wait between attempts: initial, and twice as long each time, up to max.
//
// +kubebuilder:validation:XValidation:rule="duration(self.max) >= duration(self.initial)",message="max must not be shorter than initial"
type Backoff struct {
	// initial is the wait before the second attempt.
	// +optional
	// +kubebuilder:default="1s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10ms') && duration(self) <= duration('1h')",message="must be a duration from 10ms to 1h, such as 500ms or 1m30s"
	Initial *metav1.Duration `json:"initial,omitempty"`
	// max is the longest wait.
	// +optional
	// +kubebuilder:default="1m0s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10ms') && duration(self) <= duration('1h')",message="must be a duration from 10ms to 1h, such as 500ms or 1m30s"
	Max *metav1.Duration `json:"max,omitempty"`
}

// OnErrorAction names what happens with an event that keeps failing.
//
// +kubebuilder:validation:Enum=Block
type OnErrorAction string

// OnErrorBlock goes on trying, and the segment waits.
const OnErrorBlock OnErrorAction = "Block"
