package worker

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
)

const (
	// aloneFor is how long nobody has to have planned until a worker that has claimed by itself counts as ready.
	aloneFor = 10 * time.Second
	// costsWithin is how long a worker that could be ready waits until Kubernetes knows which pods to remove first.
	costsWithin = 5 * time.Second
	// operatorName begins the names of planners that can tell Kubernetes.
	operatorName = "operator/"
)

// proof is what speaks for and against the definition that a worker runs.
type proof struct {
	mu       sync.Mutex
	proven   bool
	idle     bool
	failures int    // before that, at events that had not failed before
	failing  string // the last of them, once there are enough
}

// note takes note of what the definition has shown.
func (p *proof) note(proven, idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proven, p.idle = p.proven || proven, p.idle || idle
	if p.proven {
		p.failing = ""
	}
}

func (p *proof) holds() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proven
}

// failed takes note of a failure, and reports whether it is one too many.
func (p *proof) failed(message string) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proven || p.failing != "" {
		return false
	}
	if p.failures++; p.failures < tokenstore.QuarantineAfter {
		return false
	}
	p.failing = message
	return true
}

// again forgets the failures: the definition is wanted anew.
func (p *proof) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures, p.failing = 0, ""
}

func (p *proof) report(r *tokenstore.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Proven, r.Idle, r.Failing = p.proven, p.idle, p.failing
}

// speaksAgainst takes note of a failure that speaks against the definition as long as it is not proven: the event, if there is
// one, had not failed before this worker had the segment.
func (l *life) speaksAgainst(s *segmentRun, position int64, message string) {
	if position != 0 && position == s.inherited {
		return
	}
	if l.proof.failed(message) {
		l.log.Error("this definition fails before it has handled anything", "group", s.group.name, "segment", s.Token.Segment, "error", message)
		l.news.Store(true)
		l.look()
	}
}

// prove sees what the definition has shown here: each of its groups has committed a batch; or has stood idle for a while with the
// segments that it has. Groups that wait for a replay to change their sequencing do not count against that.
func (l *life) prove() {
	if l.proof.holds() {
		return
	}
	l.mu.Lock()
	proven, idle, waiting := true, true, 0
	for _, g := range l.groups {
		proven = proven && g.committed
		if g.differs { // it is given nothing: all that there is to see is that it is fit
			idle = idle && g.fit && g.unagreed == nil
			waiting++
		}
	}
	idle = idle && (len(l.segments) > 0 || waiting == len(l.groups))
	for _, s := range l.segments {
		_, waits := s.member.Oldest()
		rests := s.fault == nil && time.Since(s.claimed) >= tokenstore.ProbationIdle && (!waits || l.settings.paused(s.group.name))
		idle = idle && (s.group.committed || rests)
	}
	l.mu.Unlock()
	l.proof.note(proven, proven || idle)
}

// committed takes note of a batch that has committed; the first one of a group is news.
func (l *life) committed(g *group) {
	l.mu.Lock()
	first := !g.committed
	g.committed = true
	l.mu.Unlock()
	if first && !l.proof.holds() {
		l.news.Store(true)
		l.look()
	}
}

// stand takes note of this worker's standing.
func (c *controller) stand(view tokenstore.View) {
	for _, w := range view.Workers {
		if w.Incarnation != c.self.Incarnation {
			continue
		}
		if w.DefinitionNumber != c.number {
			c.number = w.DefinitionNumber
			c.proof.again()
		}
		if standing := planner.Standing(view.Workers, w); standing != c.standing {
			c.standing = standing
			if standing != assignment.Active {
				c.log.Info("this worker is not given a full share", "standing", standing)
			}
		}
		if w.LeavingFor > 0 && c.Worker.ready.Swap(false) {
			c.log.Info("this pod is to be removed", "segments", len(c.held()))
			c.nextBeat = time.Time{} // tell at once
		}
	}
}

// judgeReadiness latches the readiness: the worker has been named in a plan with full standing, holds what it was given, and, in a
// rollout, Kubernetes knows which pods to remove first; or nobody has planned for a while and it has claimed by itself.
func (c *controller) judgeReadiness(d *decision, view tokenstore.View) {
	fit := true
	c.mu.Lock()
	for _, g := range c.groups {
		fit = fit && g.fit && g.unagreed == nil
	}
	some := len(c.segments) > 0
	c.mu.Unlock()
	if d.named {
		c.readiness.note(view, c.self.Incarnation, time.Now())
	}
	alone := time.Since(c.planned) > aloneFor && some
	waits := c.readiness.waitsForCosts(view, c.number, time.Now())
	if waits { // nothing else may happen until the wait is over
		d.soon(time.Until(c.readiness.since.Add(costsWithin)) + time.Millisecond)
	}
	counted := d.named && !waits || alone
	if !counted || !c.drainFrom.IsZero() || !fit || d.missing > 0 || c.standing != assignment.Active {
		return
	}
	if !c.Worker.ready.Swap(true) {
		c.log.Info("ready", "segments", len(c.held()))
		c.nextBeat = time.Time{} // tell at once
	}
}

// readiness is since when a worker could be ready, as far as the plan goes.
type readiness struct {
	plan     int64 // the one that named it first, or changed what it is assigned last; 0 before
	since    time.Time
	assigned []tokenstore.Key
}

// note takes note of a look at a plan that names the worker. Each plan that changes the worker's share may have emptied another pod: costs of
// the plan before would have Kubernetes remove one that still has segments.
func (r *readiness) note(view tokenstore.View, self int64, now time.Time) {
	var assigned []tokenstore.Key
	for _, a := range view.Assignments {
		if a.Worker == self {
			assigned = append(assigned, a.Key)
		}
	}
	if r.plan == 0 || !slices.Equal(assigned, r.assigned) {
		*r = readiness{view.Processor.Plan, now, assigned}
	}
}

// waitsForCosts reports whether an operator that rolls this definition out has still to say which pods to remove first. As soon
// as this worker is ready, Kubernetes removes one.
func (r *readiness) waitsForCosts(view tokenstore.View, definition int64, now time.Time) bool {
	if view.Processor.Costed >= r.plan || !strings.HasPrefix(view.Processor.Planner, operatorName) || now.Sub(r.since) > costsWithin {
		return false
	}
	for _, w := range view.Workers {
		if w.Alive && w.DefinitionNumber < definition {
			return true
		}
	}
	return false
}
