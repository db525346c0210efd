package tokenstore

import (
	"context"
	"encoding/json"
	"time"
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
	Report           json.RawMessage
	StartedAt        time.Time
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
	Revision   int64  // grows with every change by Declare. Given by the directory
	Plan       int64  // number of the newest plan. Given by the directory
	Planner    string // who made it
	// PlanAge is how long ago a planner renewed the plan, by the database's clock.
	PlanAge time.Duration
}

// View is one consistent look at a processor.
type View struct {
	Processor   Processor
	Workers     []Worker // those that have not ended, by incarnation
	Assignments []Assignment
}

// Pulse is what a heartbeat returns: it differs from the last one when a new View is worth the query.
type Pulse struct {
	Revision int64
	Plan     int64
	Planned  bool // a planner has renewed the plan within PlannerTimeout
	Alive    int  // workers alive
	Known    int  // workers not ended
}

const (
	// Lease of a worker: for so long after its last heartbeat it counts as alive where nothing else tells of its death.
	Lease = 5 * time.Second
	// Heartbeat is the time between two heartbeats.
	Heartbeat = time.Second
	// PlannerTimeout after which a plan that was not renewed no longer counts as kept by anybody: a worker plans.
	PlannerTimeout = 2 * time.Second
	// Protocol of this runtime; the store says which it needs at least.
	Protocol = 1
)

// Directory knows the processors of one database: workers, plans and what takes effect without a rollout.
type Directory interface {
	// DeclareProcessor creates or updates a processor's row. Only changes raise its revision.
	DeclareProcessor(ctx context.Context, p Processor) error

	// RemoveProcessor deletes a processor's row, assignments and workers.
	RemoveProcessor(ctx context.Context, processor string) error

	// Register adds a worker, alive for one lease, and returns its incarnation.
	Register(ctx context.Context, processor string, w Worker) (int64, error)

	// Beat renews the lease, stores the state and report (nil leaves the last one), and looks whether something has changed.
	// ErrWorkerEnded when the worker is not known any more, ErrNoProcessor when the processor is not.
	Beat(ctx context.Context, w Worker) (Pulse, error)

	// End marks a worker as ended.
	End(ctx context.Context, incarnation int64) error

	// View returns all that is known of a processor. ErrNoProcessor when it is not declared.
	View(ctx context.Context, processor string) (View, error)

	// Assign writes targets as plan number last+1 if the newest plan still is last, else ErrPlanOutdated. Without targets it
	// only renews the plan, under its number. It removes assignments named in gone, and wakes the workers when anything changed.
	Assign(ctx context.Context, processor, planner string, last int64, targets []Assignment, gone []Key) error

	// Adopt makes the worker the assignee of segments whose assignee, as named, is dead or nobody; as a plan of its own.
	// Those that have another assignee by now are left out. It returns the keys that it got.
	Adopt(ctx context.Context, processor string, worker int64, orphans []Assignment) ([]Key, error)
}
