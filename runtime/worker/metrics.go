package worker

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sluice-project/sluice/tokenstore"
)

// metrics of a worker. Labels never hold keys, payloads or SQL.
type metrics struct {
	events, skippedEvents, batches, busy *prometheus.CounterVec
	fences, attempts, takeovers          *prometheus.CounterVec
	segments, lag, rate, blocked         *prometheus.GaugeVec
	latency                              *prometheus.HistogramVec
	readErrors                           prometheus.Counter
	openWriters, openWriterAge           prometheus.Gauge
	memory, memoryLimit                  prometheus.Gauge
	rest                                 prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_" + name, Help: help}, []string{"group"})
	}
	return &metrics{
		events:        counter("events_handled_total", "Events handled and committed.", "group"),
		skippedEvents: counter("events_skipped_total", "Events of types that the group does not handle; they only move a token.", "group"),
		batches:       counter("batches_total", "Batches by outcome: Committed, Fenced or Failed.", "group", "outcome"),
		busy:          counter("busy_seconds_total", "Time spent in batches.", "group"),
		fences:        counter("fenced_batches_total", "Batches undone because their token had moved on.", "group"),
		attempts:      counter("failed_attempts_total", "Attempts counted at events.", "group"),
		segments:      gauge("segments_claimed", "Segments that this worker owns."),
		lag:           gauge("lag_seconds", "Age of the oldest event that waits here."),
		rate:          gauge("events_per_second", "Events handled a second, smoothed over some seconds."),
		blocked:       gauge("segments_blocked", "Segments that wait at an event that fails."),
		latency: f.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_event_latency_seconds",
			Help:    "From the recording of a batch's last event to its commit here.",
			Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 600}}, []string{"group"}),
		takeovers: counter("takeovers_total", "Segments claimed from workers that had not released them, by what detected their end: "+
			"SessionLock, Lease or Operator.", "detector"),
		readErrors: f.NewCounter(prometheus.CounterOpts{Name: "sluice_read_errors_total", Help: "Reads of events that failed."}),
		openWriters: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_open_writers",
			Help: "Transactions that have written to the event table and have been open for 10 s or longer."}),
		openWriterAge: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_open_writer_age_seconds",
			Help: "Age of the oldest of these transactions, 0 without any. The log and status name it."}),
		memory: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_event_memory_bytes",
			Help: "Bytes of events in memory that have been read and not handled yet, with the pages of reads that run."}),
		memoryLimit: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_event_memory_limit_bytes",
			Help: "The budget for these; near it, reads wait for handlers."}),
		rest: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_backlog_rest",
			Help: "Pause before the next batch of a backlog, as a multiple of the last batch's time, while live batches would commit slowly; 0 without a pause."}),
	}
}

func (m *metrics) batch(group string, events, skipped int, took, lag time.Duration, err error) {
	outcome := "Committed"
	switch {
	case errors.Is(err, tokenstore.ErrFenced):
		outcome = "Fenced"
	case err != nil:
		outcome = "Failed"
	default:
		m.events.WithLabelValues(group).Add(float64(events))
		m.skippedEvents.WithLabelValues(group).Add(float64(skipped))
		m.latency.WithLabelValues(group).Observe(lag.Seconds())
	}
	m.batches.WithLabelValues(group, outcome).Inc()
	m.busy.WithLabelValues(group).Add(took.Seconds())
}

func (m *metrics) skipped(group string, events int) {
	m.skippedEvents.WithLabelValues(group).Add(float64(events))
}
func (m *metrics) fenced(group string)  { m.fences.WithLabelValues(group).Inc() }
func (m *metrics) attempt(group string) { m.attempts.WithLabelValues(group).Inc() }

func (m *metrics) writers(open int, oldest time.Duration) {
	m.openWriters.Set(float64(open))
	m.openWriterAge.Set(oldest.Seconds())
}

func (m *metrics) keeps(used, limit int64) {
	m.memory.Set(float64(used))
	m.memoryLimit.Set(float64(limit))
}

func (m *metrics) group(name string, r tokenstore.GroupReport) {
	m.segments.WithLabelValues(name).Set(float64(r.Segments))
	m.lag.WithLabelValues(name).Set(r.Lag)
	m.rate.WithLabelValues(name).Set(r.Rate)
	m.blocked.WithLabelValues(name).Set(float64(r.Blocked))
}
