package stores

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// lagKept is for how long a lag that was determined is exported. After that it is not known, and its series is not there: an
// autoscaler that reads none changes nothing, where 0 would have it scale in.
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
}

var (
	groupLabels     = []string{"namespace", "processor", "group"}
	processorLabels = []string{"namespace", "processor"}

	describe = func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}

	ownedDesc     = describe("sluice_segments_owned", "Segments that a live worker owns.", groupLabels)
	unownedDesc   = describe("sluice_segments_unowned", "Segments that no live worker owns.", groupLabels)
	lagDesc       = describe("sluice_group_lag_seconds", "Age of the oldest event that has not been handled. Absent while it is not known.", groupLabels)
	lagAgeDesc    = describe("sluice_group_lag_age_seconds", "Time since the lag of the group was last determined.", groupLabels)
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
	for _, desc := range []*prometheus.Desc{ownedDesc, unownedDesc, lagDesc, lagAgeDesc, movesDesc, plansDesc, reachableDesc} {
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
			if g.lagAt.IsZero() {
				continue
			}
			age := now.Sub(g.lagAt)
			emit(lagAgeDesc, prometheus.GaugeValue, age.Seconds(), g.Name)
			if age < lagKept {
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
		next := groupSample{g, before[g.Name].lag, before[g.Name].lagAt}
		if lag, known := of.lags[g.Name]; known {
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
