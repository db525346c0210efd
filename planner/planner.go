// Package planner keeps a processor's plan up to date: it looks at the directory and the tokens, splits and merges segments
// until each group has as many as its spec wants, asks the pure planner who should own what, and writes the targets.
//
// The operator runs it, and a worker where no operator has renewed the plan for tokenstore.PlannerTimeout. Any number may
// run at once: plans are written by compare-and-set on the plan's number, splits and merges by the layout they expect.
package planner

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Planner plans one processor. Steps of one Planner must not run at once.
type Planner struct {
	Directory tokenstore.Directory
	Store     tokenstore.Store
	Processor string // cluster/namespace/name
	Name      string // of this planner, for those who ask who planned
	// Now is the clock for how long a segment stays where it was taken over; time.Now by default.
	Now func() time.Time

	rest   tokenstore.Plan // of the last step, where there was nothing to change
	rested time.Time       // when that was; zero where it changed something, or failed

	pins   map[tokenstore.Key]pin
	owners map[tokenstore.Key]int64 // at the last step
}

// Outcome is what one step saw and did.
type Outcome struct {
	View     tokenstore.View // as it was before the step
	Groups   []tokenstore.Group
	Tokens   []tokenstore.Token // after splits and merges
	Failures []tokenstore.Failure
	Moves    []assignment.Move // segments that get another worker by this step
	Reshaped int               // splits and merges
	// Broken are the groups whose segments do not cover the hash space exactly once. They are
	// neither reshaped nor planned.
	Broken map[string]*protocol.LayoutError
}

// News reports whether other groups are broken than before.
func News(before, after map[string]*protocol.LayoutError) bool {
	return !maps.EqualFunc(before, after, func(a, b *protocol.LayoutError) bool { return a.Error() == b.Error() })
}

// Step looks once and does what is due. tokenstore.ErrPlanOutdated says that another planner was faster: look again.
func (p *Planner) Step(ctx context.Context) (Outcome, error) {
	began := time.Now()
	p.rested = time.Time{}
	o, err := p.observe(ctx)
	if err != nil {
		return o, err
	}
	o.Broken = protocol.CheckLayouts(o.Tokens)
	if o.Reshaped, err = p.reshape(ctx, o.Groups, o.Tokens, o.Broken, time.Since(began)); err != nil {
		return o, err
	}
	if o.Reshaped > 0 {
		if o.Tokens, err = p.Store.Tokens(ctx, p.Processor); err != nil {
			return o, err
		}
	}
	p.pin(o.View, o.Tokens)
	plan, moves := p.plan(o.View, o.Tokens, o.Broken)
	if err := p.Directory.Assign(ctx, p.Processor, plan); err != nil {
		return o, err
	}
	o.Moves = moves
	if !plan.Changed && o.Reshaped == 0 {
		p.rest, p.rested = plan, began
	}
	return o, nil
}

// Renew renews the plan by one statement where the last step had nothing to change and was less than within ago; false says to take a
// step instead. It is for whoever is told of what changes; some things are due by time alone, so within is to be some seconds.
// tokenstore.ErrPlanOutdated says that another planner was faster.
func (p *Planner) Renew(ctx context.Context, within time.Duration) (bool, error) {
	if p.rested.IsZero() || time.Since(p.rested) > within {
		return false, nil
	}
	return true, p.Directory.Assign(ctx, p.Processor, p.rest)
}

func (p *Planner) observe(ctx context.Context) (o Outcome, err error) {
	if o.View, err = p.Directory.View(ctx, p.Processor); err != nil {
		return o, err
	}
	if o.Groups, err = p.Store.Groups(ctx, p.Processor); err != nil {
		return o, err
	}
	if o.Tokens, err = p.Store.Tokens(ctx, p.Processor); err != nil {
		return o, err
	}
	o.Failures, err = p.Store.Failures(ctx, p.Processor)
	return o, err
}

// plan asks the pure planner, and returns what differs from the assignments there are.
func (p *Planner) plan(view tokenstore.View, tokens []tokenstore.Token, broken map[string]*protocol.LayoutError) (tokenstore.Plan, []assignment.Move) {
	assignees := map[tokenstore.Key]int64{}
	for _, a := range view.Assignments {
		assignees[a.Key] = a.Worker
	}
	plan := tokenstore.Plan{Planner: p.Name, Last: view.Processor.Plan, Members: members(view.Workers)}
	var moves []assignment.Move
	policy := assignment.Policy{Wanted: view.Processor.Number, Replicas: view.Processor.Replicas}
	whole := slices.DeleteFunc(slices.Clone(tokens), func(t tokenstore.Token) bool { return broken[t.Group] != nil })
	for _, part := range byEligible(view.Workers, p.segments(whole, assignees), leastOf(whole)) {
		result := assignment.Plan(part.members, part.segments, policy)
		moves = append(moves, result.Moves...)
		for _, t := range result.Targets {
			key := tokenstore.Key{Group: t.Group, Segment: t.ID}
			if was, there := assignees[key]; !there && t.Worker != 0 || there && was != t.Worker {
				plan.Targets = append(plan.Targets, tokenstore.Assignment{Key: key, Worker: t.Worker})
			}
		}
	}
	plan.Gone = gone(view.Assignments, tokens)
	plan.Changed = len(plan.Targets)+len(plan.Gone) > 0 || !slices.Equal(plan.Members, view.Processor.Members)
	return plan, moves
}

// members are the workers that the plan has taken into account with full standing, by incarnation:
// those that may turn ready. One that has just registered has not reported its groups yet, and is
// given nothing: if it turned ready, Kubernetes would remove a pod whose segments nobody has taken
// over.
func members(workers []tokenstore.Worker) []int64 {
	alive := []int64{}
	for _, w := range workers {
		if standing := Standing(workers, w); w.Alive && len(w.Report.Groups) > 0 && standing != assignment.Probation && standing != assignment.Quarantined {
			alive = append(alive, w.Incarnation)
		}
	}
	slices.Sort(alive)
	return alive
}

// segments are the tokens as the pure planner sees them. A token without an assignment counts as where it is owned.
func (p *Planner) segments(tokens []tokenstore.Token, assignees map[tokenstore.Key]int64) []assignment.Segment {
	all := make([]assignment.Segment, len(tokens))
	for i, t := range tokens {
		current, assigned := assignees[t.Key]
		if !assigned {
			current = t.Owner
		}
		all[i] = assignment.Segment{Group: t.Group, Segment: t.Range(), Current: current, Pinned: p.pinned(t.Key)}
	}
	return all
}

// gone are the assignments of segments that are no more.
func gone(assignments []tokenstore.Assignment, tokens []tokenstore.Token) []tokenstore.Key {
	there := map[tokenstore.Key]bool{}
	for _, t := range tokens {
		there[t.Key] = true
	}
	var keys []tokenstore.Key
	for _, a := range assignments {
		if !there[a.Key] {
			keys = append(keys, a.Key)
		}
	}
	return keys
}

// problem is a part of the planning: segments of groups that the same workers can handle.
type problem struct {
	members  []assignment.Member
	segments []assignment.Segment
}

// byEligible divides the groups by who can handle them: nearly always everybody can handle all. A worker that does
// not report a group, since its definition lacks it or it has just begun, is given nothing of it; nor is one that refuses it, or
// whose definition is older than the group's last reset.
func byEligible(workers []tokenstore.Worker, segments []assignment.Segment, least map[string]int64) []problem {
	var order []string
	parts := map[string]*problem{}
	for _, s := range segments {
		eligible := eligible(workers, s.Group, least[s.Group])
		key := keyOf(eligible)
		if parts[key] == nil {
			parts[key] = &problem{members: eligible}
			order = append(order, key)
		}
		parts[key].segments = append(parts[key].segments, s)
	}
	var all []problem
	for _, key := range order {
		all = append(all, *parts[key])
	}
	return all
}

func eligible(workers []tokenstore.Worker, group string, least int64) []assignment.Member {
	var all []assignment.Member
	for _, w := range workers {
		if !w.Alive {
			continue
		}
		m := assignment.Member{ID: w.Incarnation, Definition: w.DefinitionNumber, State: Standing(workers, w)}
		if m.State == assignment.Draining {
			all = append(all, m)
			continue
		}
		if !handles(w, group, least) {
			m.State = assignment.Quarantined
		}
		all = append(all, m)
	}
	return all
}

// handles reports whether a worker has the group in its definition, does not refuse it, and runs a
// definition that may have its segments.
func handles(w tokenstore.Worker, group string, least int64) bool {
	report, knows := w.Report.Groups[group]
	return knows && !report.Refused && w.DefinitionNumber >= least
}

// Eligible reports whether a live worker may be given its full share of a group whose oldest
// definition that may claim is least.
func Eligible(workers []tokenstore.Worker, w tokenstore.Worker, group string, least int64) bool {
	return w.Alive && Standing(workers, w) == assignment.Active && handles(w, group, least)
}

// leastOf returns, by group, the number of the oldest definition whose workers may have its segments. While a group is being reset
// nobody may, and its plan stays as it is.
func leastOf(tokens []tokenstore.Token) map[string]int64 {
	least := map[string]int64{}
	for _, t := range tokens {
		if t.Least < math.MaxInt64 {
			least[t.Group] = t.Least
		}
	}
	return least
}

func keyOf(members []assignment.Member) string {
	var b []byte
	for _, m := range members {
		b = append(b, m.State[0], byte(m.ID), byte(m.ID>>8), byte(m.ID>>16), byte(m.ID>>24), byte(m.ID>>32), byte(m.ID>>40), byte(m.ID>>48), byte(m.ID>>56))
	}
	return string(b)
}

// IsOutdated reports whether a step failed only because another planner was faster, or a layout changed under it.
func IsOutdated(err error) bool {
	return errors.Is(err, tokenstore.ErrPlanOutdated) || errors.Is(err, tokenstore.ErrLayoutChanged)
}
