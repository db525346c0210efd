package planner

import (
	"slices"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Standing is what a live worker may be given.
//
// A worker of a definition that has neither been proven nor stood idle is on probation, and one whose definition has failed before
// it was proven is in quarantine; but only while a worker of another definition that has been proven could have the segments: with
// nobody to protect, it is better to try than to stand still.
//
// A worker on which everything fails is in quarantine as well, while there is one that is fit and
// has full standing.
func Standing(workers []tokenstore.Worker, w tokenstore.Worker) assignment.State {
	state := standing(workers, w)
	if w.Report.Unfit != nil && state != assignment.Draining && othersFit(workers) {
		return assignment.Quarantined
	}
	return state
}

// othersFit reports whether a live worker that may have a full share is fit.
func othersFit(workers []tokenstore.Worker) bool {
	return slices.ContainsFunc(workers, func(o tokenstore.Worker) bool {
		return o.Alive && o.Report.Unfit == nil && standing(workers, o) == assignment.Active
	})
}

// standing is that by the worker's definition.
func standing(workers []tokenstore.Worker, w tokenstore.Worker) assignment.State {
	switch {
	case w.State == tokenstore.Draining || w.LeavingFor > 0:
		return assignment.Draining
	case w.Proven || !othersProven(workers, w.Definition):
		return assignment.Active
	case w.Quarantined:
		return assignment.Quarantined
	case w.Idle:
		return assignment.Active
	}
	return assignment.Probation
}

// othersProven reports whether a live worker that stays runs another definition, which works.
func othersProven(workers []tokenstore.Worker, definition string) bool {
	for _, w := range workers {
		if w.Alive && w.State == tokenstore.Active && w.LeavingFor == 0 && (w.Proven || w.Idle) && !w.Quarantined && w.Definition != definition {
			return true
		}
	}
	return false
}
