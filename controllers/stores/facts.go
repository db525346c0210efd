package stores

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
)

// Grace is how long a segment may be without an owner before that is worth a word, and how long a worker may have trouble
// with the database.
const Grace = 10 * time.Second

// Facts are what users are told about a processor in its store. They are equal where there is nothing new to tell.
type Facts struct {
	Groups  []Group // by name
	Workers []Worker
	Faults  []Fault             // by group and segment
	Calls   []Call              // the oldest first
	Replays []tokenstore.Replay // the ledger, oldest first
	// Plan is the newest one's number; Assigned of the workers is what it says.
	Plan int64
	// OpenWriters are the oldest of the transactions that have written to the event table and stay open, oldest first.
	OpenWriters []eventsource.OpenWriter
	// Quarantined says that the wanted definition failed before it was proven.
	Quarantined bool
}

// Group is what is known of a group.
type Group struct {
	Name   string
	Wanted int // segments
	// Sequencing that its tokens have.
	Sequencing string
	Segments   int // that there are
	// Pace of the splits or merges that are left; zero while it is not known.
	Pace    Pace
	Owned   int // by workers that live
	Moving  int // whose owner is not the assignee
	Overdue int // without an owner for longer than Grace
	Lag     Lag
	Blocked int // segments that stand still
	// Broken says why the segments do not cover the hash space exactly once; empty where they do. Covered is the share that is.
	Broken  string
	Covered float64
	// Incomplete says that a replay was abandoned, and none has completed since.
	Incomplete bool
}

// Unowned is the number of segments that no live worker owns.
func (g Group) Unowned() int { return g.Segments - g.Owned }

// StepsLeft is how many splits or merges are left until the group has the wanted number of segments.
// Each of them changes the number by one.
func (g Group) StepsLeft() int { return max(g.Wanted-g.Segments, g.Segments-g.Wanted) }

// Worker is a worker that lives.
type Worker struct {
	Pod        string
	Definition string
	Version    string
	Ready      bool
	Reported   bool // it has said how it is
	Assigned   int  // segments that the newest plan gives it
	Owned      int
	Leaving    time.Duration // for how long its pod has been about to be removed, in whole seconds and at least one; 0 where it is not
	Failing    string        // what speaks against its definition
	// Unfit says why everything fails there; nil where it does not.
	Unfit *Fault
	// Unsupported are the live settings that its version cannot read.
	Unsupported []string
}

// Fault is what stops a group or one of its segments.
type Fault struct {
	Group      string
	Definition string // of the worker that reports it; empty where nobody does
	Kind       tokenstore.FaultKind
	Refused    bool // the worker takes no segments of the group
	Reason     string
	Message    string
	Segment    *uint32
	Position   int64
	Type       string // of the event
	Stream     string // of the event
	Attempts   int    // at least: one of 1, 2, 5, 10, 20, 50 and so on, so that not each attempt is news
	SQL        *tokenstore.SQLError
}

// Call is a call of a handler, setup or reset that has been running for a while.
type Call struct {
	Group      string
	Pod        string
	Definition string // of the worker
	tokenstore.Call
	// Age is how long it has been running at least, in steps, so that not each second is news. Running is not set.
	Age time.Duration
}

// AtLeast is the highest of 1, 2, 5, 10, 20, 50 and so on that a number reaches; 0 for none.
func AtLeast(n int) int {
	reached := 0
	for step := 1; step <= n; step *= 10 {
		for _, at := range []int{step, 2 * step, 5 * step} {
			if at <= n {
				reached = at
			}
		}
	}
	return reached
}

// ages are the steps of a call's age.
var ages = []time.Duration{5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

func ageOf(seconds float64) (reached time.Duration) {
	for _, age := range ages {
		if seconds >= age.Seconds() {
			reached = age
		}
	}
	return reached
}

// Lag is the upper bound of an age, in seconds: 0 (nothing waits), 1, 10, 60, 600, 3600, or more than that; negative
// where nobody has said.
type Lag int

// Lags that are not bounds.
const (
	LagUnknown  Lag = -1
	LagOverHour Lag = 3601
)

func lagOf(seconds float64) Lag {
	if seconds <= 0 {
		return 0
	}
	for _, bound := range []Lag{1, 10, 60, 600, 3600} {
		if seconds < float64(bound) {
			return bound
		}
	}
	return LagOverHour
}

// orphans notes since when segments have had no live owner.
func orphans(before map[tokenstore.Key]time.Time, outcome planner.Outcome, now time.Time) map[tokenstore.Key]time.Time {
	living := living(outcome.View.Workers)
	after := map[tokenstore.Key]time.Time{}
	for _, token := range outcome.Tokens {
		if living[token.Owner] {
			continue
		}
		since, known := before[token.Key]
		if !known {
			since = now
		}
		after[token.Key] = since
	}
	return after
}

// factsOf says what an outcome means.
func factsOf(outcome planner.Outcome, orphaned map[tokenstore.Key]time.Time, waits lags, now time.Time) Facts {
	return Facts{
		Groups:  groupsOf(outcome, orphaned, waits, now),
		Workers: workersOf(outcome),

		Plan:        outcome.View.Processor.Plan,
		Quarantined: outcome.View.Processor.Quarantined,
		Faults:      faultsOf(outcome),
		Calls:       callsOf(outcome),
		OpenWriters: openWritersOf(outcome),
	}
}

func groupsOf(outcome planner.Outcome, orphaned map[tokenstore.Key]time.Time, waits lags, now time.Time) []Group {
	groups := make([]Group, len(outcome.Groups))
	index := map[string]*Group{}
	for i, group := range outcome.Groups {
		groups[i] = Group{Name: group.Name, Wanted: group.Segments, Sequencing: group.Sequencing, Lag: LagUnknown, Incomplete: group.Incomplete}
		if seconds, known := waits[group.Name]; known {
			groups[i].Lag = lagOf(seconds)
		}
		groups[i].Covered = 1
		if broken := outcome.Broken[group.Name]; broken != nil {
			groups[i].Broken, groups[i].Covered = broken.Error(), broken.Covered
		}
		index[group.Name] = &groups[i]
	}
	assigned := map[tokenstore.Key]int64{}
	for _, assignment := range outcome.View.Assignments {
		assigned[assignment.Key] = assignment.Worker
	}
	living := living(outcome.View.Workers)
	for _, token := range outcome.Tokens {
		group := index[token.Group]
		if group == nil {
			continue // of a retired group
		}
		group.Segments++
		if living[token.Owner] {
			group.Owned++
		}
		if target := assigned[token.Key]; target != 0 && target != token.Owner {
			group.Moving++
		}
		if since, orphan := orphaned[token.Key]; orphan && now.Sub(since) >= Grace {
			group.Overdue++
		}
	}
	addReports(index, outcome)
	slices.SortFunc(groups, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	return groups
}

// addReports adds how many segments stand still by what workers say. One that has no segments stops none: old pods have them, while a
// new definition is rejected.
func addReports(index map[string]*Group, outcome planner.Outcome) {
	for _, worker := range outcome.View.Workers {
		if !worker.Alive {
			continue
		}
		for name, report := range worker.Report.Groups {
			if group := index[name]; group != nil {
				group.Blocked += report.Blocked
				if stops(report.Fault) && report.Blocked == 0 && report.Segments > 0 {
					group.Blocked++
				}
			}
		}
	}
	failed := map[string]int{}
	for _, failure := range outcome.Failures {
		failed[failure.Group]++
	}
	for name, count := range failed {
		if group := index[name]; group != nil {
			group.Blocked = max(group.Blocked, count)
		}
	}
}

// stops reports whether a fault keeps segments from going on, and is not gone by itself in a moment.
func stops(fault *tokenstore.Fault) bool {
	return fault != nil && (fault.Kind == tokenstore.EventFault || fault.Kind == tokenstore.DefinitionFault)
}

func living(workers []tokenstore.Worker) map[int64]bool {
	alive := map[int64]bool{}
	for _, worker := range workers {
		if worker.Alive {
			alive[worker.Incarnation] = true
		}
	}
	return alive
}

func workersOf(outcome planner.Outcome) []Worker {
	assigned, owned := map[int64]int{}, map[int64]int{}
	for _, a := range outcome.View.Assignments {
		assigned[a.Worker]++
	}
	for _, t := range outcome.Tokens {
		owned[t.Owner]++
	}
	var known []Worker
	for _, w := range outcome.View.Workers {
		if !w.Alive {
			continue
		}
		of := Worker{Pod: w.Pod, Definition: w.Definition, Version: w.Version, Ready: w.Report.Ready,
			Reported: w.Report.Ready || len(w.Report.Groups) > 0, Assigned: assigned[w.Incarnation], Owned: owned[w.Incarnation], Failing: w.Report.Failing, Unsupported: w.Report.Unsupported}
		if w.Report.Unfit != nil {
			unfit := faultOf("", w, *w.Report.Unfit, false)
			of.Unfit = &unfit
		}
		if w.LeavingFor > 0 {
			of.Leaving = max(w.LeavingFor.Truncate(time.Second), time.Second)
		}
		known = append(known, of)
	}
	slices.SortFunc(known, func(a, b Worker) int { return cmp.Compare(a.Pod, b.Pod) })
	return known
}

// faultsOf collects what live workers report, and what the store holds of segments that nobody reports about.
func faultsOf(outcome planner.Outcome) []Fault {
	var faults []Fault
	reported := map[tokenstore.Key]bool{}
	for _, worker := range outcome.View.Workers {
		for name, report := range worker.Report.Groups {
			if !worker.Alive || !tellable(report) {
				continue
			}
			f := report.Fault
			if f.Segment != nil {
				reported[tokenstore.Key{Group: name, Segment: *f.Segment}] = true
			}
			faults = append(faults, faultOf(name, worker, *f, report.Refused))
		}
	}
	for _, f := range outcome.Failures {
		if !reported[f.Key] {
			segment := f.Segment
			faults = append(faults, Fault{Group: f.Group, Kind: tokenstore.EventFault, Reason: f.Reason, Message: f.Message, Segment: &segment,
				Position: f.Position, Type: f.Type, Stream: f.Stream, Attempts: AtLeast(f.Attempts), SQL: f.SQL})
		}
	}
	slices.SortStableFunc(faults, compareFaults)
	return faults
}

func faultOf(group string, worker tokenstore.Worker, f tokenstore.Fault, refused bool) Fault {
	return Fault{Group: group, Definition: worker.Definition, Kind: f.Kind, Refused: refused, Reason: f.Reason, Message: f.Message,
		Segment: f.Segment, Position: f.Position, Type: f.Type, Stream: f.Stream, Attempts: AtLeast(f.Attempts), SQL: f.SQL}
}

// mostBatches is how many batches are reported that have been running for a while. Of setups and
// resets all are: a group has one at a time.
const mostBatches = 5

func callsOf(outcome planner.Outcome) []Call {
	var calls []Call
	for _, worker := range outcome.View.Workers {
		for group, report := range worker.Report.Groups {
			for _, c := range report.Calls {
				if age := ageOf(c.Running); worker.Alive && age > 0 {
					call := Call{Group: group, Pod: worker.Pod, Definition: worker.Definition, Call: c, Age: age}
					call.Running = 0
					calls = append(calls, call)
				}
			}
		}
	}
	slices.SortFunc(calls, func(a, b Call) int {
		return cmp.Or(-cmp.Compare(abandoned(a), abandoned(b)), -cmp.Compare(a.Age, b.Age), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Position, b.Position), cmp.Compare(a.Pod, b.Pod))
	})
	batches := 0
	return slices.DeleteFunc(calls, func(c Call) bool {
		if c.Kind != tokenstore.BatchCall {
			return false
		}
		batches++
		return batches > mostBatches
	})
}

func abandoned(c Call) int {
	if c.Abandoned {
		return 1
	}
	return 0
}

// tellable leaves out what is gone before anybody has read it.
func tellable(report tokenstore.GroupReport) bool {
	fault := report.Fault
	if fault == nil {
		return false
	}
	return report.Refused || stops(fault) || fault.Lasted >= Grace.Seconds()
}

func compareFaults(a, b Fault) int {
	segment := func(f Fault) int64 {
		if f.Segment == nil {
			return -1
		}
		return int64(*f.Segment)
	}
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(segment(a), segment(b)), cmp.Compare(a.Message, b.Message))
}
