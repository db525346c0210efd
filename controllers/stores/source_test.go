package stores

import (
	"context"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	storespostgres "github.com/sluice-project/sluice/controllers/stores/postgres"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// inEvents declares events in a database of their own, by the Secret events.
func inEvents(w *Wanted) {
	w.Spec.Source = definition.Source{Type: definition.SourceStore, Postgres: &definition.SourcePostgres{
		Database: definition.Database{URLSecretRef: &definition.SecretKey{Name: "events"}}}}
	w.Spec.Default()
}

// secrets are those of a namespace, each with one URL.
type secrets struct {
	mu   sync.Mutex
	urls map[string]string
}

func (s *secrets) set(name, url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.urls[name] = url
}

func (s *secrets) get(_ context.Context, name, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.urls[name] == "" {
		return nil, &connection.SecretNotFoundError{Name: name, Key: key}
	}
	return []byte(s.urls[name]), nil
}

// runWith runs stores with these Secrets, which are read again and again.
func runWith(t *testing.T, s *secrets) (*Stores, <-chan struct{}) {
	t.Helper()
	return runStores(t, "", func(o *Options) {
		o.Backend = storespostgres.Backend{AllowLoopback: true, SecretsEvery: 20 * time.Millisecond,
			Secrets: func(string) connection.Secrets { return s.get }}
	})
}

// eventsDatabase has Sluice's own event table, with one event that is two hours old.
func eventsDatabase(t *testing.T) string {
	t.Helper()
	url := postgrestest.New(t)
	migrate(t, url)
	execute(t, url, `INSERT INTO sluice.event (stream_id, version, type, data, recorded_at) VALUES ('s', 1, 'A', '{}', now() - interval '2 hours')`)
	return url
}

func execute(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatal(err)
	}
}

func declared(generation int64) func(Observation) bool {
	return func(o Observation) bool {
		return o.Seen && o.Problem == nil && o.Source == nil && o.Declared == generation
	}
}

// TestLagIsThatOfTheSourcesDatabase: the store has an event table, too, and nothing in it.
func TestLagIsThatOfTheSourcesDatabase(t *testing.T) {
	s, news := runWith(t, &secrets{urls: map[string]string{"db": postgrestest.New(t), "events": eventsDatabase(t)}})
	s.Want(orders, wantedIn(inEvents))
	until(t, s, news, "the lag of an event that is two hours old", func(o Observation) bool {
		return declared(1)(o) && o.Facts.Groups[0].Lag == LagOverHour
	})
}

// TestTheStoreGoesOnWhileTheSourceIsDown has the database with the events fail in several ways.
// Meanwhile a change of a spec takes effect in the store, unless it has a new group, whose start
// position only the source knows; that waits. The store is never said to be down.
func TestTheStoreGoesOnWhileTheSourceIsDown(t *testing.T) {
	changed := func(text string, change func(*url.URL)) string {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return u.String()
	}
	for name, outage := range map[string]struct {
		url  func(right string) string
		text string
	}{
		"no Secret": {func(string) string { return "" }, "SecretNotFound: Secret events does not exist"},
		"no URL":    {func(string) string { return "mysql://somewhere" }, "InvalidURL: Secret events, key uri: the source's URL must begin"},
		"no such database": {func(right string) string {
			return changed(right, func(u *url.URL) { u.Path += "_not_there" })
		}, "DatabaseNotFound: "},
		"another role": {func(right string) string {
			return changed(right, func(u *url.URL) { u.User = url.User("nobody-of-that-name") })
		}, "AuthenticationFailed: "},
		"no server": {func(string) string { return "postgres://app@127.0.0.1:1/app" }, "ConnectionFailed: 127.0.0.1:1/app as app: connect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events := eventsDatabase(t)
			all := &secrets{urls: map[string]string{"db": postgrestest.New(t), "events": events}}
			s, news := runWith(t, all)
			w := wantedIn(inEvents)
			s.Want(orders, w)
			until(t, s, news, "the first look", declared(1))
			down := func(o Observation) bool {
				if o.Problem != nil {
					t.Fatalf("the store is said to have the problem %+v", o.Problem)
				}
				return o.Source != nil && o.Source.Reason == "SourceUnreachable" && strings.HasPrefix(o.Source.Message, "the source's database: "+outage.text)
			}
			all.set("events", outage.url(events))
			until(t, s, news, "a report of the outage", down)

			w.Generation = 2
			w.Spec.ProcessingGroups[0].MaxBatchSize = 7
			s.Want(orders, w)
			until(t, s, news, "a live setting to be declared", func(o Observation) bool { return down(o) && o.Declared == 2 })

			w.Generation = 3
			added := w.Spec.ProcessingGroups[0]
			added.Name = "added"
			w.Spec.ProcessingGroups = append(w.Spec.ProcessingGroups[:1:1], added)
			s.Want(orders, w)
			until(t, s, news, "a new group to wait", func(o Observation) bool { return down(o) && o.Declared == 0 && len(o.Facts.Groups) == 1 })

			all.set("events", events)
			until(t, s, news, "the new group to start", func(o Observation) bool { return declared(3)(o) && len(o.Facts.Groups) == 2 })
		})
	}
}

// TestASourceThatWasNeverReachedIsNoProblemOfTheStore: there is nothing to plan yet.
func TestASourceThatWasNeverReachedIsNoProblemOfTheStore(t *testing.T) {
	all := &secrets{urls: map[string]string{"db": postgrestest.New(t)}}
	s, news := runWith(t, all)
	s.Want(orders, wantedIn(inEvents))
	until(t, s, news, "a report of the outage", func(o Observation) bool {
		if o.Problem != nil {
			t.Fatalf("the store is said to have the problem %+v", o.Problem)
		}
		return o.Seen && o.Source != nil && strings.Contains(o.Source.Message, "Secret events does not exist")
	})
	all.set("events", eventsDatabase(t))
	until(t, s, news, "the first declaration", declared(1))
}

// TestAStoreThatIsDownIsNoProblemOfTheSource also if the source was down before.
func TestAStoreThatIsDownIsNoProblemOfTheSource(t *testing.T) {
	server := postgrestest.Start(t)
	all := &secrets{urls: map[string]string{"db": server.URL("postgres"), "events": eventsDatabase(t)}}
	s, news := runWith(t, all)
	s.Want(orders, wantedIn(inEvents))
	until(t, s, news, "the first look", declared(1))
	all.set("events", "")
	until(t, s, news, "the source's outage", func(o Observation) bool { return o.Source != nil })
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	until(t, s, news, "the store's outage", func(o Observation) bool { return o.Problem != nil && o.Problem.Outage() && o.Source == nil })
}

// TestThePlanIsRenewedWhileASourceDoesNotAnswer: workers would plan otherwise.
func TestThePlanIsRenewedWhileASourceDoesNotAnswer(t *testing.T) {
	ctx := context.Background()
	store := postgrestest.New(t)
	all := &secrets{urls: map[string]string{"db": store, "events": eventsDatabase(t)}}
	s, news := runWith(t, all)
	s.Want(orders, wantedIn(inEvents))
	until(t, s, news, "the first look", declared(1))
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts connections
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	conn, err := pgx.Connect(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	all.set("events", "postgres://app@"+silent.Addr().String()+"/app")
	until(t, s, news, "the silence", func(o Observation) bool {
		var age time.Duration
		if err := conn.QueryRow(ctx, "SELECT clock_timestamp() - plan_renewed_at FROM sluice.processor").Scan(&age); err != nil {
			t.Fatal(err)
		}
		if age > tokenstore.PlannerTimeout {
			t.Fatalf("the plan was renewed %s ago", age)
		}
		return o.Source != nil && strings.Contains(o.Source.Message, "no answer in time")
	})
}

func TestAnAnswerThatComesLaterWakesTheLoopOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b beside[int]
		wakes, begun := 0, 0
		release := make(chan struct{})
		ask := func(n int) (int, error, bool) {
			return b.ask(t.Context(), func() { wakes++ }, func(context.Context) (int, error) {
				begun++
				if n == 2 {
					<-release
				}
				return n, nil
			})
		}
		expect := func(n, want int, answered bool, wantWakes int) {
			t.Helper()
			got, err, is := ask(n)
			synctest.Wait()
			if got != want || err != nil || is != answered || wakes != wantWakes {
				t.Fatalf("%d: got %d, %v, %v, woken %d times", n, got, err, is, wakes)
			}
		}
		expect(1, 1, true, 0)
		expect(2, 0, false, 0)
		expect(3, 0, false, 0)
		close(release)
		synctest.Wait()
		if wakes != 1 || begun != 2 {
			t.Fatalf("woken %d times, %d pieces of work begun", wakes, begun)
		}
		expect(4, 2, true, 1)
		expect(5, 5, true, 1)
	})
}
