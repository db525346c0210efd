package stores

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
	storespostgres "github.com/sluice-project/sluice/controllers/stores/postgres"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

var orders = types.NamespacedName{Namespace: "shop", Name: "orders"}

// wantedIn is a processor with one group.
func wantedIn(change ...func(*Wanted)) Wanted {
	spec := definition.Spec{
		Replicas: ptr.To[int32](1),
		Store:    definition.Store{Type: "Postgres", Postgres: &definition.Postgres{Database: definition.Database{URLSecretRef: &definition.SecretKey{Name: "db"}}}},
		ProcessingGroups: []definition.Group{{Name: "view", Segments: 4, Handler: definition.Handler{Type: "SQL",
			SQL: &definition.SQLHandler{Statements: []definition.Statement{{EventTypes: []string{"A"}, Batch: "SELECT 1"}}}}}},
	}
	spec.Default()
	w := Wanted{Namespace: orders.Namespace, Name: "test/shop/orders", Generation: 1, Definition: "d", Spec: spec}
	for _, c := range change {
		c(&w)
	}
	return w
}

// runStores runs stores whose Secrets all lead to a database.
func runStores(t *testing.T, url string, change ...func(*Options)) (s *Stores, news <-chan struct{}) {
	t.Helper()
	changed := make(chan struct{}, 1)
	o := Options{
		Backend: storespostgres.Backend{AllowLoopback: true, Secrets: func(string) connection.Secrets {
			return func(context.Context, string, string) ([]byte, error) { return []byte(url), nil }
		}},
		Changed: func(types.NamespacedName) { signal(changed) },
		Planner: "operator/test", MaxSessions: 1, MaxPause: 100 * time.Millisecond, Log: testr.New(t),
	}
	for _, c := range change {
		c(&o)
	}
	s = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, changed
}

// until waits for an observation.
func until(t *testing.T, s *Stores, news <-chan struct{}, what string, holds func(Observation) bool) Observation {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		o := s.Observe(orders)
		if holds(o) {
			return o
		}
		select {
		case <-news:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("waited 30 s for %s: %+v, %+v", what, o, o.Problem)
		}
	}
}

func TestAMigrationMayTakeLongerThanConnecting(t *testing.T) {
	ctx := context.Background()
	url := postgrestest.New(t)
	other, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	class, key := postgres.MigrationLock(postgres.DefaultSchema)
	if _, err := other.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", class, key); err != nil {
		t.Fatal(err)
	}
	const limit = time.Second
	s, news := runStores(t, url, func(o *Options) { o.ConnectTimeout, o.LongMigration = limit, 100*time.Millisecond })
	s.Want(orders, wantedIn())
	until(t, s, news, "a report of the migration", func(o Observation) bool {
		return o.Problem != nil && o.Problem.Reason == v1alpha1.ReasonMigrationRequired && o.Problem.Passes && !o.Problem.Outage()
	})
	backend := func() (pid int) {
		err := other.QueryRow(ctx, "SELECT pid FROM pg_stat_activity WHERE application_name = 'sluice-operator' AND datname = current_database() AND wait_event = 'advisory'").Scan(&pid)
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	waits := backend()
	for began := time.Now(); time.Since(began) < 2*limit; { // what the database does takes its time
		if _, err := other.Exec(ctx, "SELECT pg_sleep(0.1)"); err != nil {
			t.Fatal(err)
		}
	}
	if again := backend(); again != waits {
		t.Errorf("the session with pid %d was given up for one with pid %d", waits, again)
	}
	if _, err := other.Exec(ctx, "SELECT pg_advisory_unlock_all()"); err != nil {
		t.Fatal(err)
	}
	until(t, s, news, "the first look", func(o Observation) bool { return o.Seen && o.Problem == nil && o.Declared == 1 })
}

// TestAtRestThePlanIsRenewedAndNoTokensAreRead: a store may have very many.
func TestAtRestThePlanIsRenewedAndNoTokensAreRead(t *testing.T) {
	proxy := pgproxy.Start(t, postgrestest.New(t))
	s, news := runStores(t, proxy.URL())
	s.Want(orders, wantedIn())
	until(t, s, news, "the first look", func(o Observation) bool { return o.Seen && o.Problem == nil })
	runs := func(text string) *pgproxy.Counter {
		return proxy.Count(func(m pgproxy.Message) bool { return m.Runs() && m.Ran(text) })
	}
	renewals, reads := runs("plan_renewed_at = clock_timestamp()"), runs("FROM \"sluice\".token t ")
	const many = 12
	until(t, s, news, "a dozen renewals", func(Observation) bool { return renewals.Total() >= many })
	if n := reads.Total(); n == 0 || n > many/3 {
		t.Errorf("tokens were read %d times while the plan was renewed %d times", n, renewals.Total())
	}
}
