package stores

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
)

var (
	now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	seg = func(n uint32) tokenstore.Key { return tokenstore.Key{Group: "view", Segment: n} }
)

func token(n uint32, owner int64) tokenstore.Token {
	return tokenstore.Token{Key: seg(n), Mask: 3, Owner: owner}
}

func worker(n int64, alive bool, groups map[string]tokenstore.GroupReport) tokenstore.Worker {
	return tokenstore.Worker{Incarnation: n, Pod: "pod", Definition: "d1", Alive: alive, Report: tokenstore.Report{Groups: groups}}
}

func TestGroupsAreCounted(t *testing.T) {
	outcome := planner.Outcome{
		Groups: []tokenstore.Group{{Name: "view", Segments: 4}},
		Tokens: []tokenstore.Token{token(0, 1), token(1, 2), token(2, 0), token(3, 9), {Key: tokenstore.Key{Group: "retired"}}},
		View: tokenstore.View{
			Workers: []tokenstore.Worker{
				worker(1, true, map[string]tokenstore.GroupReport{"view": {Lag: 0.2}}),
				worker(2, true, map[string]tokenstore.GroupReport{"view": {Lag: 70, Blocked: 1}}),
				worker(9, false, map[string]tokenstore.GroupReport{"view": {Lag: 9999, Blocked: 5}}),
			},
			Assignments: []tokenstore.Assignment{{Key: seg(0), Worker: 1}, {Key: seg(1), Worker: 1}, {Key: seg(2), Worker: 2}, {Key: seg(3)}},
		},
	}
	orphaned := orphans(map[tokenstore.Key]time.Time{seg(2): now.Add(-Grace), seg(0): now.Add(-time.Hour)}, outcome, now)
	if diff := cmp.Diff(map[tokenstore.Key]time.Time{seg(2): now.Add(-Grace), seg(3): now, {Group: "retired"}: now}, orphaned); diff != "" {
		t.Error("orphans:", diff)
	}
	want := []Group{{Name: "view", Wanted: 4, Segments: 4, Owned: 2, Moving: 2, Overdue: 1, Lag: 600, Blocked: 1, Covered: 1}}
	if diff := cmp.Diff(want, factsOf(outcome, orphaned, lags{"view": 70}, now).Groups); diff != "" {
		t.Error(diff)
	}
}

// TestAGroupIsNotBlockedByPodsThatHaveNoneOfIt: those of a rollout that is rejected, while the old
// ones handle everything.
func TestAGroupIsNotBlockedByPodsThatHaveNoneOfIt(t *testing.T) {
	rejected := tokenstore.GroupReport{Refused: true, Fault: &tokenstore.Fault{Kind: tokenstore.DefinitionFault, Reason: "TableMissing"}}
	outcome := planner.Outcome{
		Groups: []tokenstore.Group{{Name: "view", Segments: 2}},
		Tokens: []tokenstore.Token{token(0, 1), token(1, 1)},
		View: tokenstore.View{Workers: []tokenstore.Worker{
			worker(1, true, map[string]tokenstore.GroupReport{"view": {Segments: 2}}),
			worker(2, true, map[string]tokenstore.GroupReport{"view": rejected}),
		}},
	}
	if blocked := factsOf(outcome, nil, nil, now).Groups[0].Blocked; blocked != 0 {
		t.Errorf("%d segments are said to stand still", blocked)
	}
	rejected.Segments = 1
	outcome.View.Workers[1].Report.Groups["view"] = rejected
	if blocked := factsOf(outcome, nil, nil, now).Groups[0].Blocked; blocked != 1 {
		t.Errorf("with one that it has, %d segments are said to stand still", blocked)
	}
}

func TestFaultsThatAreTold(t *testing.T) {
	fault := func(kind tokenstore.FaultKind, age time.Duration) *tokenstore.Fault {
		return &tokenstore.Fault{Kind: kind, Message: "m", Lasted: age.Seconds()}
	}
	cases := map[string]struct {
		report tokenstore.GroupReport
		want   bool
	}{
		"an event":                      {tokenstore.GroupReport{Fault: fault(tokenstore.EventFault, 0)}, true},
		"a definition":                  {tokenstore.GroupReport{Fault: fault(tokenstore.DefinitionFault, 0)}, true},
		"contention, a moment":          {tokenstore.GroupReport{Fault: fault(tokenstore.ContentionFault, time.Second)}, false},
		"contention, for long":          {tokenstore.GroupReport{Fault: fault(tokenstore.ContentionFault, Grace)}, true},
		"infrastructure, a moment":      {tokenstore.GroupReport{Fault: fault(tokenstore.InfrastructureFault, time.Second)}, false},
		"infrastructure, for long":      {tokenstore.GroupReport{Fault: fault(tokenstore.InfrastructureFault, Grace)}, true},
		"what keeps a worker from work": {tokenstore.GroupReport{Refused: true, Fault: fault(tokenstore.InfrastructureFault, 0)}, true},
		"nothing":                       {tokenstore.GroupReport{}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			outcome := planner.Outcome{View: tokenstore.View{Workers: []tokenstore.Worker{worker(1, true, map[string]tokenstore.GroupReport{"view": tc.report})}}}
			if got := len(factsOf(outcome, nil, nil, now).Faults) == 1; got != tc.want {
				t.Errorf("told: %v", got)
			}
			outcome.View.Workers[0].Alive = false
			if len(factsOf(outcome, nil, nil, now).Faults) > 0 {
				t.Error("a dead worker's fault was told")
			}
		})
	}
}

// TestASetupIsReportedBesideManyBatches that have been running for longer.
func TestASetupIsReportedBesideManyBatches(t *testing.T) {
	calls := []tokenstore.Call{{Kind: tokenstore.SetupCall, Running: 6}}
	for i := range 2 * mostBatches {
		calls = append(calls, tokenstore.Call{Kind: tokenstore.BatchCall, Position: int64(i + 1), Running: 100})
	}
	outcome := planner.Outcome{View: tokenstore.View{Workers: []tokenstore.Worker{
		worker(1, true, map[string]tokenstore.GroupReport{"view": {Calls: calls}}),
	}}}
	got := factsOf(outcome, nil, nil, now).Calls
	if len(got) != mostBatches+1 || got[0].Kind != tokenstore.BatchCall || got[mostBatches].Kind != tokenstore.SetupCall {
		t.Errorf("got %+v", got)
	}
}

func TestFailuresNobodyReportsAreTold(t *testing.T) {
	one := uint32(1)
	reported := tokenstore.Fault{Kind: tokenstore.EventFault, Message: "from the worker", Segment: &one}
	outcome := planner.Outcome{
		Failures: []tokenstore.Failure{{Key: seg(2), Position: 7, Attempts: 3, Reason: "HandlerFailed", Message: "from the store", Type: "OrderPlaced",
			Stream: "order-7", SQL: &tokenstore.SQLError{State: "23505"}}, {Key: seg(1), Message: "the same"}},
		View: tokenstore.View{Workers: []tokenstore.Worker{worker(1, true, map[string]tokenstore.GroupReport{"view": {Fault: &reported}})}},
	}
	two := uint32(2)
	want := []Fault{
		{Group: "view", Definition: "d1", Kind: tokenstore.EventFault, Message: "from the worker", Segment: &one},
		{Group: "view", Kind: tokenstore.EventFault, Reason: "HandlerFailed", Message: "from the store", Segment: &two, Position: 7, Type: "OrderPlaced",
			Stream: "order-7", Attempts: 2, SQL: &tokenstore.SQLError{State: "23505"}},
	}
	if diff := cmp.Diff(want, factsOf(outcome, nil, nil, now).Faults); diff != "" {
		t.Error(diff)
	}
}

func TestOpenWritersAreToldOnce(t *testing.T) {
	open := func(transaction string, ago time.Duration) eventsource.OpenWriter {
		return eventsource.OpenWriter{Transaction: transaction, Since: now.Add(-ago)}
	}
	reports := func(n int64, alive bool, writers ...eventsource.OpenWriter) tokenstore.Worker {
		return tokenstore.Worker{Incarnation: n, Alive: alive, Report: tokenstore.Report{OpenWriters: writers}}
	}
	outcome := planner.Outcome{View: tokenstore.View{Workers: []tokenstore.Worker{
		reports(1, true, open("a", time.Hour), open("b", time.Minute), open("d", 4*time.Minute)),
		reports(2, true, open("b", 2*time.Minute), open("c", 3*time.Minute), open("e", 5*time.Minute), open("f", time.Second)),
		reports(3, false, open("gone", 10*time.Hour)),
	}}}
	want := []eventsource.OpenWriter{open("a", time.Hour), open("e", 5*time.Minute), open("d", 4*time.Minute), open("c", 3*time.Minute), open("b", 2*time.Minute)}
	if diff := cmp.Diff(want, factsOf(outcome, nil, nil, now).OpenWriters); diff != "" {
		t.Error(diff)
	}
}

func TestLagBuckets(t *testing.T) {
	for seconds, want := range map[float64]Lag{-1: 0, 0: 0, 0.1: 1, 1: 10, 9.9: 10, 10: 60, 60: 600, 600: 3600, 3600: LagOverHour, 1e9: LagOverHour} {
		if got := lagOf(seconds); got != want {
			t.Errorf("%v s: got %v, want %v", seconds, got, want)
		}
	}
}
