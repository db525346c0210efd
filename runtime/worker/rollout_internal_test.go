package worker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/memory"
)

const rolled = "test/default/rolled"

// rollout plays a rolling update by the code that plans and the code by which workers decide, over a store in memory. The pods, the
// operator and Kubernetes, which replaces one pod after the other, each act at times that chance gives them.
type rollout struct {
	t        *rapid.T
	chance   *rand.Rand
	began    time.Time
	now      time.Time
	database *memory.Database
	planner  planner.Planner
	replicas int
	pods     []*rolledPod
	next     int
	costs    map[string]int // by pod, as Kubernetes knows them
	telling  func()         // tells Kubernetes what the operator saw when it looked last
	due      []*actor
	moved    map[tokenstore.Key]int
	owner    map[tokenstore.Key]string // the pod that owned it last
	unowned  map[tokenstore.Key]time.Time
	even     bool          // the last plan had nothing to move
	longest  time.Duration // that a segment stood without a live owner
	log      strings.Builder
}

// actor acts again and again, after times between two bounds.
type actor struct {
	at          time.Time
	least, most time.Duration
	act         func()
	over        func() bool
}

// rolledPod is a pod with its worker.
type rolledPod struct {
	*rollout
	name       string
	session    tokenstore.Session
	self       tokenstore.Worker
	held       map[tokenstore.Key]int64
	orphaned   map[tokenstore.Key]time.Time
	standing   assignment.State
	readiness  readiness
	ready      bool
	reported   bool // it has beaten, and so told of its groups
	drainFrom  time.Time
	terminated bool // Kubernetes has asked it to end
	ended      bool
}

func newRollout(t *rapid.T, replicas int, groups []tokenstore.Group) *rollout {
	r := &rollout{t: t, chance: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), began: time.Unix(1000, 0), now: time.Unix(1000, 0), replicas: replicas, costs: map[string]int{},
		moved: map[tokenstore.Key]int{}, owner: map[tokenstore.Key]string{}, unowned: map[tokenstore.Key]time.Time{}}
	r.database = memory.New(func() time.Time { return r.now })
	r.planner = planner.Planner{Directory: r.database.Directory(), Store: r.database.Store(), Processor: rolled, Name: operatorName + "test",
		Now: func() time.Time { return r.now }}
	r.want("a")
	r.must(r.database.Store().Declare(context.Background(), tokenstore.Owner{Processor: rolled}, groups, nil, func(string) (progress.Progress, error) { return progress.Progress{}, nil }))
	return r
}

func (r *rollout) must(err error) {
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.log.String())
	}
}

func (r *rollout) say(format string, args ...any) {
	fmt.Fprintf(&r.log, "%6d ms  %s\n", r.now.Sub(r.began).Milliseconds(), fmt.Sprintf(format, args...))
}

func (r *rollout) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.chance.Int64N(int64(most-least)))
}

func (r *rollout) want(definition string) {
	r.must(r.database.Directory().DeclareProcessor(context.Background(), tokenstore.Processor{Name: rolled, Definition: definition, Replicas: r.replicas, Live: []byte("{}")}))
}

// often has somebody act until it is over.
func (r *rollout) often(least, most time.Duration, over func() bool, act func()) {
	r.due = append(r.due, &actor{at: r.now.Add(r.between(least, most)), least: least, most: most, act: act, over: over})
}

func never() bool { return false }

// run lets everybody act in turn until done says true, at most for a time.
func (r *rollout) run(limit time.Duration, done func() bool) {
	for until := r.now.Add(limit); !done(); {
		r.due = slices.DeleteFunc(r.due, func(a *actor) bool { return a.over() })
		first := slices.MinFunc(r.due, func(a, b *actor) int { return a.at.Compare(b.at) })
		if r.now = first.at; r.now.After(until) {
			r.t.Fatalf("it does not end within %s\n%s", limit, r.log.String())
		}
		first.act()
		first.at = r.now.Add(r.between(first.least, first.most))
		r.look()
	}
}

// look counts who got what from whom, and how long segments are without a live owner.
func (r *rollout) look() {
	tokens, err := r.database.Store().Tokens(context.Background(), rolled)
	r.must(err)
	for _, t := range tokens {
		var owner *rolledPod
		for _, p := range r.pods {
			if p.self.Incarnation == t.Owner && !p.ended {
				owner = p
			}
		}
		if owner == nil {
			if _, known := r.unowned[t.Key]; !known {
				r.unowned[t.Key] = r.now
			}
			continue
		}
		if since, known := r.unowned[t.Key]; known {
			r.longest = max(r.longest, r.now.Sub(since))
			delete(r.unowned, t.Key)
		}
		if was, known := r.owner[t.Key]; known && was != owner.name {
			r.moved[t.Key]++
			r.say("%v: %s to %s", t.Key, was, owner.name)
		}
		r.owner[t.Key] = owner.name
	}
}

// come starts a pod.
func (r *rollout) come(definition string) *rolledPod {
	r.next++
	p := &rolledPod{rollout: r, name: fmt.Sprintf("%s-%d", definition, r.next), held: map[tokenstore.Key]int64{}, orphaned: map[tokenstore.Key]time.Time{}}
	member, session := r.database.Join()
	p.session = session
	p.self = tokenstore.Worker{Incarnation: member.Identity().Incarnation, Nonce: p.name, Pod: p.name, Definition: definition, SessionLock: true, State: tokenstore.Active}
	r.must(r.database.Directory().Register(context.Background(), rolled, p.self))
	r.pods = append(r.pods, p)
	r.say("%s registers", p.name)
	over := func() bool { return p.ended }
	r.often(time.Millisecond, 100*time.Millisecond, over, p.beat)
	r.often(time.Millisecond, 100*time.Millisecond, over, p.turn)
	return p
}

func (p *rolledPod) beat() {
	groups, err := p.database.Store().Groups(context.Background(), rolled)
	p.must(err)
	p.self.Report.Groups = map[string]tokenstore.GroupReport{}
	for _, g := range groups {
		p.self.Report.Groups[g.Name] = tokenstore.GroupReport{}
	}
	p.self.Report.Proven = p.self.Report.Proven || len(p.held) > 0 && p.chance.IntN(2) == 0
	p.self.Report.Ready = p.ready
	_, err = p.database.Directory().Heartbeat(context.Background(), p.self)
	p.must(err)
	p.reported = true
}

// turn is what a worker does when it looks at the directory.
func (p *rolledPod) turn() {
	if !p.reported {
		return
	}
	ctx, directory, store := context.Background(), p.database.Directory(), p.database.Store()
	view, err := directory.View(ctx, rolled)
	p.must(err)
	tokens, err := store.Tokens(ctx, rolled)
	p.must(err)
	p.standing = planner.Standing(view.Workers, view.Workers[slices.IndexFunc(view.Workers, func(w tokenstore.Worker) bool { return w.Incarnation == p.self.Incarnation })])
	d := decide(situation{self: p.self.Incarnation, draining: p.terminated, view: view, tokens: tokens, held: p.held,
		refused: func(string) bool { return false }, now: p.now, standing: p.standing, orphaned: p.orphaned})
	p.carryOut(&d, tokens)
	if p.terminated {
		if len(p.held) == 0 || p.now.Sub(p.drainFrom) > 2*time.Second {
			p.end()
		}
		return
	}
	if d.named {
		p.readiness.note(view, p.self.Incarnation, p.now)
	}
	if !p.ready && d.named && d.missing == 0 && p.standing == assignment.Active && !p.readiness.waitsForCosts(view, d.definition, p.now) {
		p.ready = true
		p.say("%s is ready with %d segments", p.name, len(p.held))
	}
}

func (p *rolledPod) carryOut(d *decision, tokens []tokenstore.Token) {
	ctx, directory, store := context.Background(), p.database.Directory(), p.database.Store()
	for _, key := range d.drop {
		delete(p.held, key)
	}
	p.release(d.release)
	epochs := map[tokenstore.Key]int64{}
	for _, t := range tokens {
		epochs[t.Key] = t.Epoch
	}
	got, err := directory.Adopt(ctx, rolled, p.self.Incarnation, d.adopt)
	p.must(err)
	for _, key := range got {
		p.say("%s adopts %v", p.name, key)
		d.claim = append(d.claim, tokenstore.Claim{Key: key, Epoch: epochs[key]})
	}
	for i := range d.claim {
		d.claim[i].Sequencing = tokens[slices.IndexFunc(tokens, func(t tokenstore.Token) bool { return t.Key == d.claim[i].Key })].Sequencing
	}
	claimed, err := store.Claim(ctx, rolled, p.self.Incarnation, d.definition, d.claim)
	p.must(err)
	for _, t := range claimed {
		p.held[t.Key] = t.Epoch
	}
	d.missing += len(got) - len(claimed)
}

func (p *rolledPod) release(keys []tokenstore.Key) {
	store := p.database.Store()
	tokens, err := store.Tokens(context.Background(), rolled)
	p.must(err)
	for _, t := range tokens {
		if t.Owner == p.self.Incarnation && slices.Contains(keys, t.Key) {
			p.must(store.Advance(context.Background(), []tokenstore.Advance{{Key: t.Key, Epoch: t.Epoch, Version: t.Version, Parts: t.Parts, Release: true}}))
		}
	}
	for _, key := range keys {
		delete(p.held, key)
	}
}

// terminate is SIGTERM.
func (p *rolledPod) terminate() {
	p.say("%s is asked to end, with %d segments; costs %v", p.name, len(p.held), p.costs)
	p.terminated, p.ready, p.drainFrom, p.self.State = true, false, p.now, tokenstore.Draining
	p.must(p.database.Directory().SetState(context.Background(), p.self.Incarnation, tokenstore.Draining))
}

func (p *rolledPod) end() {
	p.say("%s ends, with %d segments", p.name, len(p.held))
	p.release(slices.Collect(maps.Keys(p.held)))
	p.must(p.database.Directory().SetState(context.Background(), p.self.Incarnation, tokenstore.Ended))
	p.session.Close()
	p.ended = true
}

// kill is SIGKILL.
func (p *rolledPod) kill() {
	p.say("%s is killed, with %d segments", p.name, len(p.held))
	for key, owner := range p.owner {
		if owner == p.name {
			p.moved[key] = -1 // whoever takes it over may have to give it to a new pod yet
		}
	}
	p.session.Close()
	p.ended = true
}

// plans is the operator's planner.
func (r *rollout) plans() {
	o, err := r.planner.Step(context.Background())
	if planner.IsOutdated(err) {
		return
	}
	r.must(err)
	r.even = len(o.Moves) == 0 && r.count(isReady) == r.replicas
	for _, m := range o.Moves {
		r.say("plan: %s/%d from %d to %d: %s", m.Group, m.ID, m.From, m.To, m.Reason)
	}
}

// tellCosts is the operator telling Kubernetes, some time after it looked, which pods to remove first.
func (r *rollout) tellCosts() {
	if r.telling != nil {
		r.telling()
		r.telling = nil
		return
	}
	view, err := r.database.Directory().View(context.Background(), rolled)
	r.must(err)
	costs := map[int64]int{}
	for _, a := range view.Assignments {
		costs[a.Worker]++
	}
	r.telling = func() {
		for _, w := range view.Workers {
			r.costs[w.Pod] = costs[w.Incarnation]
		}
		r.must(r.database.Directory().Acknowledge(context.Background(), rolled, view.Processor.Plan))
	}
}

// count counts pods that Kubernetes has not asked to end.
func (r *rollout) count(is func(*rolledPod) bool) (n int) {
	for _, p := range r.pods {
		if !p.terminated && !p.ended && is(p) {
			n++
		}
	}
	return n
}

func isReady(p *rolledPod) bool { return p.ready }
func isNew(p *rolledPod) bool   { return p.self.Definition == "b" }
func isAny(*rolledPod) bool     { return true }

// deploys is a Deployment with maxSurge 1 and maxUnavailable 0.
func (r *rollout) deploys() {
	if r.count(isNew) < r.replicas && r.count(isAny) <= r.replicas {
		r.come("b")
	}
	if r.count(isReady) <= r.replicas {
		return
	}
	var victims []*rolledPod
	for _, p := range r.pods {
		if !isNew(p) && !p.terminated && !p.ended {
			victims = append(victims, p)
		}
	}
	if len(victims) > 0 {
		slices.MinFunc(victims, func(a, b *rolledPod) int {
			return cmp.Or(-cmp.Compare(number(!a.ready), number(!b.ready)), cmp.Compare(r.costs[a.name], r.costs[b.name]))
		}).terminate()
	}
}

func number(is bool) int {
	if is {
		return 1
	}
	return 0
}

// proven reports whether the old definition has handled something. Until then a new definition is
// not on probation. If the old one handled its first event in the middle of a rollout, the new one
// would be on probation from then on, and would give segments back.
func (r *rollout) proven() bool {
	view, err := r.database.Directory().View(context.Background(), rolled)
	r.must(err)
	return slices.ContainsFunc(view.Workers, func(w tokenstore.Worker) bool { return w.Proven })
}

// play starts the pods of one definition and replaces them by those of another.
func (r *rollout) play(slowest time.Duration, faults int) {
	for range r.replicas {
		r.come("a")
	}
	r.often(5*time.Millisecond, 100*time.Millisecond, never, r.plans)
	r.run(time.Minute, func() bool { return r.even && r.settled() && r.proven() })
	clear(r.moved)
	r.longest = 0
	r.say("rollout")
	r.want("b")
	r.due = slices.DeleteFunc(r.due, func(a *actor) bool { return a.most == 100*time.Millisecond && a.least == 5*time.Millisecond })
	r.often(5*time.Millisecond, slowest, never, r.plans)
	r.often(5*time.Millisecond, slowest, never, r.tellCosts)
	r.often(20*time.Millisecond, 2*time.Second, never, r.deploys)
	for range faults {
		killed := false
		r.often(time.Millisecond, 5*time.Second, func() bool { return killed }, func() {
			alive := slices.DeleteFunc(slices.Clone(r.pods), func(p *rolledPod) bool { return p.ended })
			if len(alive) > 0 {
				alive[r.chance.IntN(len(alive))].kill()
				killed = true
			}
		})
	}
	r.run(5*time.Minute, func() bool {
		return r.count(isNew) == r.replicas && r.count(isAny) == r.replicas && r.even && r.settled()
	})
}

// settled reports whether everybody holds what it is assigned.
func (r *rollout) settled() bool {
	view, err := r.database.Directory().View(context.Background(), rolled)
	r.must(err)
	pods := map[int64]string{}
	for _, p := range r.pods {
		pods[p.self.Incarnation] = p.name
	}
	for _, a := range view.Assignments {
		if a.Worker == 0 || r.owner[a.Key] != pods[a.Worker] {
			return false
		}
	}
	return len(view.Assignments) == len(r.owner)
}

// Whoever is slow, Kubernetes is to remove pods that have nothing left, so that without faults each
// segment moves once. A pod that is killed may cost a segment two moves more: it is adopted, or
// makes room for what was, and is evened out later. An operator that is slower than costsWithin is
// not waited for.
func TestARolloutMovesEachSegmentOnceWhateverIsSlow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var groups []tokenstore.Group
		for i := range rapid.IntRange(1, 3).Draw(t, "groups") {
			groups = append(groups, tokenstore.Group{Name: fmt.Sprint("g", i), Segments: rapid.SampledFrom([]int{1, 4, 8, 16}).Draw(t, "segments")})
		}
		r := newRollout(t, rapid.IntRange(1, 5).Draw(t, "replicas"), groups)
		faults := rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "faults")
		r.play(rapid.SampledFrom([]time.Duration{50, 300, 1000}).Draw(t, "slowest")*time.Millisecond, faults)
		if r.longest > 3*time.Second {
			t.Fatalf("a segment stood without an owner for %s\n%s", r.longest, r.log.String())
		}
		for key, n := range r.moved {
			if n > 1+2*faults {
				t.Fatalf("%v moved %d times, with %d pods killed\n%s", key, n, faults, r.log.String())
			}
		}
	})
}

func TestANewPodWaitsForTheCostsOfThePlanThatGaveItItsShare(t *testing.T) {
	began := time.Unix(1000, 0)
	view := tokenstore.View{Workers: []tokenstore.Worker{{Incarnation: 2, Alive: true, DefinitionNumber: 1}}}
	view.Processor.Planner = operatorName + "test"
	var r readiness
	for _, step := range []struct {
		what         string
		plan, costed int64
		assigned     []uint32
		after        time.Duration
		waits        bool
	}{
		{"named, without segments", 4, 3, nil, 0, true},
		{"the costs are known", 4, 4, nil, 0, false},
		{"given segments, which another pod has lost", 5, 4, []uint32{0, 1}, 0, true},
		{"a plan that moves others' segments", 6, 5, []uint32{0, 1}, time.Second, false},
		{"given one more", 7, 6, []uint32{0, 1, 2}, 2 * time.Second, true},
		{"the operator does not tell", 7, 6, []uint32{0, 1, 2}, 3*time.Second + costsWithin, false},
	} {
		view.Processor.Plan, view.Processor.Costed, view.Assignments = step.plan, step.costed, []tokenstore.Assignment{{Key: tokenstore.Key{Group: "g", Segment: 9}, Worker: 2}}
		for _, id := range step.assigned {
			view.Assignments = append(view.Assignments, tokenstore.Assignment{Key: tokenstore.Key{Group: "g", Segment: id}, Worker: self})
		}
		r.note(view, self, began.Add(step.after))
		if waits := r.waitsForCosts(view, 2, began.Add(step.after)); waits != step.waits {
			t.Errorf("%s: waits %v, want %v", step.what, waits, step.waits)
		}
	}
}
