package assignment

import (
	"slices"

	"github.com/sluice-project/sluice/segment"
)

// State says what a member may be given.
type State string

const (
	Active      State = "Active"      // everything
	Probation   State = "Probation"   // at most one segment a group; has to show that its definition works
	Draining    State = "Draining"    // nothing, and loses what it has
	Quarantined State = "Quarantined" // nothing, and loses what it has
)

// Member is a worker that is alive.
type Member struct {
	ID         int64 // incarnation, unique and greater than 0
	Definition int64 // number of the definition it runs; a higher number was wanted later
	State      State // anything but Active and Probation takes nothing
}

// Segment is a segment of a group with its present owner.
type Segment struct {
	Group   string
	Segment segment.Segment
	Current int64 // worker that owns it or was last assigned it, 0 for nobody; whoever is no member counts as gone
	Pinned  bool  // not to be moved away from a Current that is Active
}

// Policy is what the planner is asked to achieve.
type Policy struct {
	Wanted   int64 // number of the wanted definition; members with a lower one are old
	Replicas int   // how many members of the wanted definition there will be; used during rollouts
	MaxMoves int   // most moves with reason Balance or Rollout in one plan, 0 for no limit; the others cannot wait
}

// Reason says why a segment is where it is.
type Reason string

const (
	Kept         Reason = "Kept"         // stays with its owner
	New          Reason = "New"          // never had an owner
	Orphaned     Reason = "Orphaned"     // its owner is gone
	Drained      Reason = "Drained"      // its owner is draining or in quarantine
	OnProbation  Reason = "OnProbation"  // its owner is on probation and gives it up
	Rollout      Reason = "Rollout"      // from an old member to one of the wanted definition
	Balance      Reason = "Balance"      // evens out shares
	Unassignable Reason = "Unassignable" // no member may take it
)

// Target is where a segment should be.
type Target struct {
	Group  string
	ID     uint32
	Worker int64 // 0 if Unassignable
	Reason Reason
}

// Move is a target that differs from the present owner.
type Move struct {
	Group    string
	ID       uint32
	From, To int64 // From is 0 for New, and nobody's id any more for Orphaned
	Reason   Reason
}

// Spread says how even the shares of the members that may take segments are, in hash spaces: 1 is all of a group.
type Spread struct{ Largest, Smallest, Mean float64 }

// Result is a plan. All slices are ordered by group and id.
type Result struct {
	Targets    []Target // one a segment
	Moves      []Move   // targets that have a worker other than Current
	Unassigned []Target // targets without a worker
	Groups     map[string]Spread
	Total      Spread // of the sums over all groups
}

// Plan returns the target of every segment; the package comment says what it guarantees. Segments are told apart by
// group and id, members by id: neither may occur twice.
func Plan(members []Member, segments []Segment, policy Policy) Result {
	w := newWorld(members, segments, policy)
	if len(w.old) > 0 && len(w.new) > 0 {
		w.rollOut(policy.Replicas)
		if !w.holds(w.old) {
			w.balance(w.new)
		}
	} else {
		everybody := slices.Concat(w.old, w.new)
		w.place(everybody)
		w.balance(everybody)
	}
	return w.result(policy.MaxMoves)
}
