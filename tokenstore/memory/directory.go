package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// Directory is a tokenstore.Directory.
type Directory struct{ *Database }

var (
	_ tokenstore.Directory    = Directory{}
	_ tokenstore.Setups       = Directory{}
	_ tokenstore.Elector      = Directory{}
	_ tokenstore.Evictor      = Directory{}
	_ tokenstore.Waker        = Directory{}
	_ tokenstore.LiveNotifier = Directory{}
	_ tokenstore.Prober       = Directory{}
)

// Directory returns the database's directory.
func (d *Database) Directory() Directory { return Directory{d} }

// processor is a row with its definitions and its plan.
type processor struct {
	tokenstore.Processor
	definitions map[string]*definition
	renewed     time.Time // when a planner did so last
	takenOver   bool      // from another installation
	assignments map[tokenstore.Key]int64
}

func (p *processor) number(id string) int64 {
	if f := p.definitions[id]; f != nil {
		return f.number
	}
	return 0
}

type definition struct {
	number                    int64
	proven, idle, quarantined bool
	failures                  int
}

type workerRow struct {
	tokenstore.Worker
	processor  string
	leaseUntil time.Time
	leaving    time.Time
	blamed     bool
}

// alive is true for a worker whose lease runs and which, where it holds a session lock, still holds it.
func (d *Database) alive(w *workerRow) bool {
	return w.State != tokenstore.Ended && w.leaseUntil.After(d.now()) && (!w.SessionLock || d.sessions[w.Incarnation] != nil)
}

// DeclareProcessor implements tokenstore.Directory.
func (d Directory) DeclareProcessor(_ context.Context, wanted tokenstore.Processor) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.processors[wanted.Name]
	switch {
	case p == nil:
		p = &processor{Processor: tokenstore.Processor{Name: wanted.Name, Revision: 1, Installation: wanted.Installation}, definitions: map[string]*definition{}, assignments: map[tokenstore.Key]int64{}}
		d.processors[wanted.Name] = p
		d.endOthers(p, false)
	case !wanted.Owner().MayTake(p.Owner()):
		return fmt.Errorf("declaring processor %s: %w", wanted.Name, &tokenstore.GroupConflictError{Owner: p.Owner(), By: wanted.Owner()})
	default:
		taken := !wanted.Owner().Has(p.Owner())
		p.takenOver = p.takenOver || taken
		if p.Installation != wanted.Installation {
			p.Installation = wanted.Installation
			d.endOthers(p, taken)
		}
		if !taken && p.Definition == wanted.Definition && p.Replicas == wanted.Replicas && reflect.DeepEqual(p.Live, wanted.Live) {
			return nil
		}
		p.Revision++
	}
	d.changed(wanted.Name)
	p.Definition, p.Replicas, p.Live = wanted.Definition, wanted.Replicas, wanted.Live
	var newest int64
	for _, f := range p.definitions {
		newest = max(newest, f.number)
	}
	switch f := p.definitions[wanted.Definition]; {
	case f == nil:
		p.definitions[wanted.Definition] = &definition{number: newest + 1}
	case f.number != newest:
		f.number, f.failures, f.quarantined = newest+1, 0, false
	}
	return nil
}

// admits reports whether the processor's installation lets a worker of another one in.
func (p *processor) admits(installation string) bool {
	return p.Installation == "" || p.Installation == installation || installation == "" && !p.takenOver
}

// endOthers ends a processor's workers of other installations; after it was taken from one, those
// too that do not know theirs.
func (d *Database) endOthers(p *processor, taken bool) {
	for _, w := range d.workers {
		if w.processor != p.Name || w.State == tokenstore.Ended || w.Installation == p.Installation || w.Installation == "" && !taken {
			continue
		}
		w.State = tokenstore.Ended
		maps.DeleteFunc(p.assignments, func(_ tokenstore.Key, worker int64) bool { return worker == w.Incarnation })
	}
}

// RemoveProcessor implements tokenstore.Directory.
func (d Directory) RemoveProcessor(_ context.Context, owner tokenstore.Owner) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.processors[owner.Processor]; p != nil && !owner.Has(p.Owner()) {
		return nil
	}
	delete(d.processors, owner.Processor)
	maps.DeleteFunc(d.workers, func(_ int64, w *workerRow) bool { return w.processor == owner.Processor })
	return nil
}

// Register implements tokenstore.Directory.
func (d Directory) Register(_ context.Context, processor string, w tokenstore.Worker) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.processors[processor]; p != nil && !p.admits(w.Installation) {
		return fmt.Errorf("registering pod %s as a worker: %w", w.Pod,
			&tokenstore.InstallationError{Processor: processor, Installation: w.Installation, Owner: p.Installation})
	}
	if d.workers[w.Incarnation] != nil {
		return fmt.Errorf("registering pod %s as a worker: there is an incarnation %d", w.Pod, w.Incarnation)
	}
	w.State, w.StartedAt = tokenstore.Active, d.now()
	d.workers[w.Incarnation] = &workerRow{Worker: w, processor: processor, leaseUntil: d.now().Add(tokenstore.TimingOf(w.Lease).Lease)}
	d.changed(processor)
	return nil
}

// Heartbeat implements tokenstore.Directory.
func (d Directory) Heartbeat(_ context.Context, w tokenstore.Worker) (tokenstore.HeartbeatResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	row := d.workers[w.Incarnation]
	if row == nil || row.Nonce != w.Nonce || row.State == tokenstore.Ended {
		return tokenstore.HeartbeatResponse{}, tokenstore.ErrWorkerEnded
	}
	row.leaseUntil, row.State, row.Report = d.now().Add(tokenstore.TimingOf(w.Lease).Lease), w.State, w.Report
	p := d.processors[row.processor]
	if p == nil {
		return tokenstore.HeartbeatResponse{}, tokenstore.ErrNoProcessor
	}
	if f := p.definitions[row.Definition]; f != nil {
		switch {
		case w.Report.Proven && !f.proven:
			f.proven, f.idle = true, true
		case w.Report.Idle:
			f.idle = true
		}
		if w.Report.Failing != "" && !f.proven && !f.quarantined {
			f.failures, f.quarantined = tokenstore.QuarantineAfter, true
		}
	}
	return d.response(p), nil
}

func (d Directory) response(p *processor) tokenstore.HeartbeatResponse {
	response := tokenstore.HeartbeatResponse{Revision: p.Revision, Plan: p.Plan, Planner: p.Planner, Planned: p.renewed.After(d.now().Add(-tokenstore.PlannerTimeout))}
	for _, w := range d.workers {
		if w.processor != p.Name {
			continue
		}
		if d.alive(w) {
			response.Alive++
		} else if p.Planner == fmt.Sprint(tokenstore.WorkerPlans, w.Incarnation) {
			response.Planned = false
		}
		if w.State != tokenstore.Ended {
			response.Known++
		}
	}
	running := map[int64]bool{}
	for _, g := range d.groups {
		if g.owner.Processor == p.Name {
			running[g.replay] = true
		}
	}
	for _, e := range d.ledger {
		if !e.Phase.Ended() && (e.processor == p.Name || running[e.Number]) {
			response.Replays++
		}
	}
	return response
}

// blame counts the death of a worker whose segment is taken from it, in a rollout, against its definition while that is not
// proven.
func (d *Database) blame(processor string, incarnation int64) {
	w, p := d.workers[incarnation], d.processors[processor]
	if w == nil || p == nil || w.processor != processor || w.blamed || w.State != tokenstore.Active || !w.leaving.IsZero() {
		return
	}
	others := false
	for _, o := range d.workers {
		others = others || o.processor == processor && o.Definition != w.Definition && o.State == tokenstore.Active && o.leaseUntil.After(d.now())
	}
	if !others {
		return
	}
	w.blamed = true
	if f := p.definitions[w.Definition]; f != nil && !f.proven {
		f.failures++
		f.quarantined = f.failures >= tokenstore.QuarantineAfter
	}
}

// SetState implements tokenstore.Directory.
func (d Directory) SetState(_ context.Context, incarnation int64, state tokenstore.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.workers[incarnation]; w != nil && w.State != tokenstore.Ended {
		w.State = state
		d.changed(w.processor)
	}
	return nil
}

// Leave implements tokenstore.Directory.
func (d Directory) Leave(_ context.Context, processor string, pods []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.workers {
		if w.processor != processor || w.State == tokenstore.Ended || w.leaving.IsZero() != slices.Contains(pods, w.Pod) {
			continue
		}
		if w.leaving = (time.Time{}); slices.Contains(pods, w.Pod) {
			w.leaving = d.now()
		}
		d.changed(processor)
	}
	return nil
}

// Acknowledge implements tokenstore.Directory.
func (d Directory) Acknowledge(_ context.Context, processor string, plan int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.processors[processor]; p != nil && p.Costed < plan {
		p.Costed = plan
		d.changed(processor)
	}
	return nil
}

// View implements tokenstore.Directory.
func (d Directory) View(_ context.Context, name string) (tokenstore.View, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.processors[name]
	if p == nil {
		return tokenstore.View{}, tokenstore.ErrNoProcessor
	}
	v := tokenstore.View{Processor: p.Processor}
	wanted := p.definitions[p.Definition]
	v.Processor.Number, v.Processor.Quarantined, v.Processor.PlanAge = wanted.number, wanted.quarantined, d.now().Sub(p.renewed)
	v.Processor.Members = slices.Clone(p.Members)
	for _, incarnation := range slices.Sorted(maps.Keys(d.workers)) {
		if w := d.workers[incarnation]; w.processor == name && w.State != tokenstore.Ended {
			v.Workers = append(v.Workers, d.shown(w, p))
		}
	}
	for key, worker := range p.assignments {
		v.Assignments = append(v.Assignments, tokenstore.Assignment{Key: key, Worker: worker})
	}
	slices.SortFunc(v.Assignments, func(a, b tokenstore.Assignment) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Segment, b.Segment))
	})
	return v, nil
}

func (d Directory) shown(row *workerRow, p *processor) tokenstore.Worker {
	w := row.Worker
	w.Alive, w.Leased = d.alive(row), row.leaseUntil.After(d.now())
	if f := p.definitions[w.Definition]; f != nil {
		w.DefinitionNumber, w.Proven, w.Idle, w.Quarantined = f.number, f.proven, f.idle, f.quarantined
	}
	if !row.leaving.IsZero() {
		w.LeavingFor = d.now().Sub(row.leaving)
	}
	return w
}

// Assign implements tokenstore.Directory.
func (d Directory) Assign(_ context.Context, name string, plan tokenstore.Plan) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.processors[name]
	if p == nil || p.Plan != plan.Last {
		return tokenstore.ErrPlanOutdated
	}
	p.Planner, p.Members, p.renewed = plan.Planner, slices.Clone(plan.Members), d.now()
	if !plan.Changed {
		return nil
	}
	p.Plan++
	d.changed(name)
	for _, a := range plan.Targets {
		p.assignments[a.Key] = a.Worker
	}
	for _, key := range plan.Gone {
		delete(p.assignments, key)
	}
	return nil
}

// Adopt implements tokenstore.Directory.
func (d Directory) Adopt(_ context.Context, name string, worker int64, orphans []tokenstore.Assignment) ([]tokenstore.Key, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.processors[name]
	if p == nil {
		return nil, fmt.Errorf("adopting %d segments of %s: %w", len(orphans), name, tokenstore.ErrNoProcessor)
	}
	var got []tokenstore.Key
	for _, o := range orphans {
		if p.assignments[o.Key] == o.Worker {
			p.assignments[o.Key] = worker
			got = append(got, o.Key)
		}
	}
	slices.SortFunc(got, func(a, b tokenstore.Key) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Segment, b.Segment))
	})
	if len(got) > 0 {
		p.Plan++
		d.changed(name)
	}
	return got, nil
}
