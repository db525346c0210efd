package stores

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/definition"
	eventpostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func tokenAt(n uint32, owner, position int64) tokenstore.Token {
	t := token(n, owner)
	t.Parts = []progress.Part{{Progress: progress.Progress{Position: position}}}
	return t
}

func TestLagIsKnownOfWhatNobodyReportsOn(t *testing.T) {
	ages := map[int64]time.Duration{10: time.Hour, 20: time.Minute, 30: 5 * time.Second} // of the event after a position
	waiting := func(after int64) (time.Duration, bool, error) { age, waits := ages[after]; return age, waits, nil }
	reports := func(lag float64) map[string]tokenstore.GroupReport {
		return map[string]tokenstore.GroupReport{"view": {Lag: lag}}
	}
	for name, tc := range map[string]struct {
		tokens  []tokenstore.Token
		workers []tokenstore.Worker
		want    lags
	}{
		"nobody owns it":                         {[]tokenstore.Token{tokenAt(0, 0, 20), tokenAt(1, 0, 30)}, nil, lags{"view": 60}},
		"the owner is dead":                      {[]tokenstore.Token{tokenAt(0, 1, 20)}, []tokenstore.Worker{worker(1, false, reports(7))}, lags{"view": 60}},
		"the owner has not reported":             {[]tokenstore.Token{tokenAt(0, 1, 20)}, []tokenstore.Worker{worker(1, true, nil)}, lags{"view": 60}},
		"all is handled":                         {[]tokenstore.Token{tokenAt(0, 0, 99)}, nil, lags{"view": 0}},
		"the worker knows better":                {[]tokenstore.Token{tokenAt(0, 1, 30)}, []tokenstore.Worker{worker(1, true, reports(0.5))}, lags{"view": 0.5}},
		"the worker does not read":               {[]tokenstore.Token{tokenAt(0, 1, 20)}, []tokenstore.Worker{worker(1, true, reports(0))}, lags{"view": 60}},
		"the worker waits longer":                {[]tokenstore.Token{tokenAt(0, 1, 20), tokenAt(1, 0, 20)}, []tokenstore.Worker{worker(1, true, reports(90))}, lags{"view": 90}},
		"one segment is free":                    {[]tokenstore.Token{tokenAt(0, 1, 99), tokenAt(1, 0, 30)}, []tokenstore.Worker{worker(1, true, reports(0))}, lags{"view": 5}},
		"a free one is ahead of one that is not": {[]tokenstore.Token{tokenAt(0, 1, 30), tokenAt(1, 0, 99)}, []tokenstore.Worker{worker(1, true, reports(1))}, lags{"view": 1}},
		"there are no segments":                  {nil, nil, lags{}},
	} {
		t.Run(name, func(t *testing.T) {
			outcome := planner.Outcome{Groups: []tokenstore.Group{{Name: "view"}}, Tokens: tc.tokens, View: tokenstore.View{Workers: tc.workers}}
			got, err := lagsOf(outcome, waiting)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLagIsUnknownWhereEventsCannotBeRead(t *testing.T) {
	outcome := planner.Outcome{Groups: []tokenstore.Group{{Name: "view"}}, Tokens: []tokenstore.Token{tokenAt(0, 0, 20)}}
	got, err := lagsOf(outcome, func(int64) (time.Duration, bool, error) { return 0, false, errors.New("no such table") })
	if err == nil || got != nil {
		t.Fatalf("got %v, %v", got, err)
	}
	if lag := factsOf(outcome, nil, got, now).Groups[0].Lag; lag != LagUnknown {
		t.Errorf("the lag is %v", lag)
	}
}

// deafSource is a source whose events cannot be read for as long as it is deaf.
type deafSource struct {
	backend.Source
	deaf  *atomic.Bool
	asked func(deaf bool)
}

func (s deafSource) Waiting(ctx context.Context, after int64) (time.Duration, bool, error) {
	deaf := s.deaf.Load()
	s.asked(deaf)
	if deaf {
		return 0, false, errors.New("no answer in time")
	}
	return s.Source.Waiting(ctx, after)
}

// sourcesOf is a backend whose sources are changed.
type sourcesOf struct {
	backend.Backend
	change func(backend.Source) backend.Source
}

func (b sourcesOf) Open(namespace string, store definition.Store) backend.Access {
	return accessOf{b.Backend.Open(namespace, store), b.change}
}

type accessOf struct {
	backend.Access
	change func(backend.Source) backend.Source
}

func (a accessOf) Connect(ctx context.Context) (backend.Connection, error) {
	c, err := a.Access.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return connectionOf{c, a.change}, nil
}

type connectionOf struct {
	backend.Connection
	change func(backend.Source) backend.Source
}

func (c connectionOf) Source(declared definition.Source) (backend.Source, error) {
	source, err := c.Connection.Source(declared)
	if err != nil {
		return nil, err
	}
	return c.change(source), nil
}

// TestALagThatCouldNotBeReadIsAskedForAgainAtOnce: the next look may be due seconds later.
func TestALagThatCouldNotBeReadIsAskedForAgainAtOnce(t *testing.T) {
	proxy := pgproxy.Start(t, postgrestest.New(t))
	renewals := proxy.Count(func(m pgproxy.Message) bool { return m.Runs() && m.Ran("plan_renewed_at = clock_timestamp()") })
	var deaf atomic.Bool
	type question struct {
		deaf     bool
		renewals int // up to then
	}
	asked := make(chan question, 100)
	s, news := runStores(t, proxy.URL(), func(o *Options) {
		o.Backend = sourcesOf{o.Backend, func(source backend.Source) backend.Source {
			return deafSource{source, &deaf, func(deaf bool) { asked <- question{deaf, renewals.Total()} }}
		}}
	})
	s.Want(orders, wantedIn())
	until(t, s, news, "a lag that is known", func(o Observation) bool { return o.Seen && o.Facts.Groups[0].Lag == 0 })
	rest := renewals.Total() + 7 // nothing that has begun wakes the loop any more
	until(t, s, news, "rest", func(Observation) bool { return renewals.Total() >= rest })
	deaf.Store(true)
	first := <-asked
	for !first.deaf {
		first = <-asked
	}
	deaf.Store(false)
	if again := <-asked; again.renewals-first.renewals != 1 { // by the round that asks again
		t.Errorf("the plan was renewed %d times before the lag was asked for again", again.renewals-first.renewals)
	}
	if lag := s.Observe(orders).Facts.Groups[0].Lag; lag < 0 || lag > 10 {
		t.Errorf("meanwhile the lag is said to be %d", lag)
	}
}

// TestALagThatIsNotKnownIsAnUpperBound: an event may have waited since the lag was known last.
func TestALagThatIsNotKnownIsAnUpperBound(t *testing.T) {
	var m lagMemory
	groups := []tokenstore.Group{{Name: "view"}, {Name: "mails"}}
	for _, look := range []struct {
		after time.Duration
		found lags
		want  lags
	}{
		{0, lags{"view": 7, "mails": 1}, lags{"view": 7, "mails": 1}},
		{time.Second, nil, lags{"view": 8, "mails": 2}},
		{lagKept - time.Second, lags{"view": 9}, lags{"view": 9, "mails": lagKept.Seconds()}},
		{lagKept, nil, lags{"view": 10}},
		{lagKept + time.Second, nil, lags{"view": 11}},
		{2 * lagKept, nil, lags{}},
		{2*lagKept + time.Second, lags{"view": 0}, lags{"view": 0}},
	} {
		if diff := cmp.Diff(look.want, m.update(look.found, groups, now.Add(look.after))); diff != "" {
			t.Errorf("after %s: %s", look.after, diff)
		}
	}
}

// gauges are the values of a metric by group; "" for one without.
func gauges(t *testing.T, from prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				values[groupOf(m)] = m.GetGauge().GetValue()
			}
		}
	}
	return values
}

func groupOf(m *dto.Metric) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == "group" {
			return l.GetValue()
		}
	}
	return ""
}

func TestEventsThatWaitForAWorkerAreSeen(t *testing.T) {
	ctx := context.Background()
	url := postgrestest.New(t)
	registry := prometheus.NewRegistry()
	metrics := NewMetrics(registry)
	s, news := runStores(t, url, func(o *Options) { o.Metrics = metrics })
	s.Want(orders, wantedIn(func(w *Wanted) { *w.Spec.Replicas = 0 }))
	until(t, s, news, "no lag where there are no events", func(o Observation) bool {
		return o.Seen && o.Facts.Groups[0].Lag == 0
	})
	if got := gauges(t, registry, "sluice_group_lag_seconds"); !cmp.Equal(got, map[string]float64{"view": 0}) {
		t.Errorf("lag %v", got)
	}
	pool, err := postgres.Open(postgres.Options{Target: targetOf(t, url), Application: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := eventpostgres.NewLog(pool, postgres.DefaultSchema).Append(ctx, "order-1", eventpostgres.Any, eventpostgres.NewEvent{Type: "A"}); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, "UPDATE sluice.event SET recorded_at = clock_timestamp() - interval '2 hours'"); err != nil {
		t.Fatal(err)
	}
	until(t, s, news, "the lag of two hours", func(o Observation) bool { return o.Facts.Groups[0].Lag == LagOverHour })
	if got := gauges(t, registry, "sluice_group_lag_seconds")["view"]; got < 7200 || got > 7300 {
		t.Errorf("lag %v", got)
	}

	s.Forget(orders) // no look comes in between
	metrics.observe(orders, Observation{Facts: Facts{Groups: []Group{{Name: "view"}}}}, &look{lags: lags{"view": 3}}, 0)
	at := time.Now()
	metrics.now = func() time.Time { return at.Add(20 * time.Second) }
	metrics.observe(orders, Observation{Facts: Facts{Groups: []Group{{Name: "view"}}}}, &look{}, 0)
	if got := gauges(t, registry, "sluice_group_lag_seconds")["view"]; got < 23 || got > 24 {
		t.Errorf("20 s after a lag of 3 s it is said to be %v", got)
	}
	metrics.now = func() time.Time { return time.Now().Add(time.Hour) } // an hour in which the store was not seen
	metrics.observe(orders, Observation{Facts: Facts{Groups: []Group{{Name: "view"}}}}, &look{lags: lags{"view": 3}}, 0)
	metrics.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if got := gauges(t, registry, "sluice_group_lag_seconds"); len(got) > 0 {
		t.Errorf("a lag of an hour ago is told: %v", got)
	}
	if got := gauges(t, registry, "sluice_group_lag_age_seconds")["view"]; got < 3600 || got > 3700 {
		t.Errorf("the lag is said to be %v s old", got)
	}
}

func targetOf(t *testing.T, url string) func(context.Context) (postgres.Target, error) {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context) (postgres.Target, error) {
		return postgres.Target{Host: config.Host, Port: config.Port, Database: config.Database, User: config.User, Password: config.Password}, nil
	}
}

// TestAProcessorThatIsLeftHasNoMetrics: its loop may be in the middle of a round.
func TestAProcessorThatIsLeftHasNoMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	changed := 0
	p := newProcessor(orders, Options{Metrics: NewMetrics(registry), Changed: func(types.NamespacedName) { changed++ }})
	p.publish(Observation{Seen: true, Facts: Facts{Groups: []Group{{Name: "view"}}}}, &look{})
	p.leave()
	p.publish(Observation{Seen: true, Facts: Facts{Groups: []Group{{Name: "view", Owned: 1}}}}, &look{})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) > 0 || changed != 1 {
		t.Errorf("%d metrics, %d notices", len(families), changed)
	}
}
