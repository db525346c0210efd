package tokenstoretest

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// worker is one of the definition d1 with this incarnation, without a session lock.
func worker(incarnation int64) tokenstore.Worker {
	return tokenstore.Worker{Incarnation: incarnation, Nonce: "4e6f6e63-6520-4f66-2054-657374732121", Pod: "pod", Definition: "d1", Handlers: []string{},
		Version: "v", Protocol: 1, State: tokenstore.Active}
}

func (w *world) view() tokenstore.View {
	w.Helper()
	v, err := w.Directory.View(w.ctx, processor)
	w.must(err)
	return v
}

func (w *world) heartbeat(as tokenstore.Worker) tokenstore.HeartbeatResponse {
	w.Helper()
	p, err := w.Directory.Heartbeat(w.ctx, as)
	w.must(err)
	return p
}

func (w *world) register(as tokenstore.Worker) tokenstore.Worker {
	w.Helper()
	w.must(w.Directory.Register(w.ctx, processor, as))
	return as
}

var workers = map[string]func(*world){
	"only a change raises the revision, and a definition is numbered by when it was wanted": func(w *world) {
		if _, err := w.Directory.View(w.ctx, processor); !errors.Is(err, tokenstore.ErrNoProcessor) {
			w.Errorf("before it is declared: %v", err)
		}
		w.define("one")
		first := w.view().Processor
		w.define("one")
		if again := w.view().Processor; again.Revision != first.Revision || again.Number != 1 {
			w.Errorf("declared twice: %+v, then %+v", first, again)
		}
		w.define("two")
		w.define("one")
		if back := w.view().Processor; back.Number != 3 || back.Revision != first.Revision+2 {
			w.Errorf("after one, two, one: %+v", back)
		}
	},
	"a worker lives for a lease, and another one with each beat": func(w *world) {
		w.processor()
		me := w.register(worker(1))
		alive := func() bool { w.Helper(); return w.view().Workers[0].Alive }
		if !alive() {
			w.Error("registered, it is not alive")
		}
		w.must(w.Elapse(w.ctx, tokenstore.Lease-time.Second))
		if !alive() {
			w.Error("a second before its lease ends, it is dead")
		}
		w.heartbeat(me)
		w.must(w.Elapse(w.ctx, tokenstore.Lease-time.Second))
		if !alive() {
			w.Error("a beat gave it no other lease")
		}
		w.must(w.Elapse(w.ctx, 2*time.Second))
		if v := w.view().Workers[0]; v.Alive || v.Leased {
			w.Errorf("after its lease: %+v", v)
		}
		if w.heartbeat(me); !alive() {
			w.Error("back again, it is dead still")
		}
	},
	"a worker is dead when its session lock is gone": func(w *world) {
		w.processor()
		me, session := w.joined()
		if v := w.view().Workers[0]; !v.Alive {
			w.Fatalf("with its lock: %+v", v)
		}
		w.must(session.Close())
		for w.view().Workers[0].Alive { // a server notices the end of a connection by itself
		}
		if v := w.view().Workers[0]; !v.Leased {
			w.Error("its lease has ended too")
		}
		if p := w.heartbeat(me); p.Alive != 0 || p.Known != 1 {
			w.Errorf("the response: %+v", p)
		}
	},
	"who has ended has ended": func(w *world) {
		w.processor()
		me := w.register(worker(1))
		w.must(w.Directory.SetState(w.ctx, 1, tokenstore.Draining))
		w.same("state", tokenstore.Draining, w.view().Workers[0].State)
		w.must(w.Directory.SetState(w.ctx, 1, tokenstore.Ended))
		w.must(w.Directory.SetState(w.ctx, 1, tokenstore.Active))
		if _, err := w.Directory.Heartbeat(w.ctx, me); !errors.Is(err, tokenstore.ErrWorkerEnded) {
			w.Errorf("a beat after the end: %v", err)
		}
		if v := w.view(); len(v.Workers) != 0 {
			w.Errorf("workers %+v", v.Workers)
		}
		stranger := worker(2)
		if _, err := w.Directory.Heartbeat(w.ctx, stranger); !errors.Is(err, tokenstore.ErrWorkerEnded) {
			w.Errorf("a beat of nobody: %v", err)
		}
		other := w.register(worker(3))
		other.Nonce = "00000000-0000-4000-8000-000000000000"
		if _, err := w.Directory.Heartbeat(w.ctx, other); !errors.Is(err, tokenstore.ErrWorkerEnded) {
			w.Errorf("a beat of an incarnation that was given twice: %v", err)
		}
		if err := w.Directory.Register(w.ctx, processor, worker(3)); err == nil {
			w.Error("an incarnation is registered twice")
		}
	},
	"a worker of no processor is told so": func(w *world) {
		me := w.register(worker(1))
		if _, err := w.Directory.Heartbeat(w.ctx, me); !errors.Is(err, tokenstore.ErrNoProcessor) {
			w.Errorf("a beat: %v", err)
		}
		w.processor()
		w.must(w.Directory.RemoveProcessor(w.ctx, tokenstore.Owner{Processor: processor}))
		if _, err := w.Directory.Heartbeat(w.ctx, me); !errors.Is(err, tokenstore.ErrWorkerEnded) {
			w.Errorf("a beat after the processor was removed: %v", err)
		}
	},
	"what a worker says of its definition stays with that": func(w *world) {
		w.processor()
		me := w.register(worker(1))
		me.Report = tokenstore.Report{Ready: true, Idle: true, Groups: map[string]tokenstore.GroupReport{view: {Rate: 5}}}
		w.heartbeat(me)
		if v := w.view().Workers[0]; !v.Idle || v.Proven || v.Report.Groups[view].Rate != 5 || !v.Report.Ready {
			w.Errorf("idle: %+v", v)
		}
		me.Report.Proven = true
		w.heartbeat(me)
		me.Report = tokenstore.Report{Failing: "event 3"}
		w.heartbeat(me)
		if v := w.view().Workers[0]; !v.Proven || v.Quarantined {
			w.Errorf("proven: %+v", v)
		}
		w.define("d2")
		next := worker(2)
		next.Definition, next.Report.Failing = "d2", "event 3"
		w.register(next)
		w.heartbeat(next)
		if v := w.view(); !v.Processor.Quarantined || !v.Workers[1].Quarantined || v.Workers[0].Quarantined {
			w.Errorf("failing: %+v", v)
		}
		w.define("d1")
		w.define("d2")
		if v := w.view(); v.Processor.Quarantined {
			w.Error("wanted anew, it is in quarantine still")
		}
	},
	"in a rollout, deaths with segments speak against a definition that is not proven": func(w *world) {
		w.processor()
		w.declare(1)
		w.register(worker(1))
		w.define("d2")
		for n := int64(2); n <= 3; n++ {
			victim := worker(n)
			victim.Definition = "d2"
			w.register(victim)
			w.claim(n, w.tokens()...)
			if w.view().Processor.Quarantined {
				w.Errorf("in quarantine before the death of worker %d", n)
			}
			w.claim(1, w.tokens()...)
		}
		if !w.view().Processor.Quarantined {
			w.Error("two deaths, and no quarantine")
		}
	},
	"who is to leave is named, for as long as it is": func(w *world) {
		w.processor()
		for n, pod := range map[int64]string{1: "a", 2: "b"} {
			as := worker(n)
			as.Pod = pod
			w.register(as)
		}
		w.must(w.Directory.Leave(w.ctx, processor, []string{"b"}))
		w.must(w.Elapse(w.ctx, time.Second))
		if v := w.view().Workers; v[0].LeavingFor != 0 || v[1].LeavingFor < time.Second {
			w.Errorf("leaving for %s and %s", v[0].LeavingFor, v[1].LeavingFor)
		}
		w.must(w.Directory.Leave(w.ctx, processor, nil))
		if v := w.view().Workers; v[1].LeavingFor != 0 {
			w.Errorf("it stays, and is leaving for %s", v[1].LeavingFor)
		}
	},
}

func plan(last int64, targets ...tokenstore.Assignment) tokenstore.Plan {
	return tokenstore.Plan{Planner: "test", Last: last, Members: []int64{1, 2}, Changed: len(targets) > 0, Targets: targets}
}

var plans = map[string]func(*world){
	"a plan is told with the next beat, and lapses": func(w *world) {
		w.processor()
		me := w.register(worker(1))
		before := w.heartbeat(me)
		if before.Planned {
			w.Errorf("before any plan: %+v", before)
		}
		target := tokenstore.Assignment{Key: tokenstore.Key{Group: view, Segment: 3}, Worker: 1}
		w.must(w.Directory.Assign(w.ctx, processor, plan(before.Plan, target)))
		if after := w.heartbeat(me); after.Plan != before.Plan+1 || !after.Planned || after.Alive != 1 || after.Planner != "test" {
			w.Errorf("after it: %+v", after)
		}
		v := w.view()
		w.same("assignments", []tokenstore.Assignment{target}, v.Assignments)
		w.same("members", []int64{1, 2}, v.Processor.Members)
		w.must(w.Elapse(w.ctx, tokenstore.PlannerTimeout+time.Second))
		if late := w.heartbeat(me); late.Planned {
			w.Errorf("nobody has renewed it: %+v", late)
		}
		w.must(w.Directory.Assign(w.ctx, processor, plan(before.Plan+1)))
		if renewed := w.heartbeat(me); !renewed.Planned || renewed.Plan != before.Plan+1 {
			w.Errorf("renewed: %+v", renewed)
		}
	},
	"a plan of a worker that is dead is nobody's": func(w *world) {
		w.processor()
		me := w.register(worker(1000))
		planner, session := w.joined()
		w.must(w.Directory.Assign(w.ctx, processor, tokenstore.Plan{Planner: fmt.Sprint(tokenstore.WorkerPlans, planner.Incarnation), Members: []int64{}}))
		if p := w.heartbeat(me); !p.Planned {
			w.Errorf("while it lives: %+v", p)
		}
		w.must(session.Close())
		for w.heartbeat(me).Planned { // until the server has noticed
		}
	},
	"a plan that was made on an older one is refused": func(w *world) {
		w.processor()
		key := tokenstore.Key{Group: view}
		w.must(w.Directory.Assign(w.ctx, processor, plan(0, tokenstore.Assignment{Key: key, Worker: 1})))
		if err := w.Directory.Assign(w.ctx, processor, plan(0, tokenstore.Assignment{Key: key, Worker: 2})); !errors.Is(err, tokenstore.ErrPlanOutdated) {
			w.Errorf("a plan on an older one: %v", err)
		}
		if err := w.Directory.Assign(w.ctx, "test/default/none", plan(0)); !errors.Is(err, tokenstore.ErrPlanOutdated) {
			w.Errorf("a plan for nobody: %v", err)
		}
		w.must(w.Directory.Assign(w.ctx, processor, tokenstore.Plan{Last: 1, Members: []int64{}, Changed: true, Gone: []tokenstore.Key{key}}))
		if v := w.view(); len(v.Assignments) != 0 || v.Processor.Plan != 2 {
			w.Errorf("%+v", v)
		}
	},
	"of many plans on one, one is written": func(w *world) {
		w.processor()
		written := 0
		for _, err := range together(8, func(i int) error {
			return w.Directory.Assign(w.ctx, processor, plan(0, tokenstore.Assignment{Key: tokenstore.Key{Group: view}, Worker: int64(i)}))
		}) {
			if err == nil {
				written++
			} else if !errors.Is(err, tokenstore.ErrPlanOutdated) {
				w.Error(err)
			}
		}
		w.same("written", 1, written)
	},
	"orphans are adopted from the assignee named, and that is a plan": func(w *world) {
		w.processor()
		key, other := tokenstore.Key{Group: view}, tokenstore.Key{Group: view, Segment: 1}
		w.must(w.Directory.Assign(w.ctx, processor, plan(0, tokenstore.Assignment{Key: key, Worker: 1})))
		if got, err := w.Directory.Adopt(w.ctx, processor, 3, []tokenstore.Assignment{{Key: key, Worker: 2}}); err != nil || len(got) != 0 {
			w.Errorf("from one who is not the assignee: %v, %v", got, err)
		}
		got, err := w.Directory.Adopt(w.ctx, processor, 3, []tokenstore.Assignment{{Key: key, Worker: 1}, {Key: other}})
		w.must(err)
		w.same("adopted", []tokenstore.Key{key, other}, got)
		w.same("assignments", []tokenstore.Assignment{{Key: key, Worker: 3}, {Key: other, Worker: 3}}, w.view().Assignments)
		if err := w.Directory.Assign(w.ctx, processor, plan(1)); !errors.Is(err, tokenstore.ErrPlanOutdated) {
			w.Errorf("a plan that does not know of it: %v", err)
		}
		if _, err := w.Directory.Adopt(w.ctx, "test/default/none", 3, []tokenstore.Assignment{{Key: key}}); !errors.Is(err, tokenstore.ErrNoProcessor) {
			w.Errorf("of no processor: %v", err)
		}
	},
	"of many adopters, one gets each orphan": func(w *world) {
		w.processor()
		key := tokenstore.Key{Group: view}
		adopted := make([]int, 8)
		for _, err := range together(len(adopted), func(i int) error {
			got, err := w.Directory.Adopt(w.ctx, processor, int64(i+1), []tokenstore.Assignment{{Key: key}})
			adopted[i] = len(got)
			return err
		}) {
			w.must(err)
		}
		sum := 0
		for _, n := range adopted {
			sum += n
		}
		w.same("adopted", 1, sum)
	},
	"costs are acknowledged forwards only": func(w *world) {
		w.processor()
		w.must(w.Directory.Acknowledge(w.ctx, processor, 5))
		w.must(w.Directory.Acknowledge(w.ctx, processor, 3))
		w.same("costed", int64(5), w.view().Processor.Costed)
	},
}
