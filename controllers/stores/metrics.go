package stores

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/planner"
)

// lagKept is for how long the last known lag is exported, plus its age, if no newer one can be read.
// After that there is no series: an autoscaler that reads none changes nothing, but would scale in
// if it read 0.
const lagKept = 30 * time.Second

// Metrics of the processors that this operator plans. They are what the last look at each has shown, so a group or a processor that
// is no more has none.
type Metrics struct {
	now func() time.Time

	mu         sync.Mutex
	processors map[types.NamespacedName]*sample
}

// sample is what is exported of a processor.
type sample struct {
	reachable    bool
	moves, plans float64
	groups       []groupSample
}

// groupSample is what is exported of a group.
type groupSample struct {
	Group
	lag   float64   // seconds
	lagAt time.Time // when it was determined; zero for never
	stale bool      // the last look could not determine it

	attempts int     // at the event that has failed most often
	call     float64 // seconds for which the oldest call has been running
}

var (
	groupLabels     = []string{"namespace", "processor", "group"}
	processorLabels = []string{"namespace", "processor"}

	describe = func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}

	ownedDesc     = describe("sluice_segments_owned", "Segments that a live worker owns.", groupLabels)
	unownedDesc   = describe("sluice_segments_unowned", "Segments that no live worker owns.", groupLabels)
	lagDesc       = describe("sluice_group_lag_seconds", "Age of the oldest event that has not been handled; an upper bound while events cannot be read. Absent after 30 s of that.", groupLabels)
	lagAgeDesc    = describe("sluice_group_lag_age_seconds", "Time since the lag of the group was last determined.", groupLabels)
	blockedDesc   = describe("sluice_group_blocked_segments", "Segments that stand still at an event, or wait for a valid definition.", groupLabels)
	attemptsDesc  = describe("sluice_group_attempts", "Attempts at the event of the group that has failed most often and is not handled yet.", groupLabels)
	callDesc      = describe("sluice_group_call_seconds", "Time for which the oldest call of a handler, setup or reset has been running, once that is 5 s; else 0.", groupLabels)
	coveredDesc   = describe("sluice_group_covered_ratio", "Share of the hash space that the segments of the group cover exactly once. Anything but 1 needs a repair.", groupLabels)
	movesDesc     = describe("sluice_moves_total", "Segments that got another worker by a plan of this operator.", processorLabels)
	plansDesc     = describe("sluice_plans_total", "Plans that differ from the one before, whoever made them.", processorLabels)
	reachableDesc = describe("sluice_store_reachable", "1 while this operator can use the processor's store, else 0.", processorLabels)
)

// NewMetrics makes and registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{now: time.Now, processors: map[types.NamespacedName]*sample{}}
	registry.MustRegister(m)
	return m
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{ownedDesc, unownedDesc, lagDesc, lagAgeDesc, blockedDesc, attemptsDesc, callDesc, coveredDesc, movesDesc, plansDesc, reachableDesc} {
		to <- desc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for key, s := range m.processors {
		emit := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, group ...string) {
			to <- prometheus.MustNewConstMetric(desc, kind, value, append([]string{key.Namespace, key.Name}, group...)...)
		}
		reachable := 0.0
		if s.reachable {
			reachable = 1
		}
		emit(reachableDesc, prometheus.GaugeValue, reachable)
		emit(movesDesc, prometheus.CounterValue, s.moves)
		emit(plansDesc, prometheus.CounterValue, s.plans)
		for _, g := range s.groups {
			emit(ownedDesc, prometheus.GaugeValue, float64(g.Owned), g.Name)
			emit(unownedDesc, prometheus.GaugeValue, float64(g.Unowned()), g.Name)
			emit(blockedDesc, prometheus.GaugeValue, float64(g.Blocked), g.Name)
			emit(attemptsDesc, prometheus.GaugeValue, float64(g.attempts), g.Name)
			emit(coveredDesc, prometheus.GaugeValue, g.Covered, g.Name)
			emit(callDesc, prometheus.GaugeValue, g.call, g.Name)
			if g.lagAt.IsZero() {
				continue
			}
			age := now.Sub(g.lagAt)
			emit(lagAgeDesc, prometheus.GaugeValue, age.Seconds(), g.Name)
			switch {
			case age >= lagKept:
			case g.stale || !s.reachable: // an upper bound: see [lagMemory.update]
				emit(lagDesc, prometheus.GaugeValue, g.lag+age.Seconds(), g.Name)
			default:
				emit(lagDesc, prometheus.GaugeValue, g.lag, g.Name)
			}
		}
	}
}

// observe takes over what is known of a processor, and what a look at its store has shown, if there was one.
func (m *Metrics) observe(key types.NamespacedName, o Observation, of *look, plans int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.processors[key]
	if s == nil {
		s = &sample{}
		m.processors[key] = s
	}
	s.reachable = o.Problem == nil
	if of == nil {
		return
	}
	s.moves += float64(len(of.outcome.Moves))
	s.plans += float64(max(plans, 0))
	before := map[string]groupSample{}
	for _, g := range s.groups {
		before[g.Name] = g
	}
	s.groups = nil
	for _, g := range o.Facts.Groups {
		next := groupSample{Group: g, lag: before[g.Name].lag, lagAt: before[g.Name].lagAt,
			attempts: attemptsAt(of.outcome, g.Name), call: longestCall(of.outcome, g.Name)}
		lag, known := of.lags[g.Name]
		if next.stale = !known; known {
			next.lag, next.lagAt = lag, m.now()
		}
		s.groups = append(s.groups, next)
	}
}

// forget removes a processor's metrics.
func (m *Metrics) forget(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.processors, key)
}

// attemptsAt is the number of attempts at the event of a group that has failed most often.
func attemptsAt(outcome planner.Outcome, group string) (most int) {
	for _, f := range outcome.Failures {
		if f.Group == group {
			most = max(most, f.Attempts)
		}
	}
	for _, w := range outcome.View.Workers {
		if f := w.Report.Groups[group].Fault; w.Alive && f != nil {
			most = max(most, f.Attempts)
		}
	}
	return most
}

// longestCall is for how many seconds the oldest call of a group has been running, of those that are reported.
func longestCall(outcome planner.Outcome, group string) (longest float64) {
	for _, w := range outcome.View.Workers {
		for _, c := range w.Report.Groups[group].Calls {
			if w.Alive {
				longest = max(longest, c.Running)
			}
		}
	}
	return longest
}
