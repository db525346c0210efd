package planner

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/tokenstore"
)

// wantDefinition makes a definition the wanted one.
func (w *world) wantDefinition(id string) {
	w.t.Helper()
	err := w.directory.DeclareProcessor(context.Background(), tokenstore.Processor{Name: processor, Definition: id, Replicas: 2, Live: json.RawMessage("{}")})
	if err != nil {
		w.t.Fatal(err)
	}
}

// start registers a worker of a definition that reports its group, and what it is told to.
func (w *world) start(incarnation int64, definition string, report tokenstore.Report) tokenstore.Worker {
	w.t.Helper()
	report.Groups = map[string]tokenstore.GroupReport{"g": {}}
	worker := tokenstore.Worker{Incarnation: incarnation, Nonce: fmt.Sprintf("00000000-0000-4000-8000-%012d", incarnation), Pod: fmt.Sprintf("pod-%d", incarnation),
		Definition: definition, Handlers: []string{}, State: tokenstore.Active, Report: report}
	if err := w.directory.Register(context.Background(), processor, worker); err != nil {
		w.t.Fatal(err)
	}
	w.beat(worker)
	return worker
}

func (w *world) beat(worker tokenstore.Worker) {
	w.t.Helper()
	if _, err := w.directory.Heartbeat(context.Background(), worker); err != nil {
		w.t.Fatal(err)
	}
}

// claim has a worker claim what it is assigned.
func (w *world) claim(incarnation int64) (claimed int) {
	w.t.Helper()
	view, err := w.directory.View(context.Background(), processor)
	if err != nil {
		w.t.Fatal(err)
	}
	tokens, err := w.store.Tokens(context.Background(), processor)
	if err != nil {
		w.t.Fatal(err)
	}
	mine := map[tokenstore.Key]bool{}
	for _, a := range view.Assignments {
		mine[a.Key] = a.Worker == incarnation
	}
	var claims []tokenstore.Claim
	for _, t := range tokens {
		if mine[t.Key] && t.Owner != incarnation {
			claims = append(claims, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch})
		}
	}
	got, err := w.store.Claim(context.Background(), processor, incarnation, 100, claims)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(got)
}

// die makes a worker's lease over.
func (w *world) die(incarnation int64) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), `UPDATE sluice.worker SET lease_until = clock_timestamp() - interval '11 min' WHERE incarnation = $1`, incarnation); err != nil {
		w.t.Fatal(err)
	}
}

var proven = tokenstore.Report{Proven: true}

func (w *world) members(p *Planner) []int64 {
	w.t.Helper()
	w.step(p)
	view, err := w.directory.View(context.Background(), processor)
	if err != nil {
		w.t.Fatal(err)
	}
	return view.Processor.Members
}

func TestANewDefinitionIsOnProbationUntilItIsProven(t *testing.T) {
	w, p := newWorld(t, 8)
	w.start(1, "d", proven)
	w.start(2, "d", proven)
	w.step(p)
	w.wantDefinition("e")
	fresh := w.start(3, "e", tokenstore.Report{})
	if got := w.members(p); fmt.Sprint(got) != "[1 2]" {
		t.Fatalf("full members are %v: one on probation must not turn ready", got)
	}
	w.expect(map[int64]int{1: 3, 2: 4, 3: 1})
	fresh.Report.Proven = true
	w.beat(fresh)
	if got := w.members(p); fmt.Sprint(got) != "[1 2 3]" {
		t.Fatalf("full members are %v", got)
	}
	w.expect(map[int64]int{2: 4, 3: 4})
	w.wantDefinition("f")
	idle := w.start(5, "f", tokenstore.Report{})
	idle.Report.Idle = true
	w.beat(idle)
	if got := w.members(p); fmt.Sprint(got) != "[1 2 3 5]" {
		t.Fatalf("full members are %v: one that stood idle may turn ready", got)
	}
	w.wantDefinition("d")
	w.start(4, "d", tokenstore.Report{})
	if got := w.members(p); fmt.Sprint(got) != "[1 2 3 4 5]" {
		t.Fatalf("full members are %v: what was proven before stays so", got)
	}
}

func TestTwoDeathsPutADefinitionIntoQuarantine(t *testing.T) {
	w, p := newWorld(t, 8)
	w.start(1, "d", proven)
	w.start(2, "d", proven)
	w.step(p)
	w.claim(1)
	w.claim(2)
	w.wantDefinition("e")
	for _, incarnation := range []int64{3, 4} { // a container that is started again is another worker
		w.start(incarnation, "e", tokenstore.Report{})
		w.step(p)
		if err := w.release(1); err != nil {
			t.Fatal(err)
		}
		if n := w.claim(incarnation); n != 1 {
			t.Fatalf("%d claimed %d segments on probation", incarnation, n)
		}
		w.die(incarnation)
		w.step(p)
		w.claim(1)
		w.claim(2)
	}
	w.start(5, "e", tokenstore.Report{})
	w.step(p)
	w.expect(map[int64]int{1: 4, 2: 4})

	w.die(1)
	w.die(2)
	w.step(p)
	w.expect(map[int64]int{5: 8}) // with nobody to protect, it is better to try
	w.start(6, "d", proven)
	w.step(p)
	w.expect(map[int64]int{6: 8})
	w.wantDefinition("d")
	w.wantDefinition("e")                                         // anew
	p.Now = func() time.Time { return time.Now().Add(time.Hour) } // segments that were taken over may move again
	w.step(p)
	w.expect(map[int64]int{5: 1, 6: 7})
}

// release gives up what a worker owns and is not assigned any more.
func (w *world) release(incarnation int64) error {
	_, err := w.pool.Exec(context.Background(), `UPDATE sluice.token t SET owner = 0, version = version + 1 WHERE owner = $1
		AND NOT EXISTS (SELECT FROM sluice.assignment a WHERE a.group_name = t.group_name AND a.segment = t.segment AND a.worker = $1)`, incarnation)
	return err
}

func TestAnUnprovenDefinitionThatFailsAtEventsIsQuarantinedAtOnce(t *testing.T) {
	w, p := newWorld(t, 8)
	w.start(1, "d", proven)
	w.wantDefinition("e")
	bad := w.start(2, "e", tokenstore.Report{})
	w.step(p)
	w.expect(map[int64]int{1: 7, 2: 1})
	bad.Report.Failing = "no such column"
	w.beat(bad)
	w.step(p)
	w.expect(map[int64]int{1: 8})
	bad.Report.Proven = true
	w.beat(bad)
	w.step(p)
	if shares := w.shares(); shares[2] < 4 { // it is the wanted definition, and works after all
		t.Fatalf("shares %v", shares)
	}
}

func TestAWorkerWhosePodIsToGoIsPlannedWithout(t *testing.T) {
	w, p := newWorld(t, 9)
	for i := range int64(3) {
		w.start(i+1, "d", proven)
	}
	w.step(p)
	w.expect(map[int64]int{1: 3, 2: 3, 3: 3})
	if err := w.directory.Leave(context.Background(), processor, []string{"pod-2"}); err != nil {
		t.Fatal(err)
	}
	w.step(p)
	if shares := w.shares(); shares[2] != 0 || shares[1]+shares[3] != 9 {
		t.Fatalf("shares %v", shares)
	}
	if err := w.directory.Leave(context.Background(), processor, nil); err != nil {
		t.Fatal(err)
	}
	w.step(p)
	w.expect(map[int64]int{1: 3, 2: 3, 3: 3})
}

// Whoever is named may turn ready, and then Kubernetes removes another pod.
func TestAPlanNamesAWorkerOnceItHasReportedItsGroups(t *testing.T) {
	w, p := newWorld(t, 4)
	worker := tokenstore.Worker{Incarnation: 1, Nonce: "00000000-0000-4000-8000-000000000001", Pod: "pod-1", Definition: "d", Handlers: []string{}, State: tokenstore.Active}
	if err := w.directory.Register(context.Background(), processor, worker); err != nil {
		t.Fatal(err)
	}
	named := func() []int64 {
		w.step(p)
		view, err := w.directory.View(context.Background(), processor)
		if err != nil {
			t.Fatal(err)
		}
		return view.Processor.Members
	}
	if got := named(); len(got) != 0 {
		t.Errorf("named are %v, before the worker has reported its groups and was given any segment", got)
	}
	worker.Report.Groups = map[string]tokenstore.GroupReport{"g": {}}
	w.beat(worker)
	if got := named(); len(got) != 1 {
		t.Errorf("named are %v, when it has reported its groups", got)
	}
	w.expect(map[int64]int{1: 4})
}

func TestAWorkerOnWhichEverythingFailsGetsNothingWhileAnotherIsFit(t *testing.T) {
	unfit := &tokenstore.Fault{Reason: "NoSpace"}
	of := func(n int64, change ...func(*tokenstore.Worker)) tokenstore.Worker {
		w := tokenstore.Worker{Incarnation: n, Definition: "a", State: tokenstore.Active, Alive: true, Proven: true}
		for _, c := range change {
			c(&w)
		}
		return w
	}
	sick := func(w *tokenstore.Worker) { w.Report.Unfit = unfit }
	for name, tc := range map[string]struct {
		others []tokenstore.Worker
		want   assignment.State
	}{
		"another is fit":          {[]tokenstore.Worker{of(2)}, assignment.Quarantined},
		"all are unfit":           {[]tokenstore.Worker{of(2, sick)}, assignment.Active},
		"it is alone":             {nil, assignment.Active},
		"the fit one is dead":     {[]tokenstore.Worker{of(2, func(w *tokenstore.Worker) { w.Alive = false })}, assignment.Active},
		"the fit one leaves":      {[]tokenstore.Worker{of(2, func(w *tokenstore.Worker) { w.LeavingFor = time.Second })}, assignment.Active},
		"the fit one may be sick": {[]tokenstore.Worker{of(2, func(w *tokenstore.Worker) { w.Proven, w.Definition = false, "b" })}, assignment.Active},
	} {
		t.Run(name, func(t *testing.T) {
			me := of(1, sick)
			if got := Standing(append(tc.others, me), me); got != tc.want {
				t.Errorf("got %s", got)
			}
		})
	}
	leaving := of(1, sick, func(w *tokenstore.Worker) { w.State = tokenstore.Draining })
	if got := Standing([]tokenstore.Worker{leaving, of(2)}, leaving); got != assignment.Draining {
		t.Errorf("one that leaves is %s", got)
	}
}
