package stores

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/planner"
)

// Metrics of the processors that this operator plans.
type Metrics struct {
	owned, unowned, lag *prometheus.GaugeVec // by namespace, processor, group
	moves, plans        *prometheus.CounterVec
	reachable           *prometheus.GaugeVec
}

// NewMetrics makes and registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	group := []string{"namespace", "processor", "group"}
	processor := []string{"namespace", "processor"}
	gauge := func(name, help string, labels []string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, processor)
	}
	m := &Metrics{
		owned:     gauge("sluice_segments_owned", "Segments that a live worker owns.", group),
		unowned:   gauge("sluice_segments_unowned", "Segments that no live worker owns.", group),
		lag:       gauge("sluice_group_lag_seconds", "Age of the oldest event that has not been handled, as workers report it.", group),
		moves:     counter("sluice_moves_total", "Segments that got another worker by a plan of this operator."),
		plans:     counter("sluice_plans_total", "Plans that differ from the one before, whoever made them."),
		reachable: gauge("sluice_store_reachable", "1 while this operator can use the processor's store, else 0.", processor),
	}
	registry.MustRegister(m.owned, m.unowned, m.lag, m.moves, m.plans, m.reachable)
	return m
}

func (m *Metrics) observe(key types.NamespacedName, o Observation, outcome *planner.Outcome, plans int64) {
	reachable := 1.0
	if o.Problem != nil {
		reachable = 0
	}
	m.reachable.WithLabelValues(key.Namespace, key.Name).Set(reachable)
	if outcome == nil {
		return
	}
	m.moves.WithLabelValues(key.Namespace, key.Name).Add(float64(len(outcome.Moves)))
	m.plans.WithLabelValues(key.Namespace, key.Name).Add(float64(max(plans, 0)))
	for _, group := range o.Facts.Groups {
		m.owned.WithLabelValues(key.Namespace, key.Name, group.Name).Set(float64(group.Owned))
		m.unowned.WithLabelValues(key.Namespace, key.Name, group.Name).Set(float64(group.Unowned()))
		m.lag.WithLabelValues(key.Namespace, key.Name, group.Name).Set(worstLag(outcome, group.Name))
	}
}

func worstLag(outcome *planner.Outcome, group string) float64 {
	worst := 0.0
	for _, worker := range outcome.View.Workers {
		if worker.Alive {
			worst = max(worst, worker.Report.Groups[group].Lag)
		}
	}
	return worst
}

// retire removes the series of groups that are no more.
func (m *Metrics) retire(key types.NamespacedName, before, after []Group) {
	for _, group := range before {
		if slices.ContainsFunc(after, func(g Group) bool { return g.Name == group.Name }) {
			continue
		}
		for _, vec := range []*prometheus.GaugeVec{m.owned, m.unowned, m.lag} {
			vec.DeleteLabelValues(key.Namespace, key.Name, group.Name)
		}
	}
}

// forget removes a processor's series.
func (m *Metrics) forget(key types.NamespacedName) {
	labels := prometheus.Labels{"namespace": key.Namespace, "processor": key.Name}
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.owned, m.unowned, m.lag, m.moves, m.plans, m.reachable} {
		vec.DeletePartialMatch(labels)
	}
}
