// Package planner keeps a processor's plan up to date: it looks at the directory and the tokens, splits and merges segments
// until each group has as many as its spec wants, asks the pure planner who should own what, and writes the targets.
//
// The operator runs it, and a worker where no operator has renewed the plan for tokenstore.PlannerTimeout. Any number may
// run at once: plans are written by compare-and-set on the plan's number, splits and merges by the layout they expect.
package planner

import (
	"context"

	"github.com/sluice-project/sluice/tokenstore"
)

// Planner plans one processor.
type Planner struct {
	Directory tokenstore.Directory
	Store     tokenstore.Store
	Processor string // cluster/namespace/name
	Name      string // of this planner, for those who ask who planned
}

// Outcome is what one step saw and did.
type Outcome struct {
	View     tokenstore.View // as it was before the step, but for the plan
	Groups   []tokenstore.Group
	Tokens   []tokenstore.Token
	Failures []tokenstore.Failure
	Moves    int // segments that got another worker by this step
	Reshaped int // splits and merges
}

// Step looks once and does what is due. tokenstore.ErrPlanOutdated says that another planner was faster: look again.
func (p *Planner) Step(ctx context.Context) (Outcome, error) {
	return Outcome{}, nil
}
