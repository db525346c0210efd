package tokenstore

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sluice-project/sluice/eventsource"
)

// State of a worker in the directory.
type State string

const (
	Active   State = "Active"
	Draining State = "Draining" // finishes what it has, is given nothing
	Ended    State = "Ended"
)

// Worker is one incarnation of one pod's runtime.
type Worker struct {
	Incarnation      int64
	Nonce            string // a uuid; the pair (incarnation, nonce) is unique also after a restore
	Pod              string
	Definition       string
	DefinitionNumber int64    // by when the definition was last wanted; 0 for one that never was. Given by the directory
	Handlers         []string // Go handlers that the binary has registered
	Version          string   // of the runtime
	Protocol         int
	SessionLock      bool
	State            State
	Alive            bool // by the database's clock and, where it holds one, by its session lock. Given by the directory
	Leased           bool // its lease runs, whatever has become of its session lock. Given by the directory
	Report           Report
	StartedAt        time.Time
	// Proven says that a worker of its definition has committed a batch of each of its groups. Given by the directory.
	Proven bool
	// Idle says that one has, or has stood idle with segments of those in which nothing has happened. Given by the directory.
	Idle bool
	// Quarantined says that its definition has failed before it was proven. Given by the directory.
	Quarantined bool
	// LeavingFor is for how long its pod has been about to be removed, 0 where it is not. Given by the directory.
	LeavingFor time.Duration
	// Installation of the operator that made its pod; empty where the worker is older than
	// installations.
	Installation string
	// Lease that its heartbeats ask for; 0 for the default one. The directory does not return it.
	Lease time.Duration `db:"-"`
}

// Report is what a worker says of itself with its heartbeats.
type Report struct {
	// Ready as Kubernetes' readiness has it.
	Ready bool `json:"ready"`
	// Proven says that this worker has committed a batch of each of its groups.
	Proven bool `json:"proven,omitempty"`
	// Idle says that it has, or has stood idle for ProbationIdle with segments of those in which nothing has happened.
	Idle bool `json:"idle,omitempty"`
	// Failing says that, before it was proven, this worker has failed repeatedly at events that had not failed before.
	Failing string `json:"failing,omitempty"`
	// Groups by name.
	Groups map[string]GroupReport `json:"groups,omitempty"`
	// Unfit says why this worker must not be given segments of any group: everything fails here,
	// and not elsewhere.
	Unfit *Fault `json:"unfit,omitempty"`
	// Unsupported are the live settings that this worker's version cannot read. For them it does
	// what it did before.
	Unsupported []string `json:"unsupported,omitempty"`
	// OpenWriters are the oldest of the transactions that have written to the event table and stay open, oldest first.
	OpenWriters []eventsource.OpenWriter `json:"openWriters,omitempty"`
}

// GroupReport is a worker's share of a group.
type GroupReport struct {
	// Refused says that this worker must not be given segments of the group: its binary has not registered the Go handler,
	// a statement does not prepare, the setup fails. Fault says which.
	Refused  bool    `json:"refused,omitempty"`
	Segments int     `json:"segments"`           // owned
	Lag      float64 `json:"lag"`                // age of the oldest event not handled yet, in seconds
	Rate     float64 `json:"rate"`               // events handled a second, over the last seconds
	Position int64   `json:"position"`           // the lowest of its segments
	Fault    *Fault  `json:"fault,omitempty"`    // what stops the group, or one of its segments, here
	Blocked  int     `json:"blocked,omitempty"`  // segments that stand still at an event
	Handled  int64   `json:"handled,omitempty"`  // events since the worker's start
	Replayed int64   `json:"replayed,omitempty"` // of these, events of a replay
	Calls    []Call  `json:"calls,omitempty"`    // calls that have been running for LongCall, the oldest first, at most MostCalls
}

const (
	// LongCall is how long a call runs before it is reported.
	LongCall = 5 * time.Second
	// MostCalls is how many calls of a group a worker reports.
	MostCalls = 5
)

// CallKind is what a worker calls.
type CallKind string

// Kinds of calls.
const (
	BatchCall CallKind = "Batch"
	SetupCall CallKind = "Setup"
	ResetCall CallKind = "Reset"
)

// Call is a call of a handler, setup or reset that is under way.
type Call struct {
	Kind     CallKind `json:"kind"`
	Segment  *uint32  `json:"segment,omitempty"`  // of a batch
	Position int64    `json:"position,omitempty"` // of the batch's first event
	Type     string   `json:"type,omitempty"`     // of that event
	Stream   string   `json:"stream,omitempty"`   // of that event
	Events   int      `json:"events,omitempty"`   // in the batch
	Attempt  int      `json:"attempt,omitempty"`  // from 1
	Running  float64  `json:"running"`            // for so many seconds
	Replay   string   `json:"replay,omitempty"`   // id of the replay, of a reset
	// Abandoned says that the time limit is over, that the call does not heed its context, and that
	// its transaction was ended.
	Abandoned bool `json:"abandoned,omitempty"`
}

// FaultKind says what an error is evidence against.
type FaultKind string

const (
	// EventFault is evidence against the event: the handler refuses it, or its data break a constraint.
	EventFault FaultKind = "Event"
	// DefinitionFault is evidence against the definition: a statement does not parse, a table is missing.
	DefinitionFault FaultKind = "Definition"
	// ContentionFault is a deadlock or a lock not had in time: tried again at once.
	ContentionFault FaultKind = "Contention"
	// InfrastructureFault is all else: connections, the server, disk space.
	InfrastructureFault FaultKind = "Infrastructure"
)

// Fault is why a segment or a group stands still.
type Fault struct {
	Kind     FaultKind `json:"kind"`
	Reason   string    `json:"reason"` // CamelCase, for conditions
	Message  string    `json:"message"`
	Segment  *uint32   `json:"segment,omitempty"`
	Position int64     `json:"position,omitempty"` // of the event that fails
	Type     string    `json:"type,omitempty"`     // of that event
	Stream   string    `json:"stream,omitempty"`   // of that event
	Attempts int       `json:"attempts,omitempty"`
	SQL      *SQLError `json:"sql,omitempty"` // what PostgreSQL said, where the error is its
	Since    time.Time `json:"since"`         // by the worker's clock, for people
	// Lasted is how long ago that was when it was reported, in seconds: clocks of two machines must not be compared.
	Lasted float64 `json:"lasted,omitempty"`
}

// SQLError is an error of the database in its parts, as PostgreSQL names them.
type SQLError struct {
	State      string `json:"state"` // SQLSTATE
	Schema     string `json:"schema,omitempty"`
	Table      string `json:"table,omitempty"`
	Column     string `json:"column,omitempty"`
	Constraint string `json:"constraint,omitempty"`
	Hint       string `json:"hint,omitempty"`
	Position   int32  `json:"position,omitempty"` // of the character in the statement, from 1
	// Detail may hold data of events, so that it is set only where the processor's errorDetails are
	// Shown.
	Detail string `json:"detail,omitempty"`
}

// Assignment is the plan's target for one segment.
type Assignment struct {
	Key
	Worker int64 // incarnation, 0 for nobody
}

// Processor is a row of the directory.
type Processor struct {
	Name       string // cluster/namespace/name
	Definition string // the wanted one
	Number     int64  // the wanted definition's number. Given by the directory
	Replicas   int
	Live       json.RawMessage
	Revision   int64   // grows with every change by Declare. Given by the directory
	Plan       int64   // number of the newest plan. Given by the directory
	Planner    string  // who made it
	Members    []int64 // incarnations that the newest plan took into account with full standing. Given by the directory
	// Quarantined says that the wanted definition has failed before it was proven. Given by the directory.
	Quarantined bool
	Costed      int64 // the newest plan for which Kubernetes knows which pods to remove first. Given by the directory
	// PlanAge is how long ago a planner renewed the plan, by the database's clock.
	PlanAge time.Duration
	// Installation that has the processor.
	Installation string
	// TakeOverFrom are the owners that it may be taken from. Not kept.
	TakeOverFrom []string
}

// Owner is the processor as it owns its groups.
func (p Processor) Owner() Owner {
	return Owner{Processor: p.Name, Installation: p.Installation, TakeOverFrom: p.TakeOverFrom}
}

// Plan is what changes with a new plan.
type Plan struct {
	Planner string // who made it
	Last    int64  // number of the plan that it was made on
	Members []int64
	Changed bool // Members, Targets or Gone differ from the last plan's
	Targets []Assignment
	Gone    []Key // assignments of segments that are no more
}

// View is one consistent look at a processor.
type View struct {
	Processor   Processor
	Workers     []Worker // those that have not ended, by incarnation
	Assignments []Assignment
}

// HeartbeatResponse is what a heartbeat returns. If it differs from the last one, a new View is worth
// the query.
type HeartbeatResponse struct {
	Revision int64
	Plan     int64
	Planned  bool // a planner has renewed the plan within PlannerTimeout, and is no worker that is dead
	Planner  string
	Alive    int // workers alive
	Known    int // workers not ended
	Replays  int // replays that have not ended
	// Now is the database's clock, for those who tell ages; zero where it is not known.
	Now time.Time
}

const (
	// Lease is a worker's lease by default: see Timing.
	Lease = 5 * time.Second
	// Heartbeat is the longest time between two heartbeats.
	Heartbeat = time.Second
	// PlannerTimeout after which a plan that was not renewed no longer counts as kept by anybody: a worker plans.
	PlannerTimeout = 2 * time.Second
	// ProbationIdle is how long a worker of an unproven definition stands idle with segments until that counts as proof.
	ProbationIdle = 2 * time.Second
	// QuarantineAfter so many failures a definition that is not proven is put into quarantine.
	QuarantineAfter = 2
	// WorkerPlans is before the incarnation in the name of a worker that plans.
	WorkerPlans = "worker "
	// Protocol of this runtime; the store says which it needs at least.
	Protocol = 1
)

// Directory knows the processors of one database: workers, plans and what takes effect without a rollout.
type Directory interface {
	// DeclareProcessor creates or updates a processor's row. Only changes raise its revision. A row
	// that another installation has is a *GroupConflictError, unless the processor may take it:
	// then that installation's workers have ended.
	DeclareProcessor(ctx context.Context, p Processor) error

	// RemoveProcessor deletes a processor's row, assignments and workers, unless another
	// installation has them.
	RemoveProcessor(ctx context.Context, owner Owner) error

	// Register adds a worker, alive for one lease. The caller gives incarnation and nonce, which
	// nobody may have had. An *InstallationError says that another installation has the processor.
	// A worker that does not know its own installation is let in until the processor has been taken
	// from one installation by another.
	Register(ctx context.Context, processor string, w Worker) error

	// Heartbeat renews the lease, stores the state and report, and looks whether something has changed.
	// ErrWorkerEnded when the worker is not known any more, ErrNoProcessor when the processor is not.
	Heartbeat(ctx context.Context, w Worker) (HeartbeatResponse, error)

	// SetState tells everybody at once that a worker drains, or has ended.
	SetState(ctx context.Context, incarnation int64, state State) error

	// Leave makes those of the processor's workers leave whose pods are named, and the others stay.
	Leave(ctx context.Context, processor string, pods []string) error

	// Acknowledge says that Kubernetes knows which pods to remove first, as of a plan.
	Acknowledge(ctx context.Context, processor string, plan int64) error

	// View returns all that is known of a processor. ErrNoProcessor when it is not declared.
	View(ctx context.Context, processor string) (View, error)

	// Assign writes the plan as number Last+1 if the newest plan still is Last, else ErrPlanOutdated, and wakes the workers.
	// A plan that changes nothing only renews the newest one, under its number.
	Assign(ctx context.Context, processor string, p Plan) error

	// Adopt makes the worker the assignee of segments whose assignee is the one that is named, as a
	// plan of its own. Callers name assignees that are dead, nobody, or agree. Segments that have
	// another assignee by now are left out. It returns the keys that the worker got.
	Adopt(ctx context.Context, processor string, worker int64, orphans []Assignment) ([]Key, error)
}
