package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
	storespostgres "github.com/sluice-project/sluice/controllers/stores/postgres"
	"github.com/sluice-project/sluice/definition"
	eventpostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

const (
	// reported is how long the operator may take to name what fails after its time limit.
	reported = 30 * time.Second
	// patience is how long everything else may take: the machine may be busy.
	patience = 60 * time.Second
	// quickest is the least time between two attempts, once there have been a few.
	quickest = 200 * time.Millisecond
	// first is how many calls there may be at once: a batch is tried whole, in halves and alone,
	// and a lost connection is tried again before its event is marked.
	first = 16
)

// stage is one store and one operator, with a processor and a worker for each row of the table.
type stage struct {
	url    string
	pool   *pgxpool.Pool
	log    *eventpostgres.Log
	stores *stores.Stores
	slots  chan struct{} // for rows that run at once: each has connections of its own
	rows   atomic.Int64
}

func newStage(t *testing.T) *stage {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	st := &stage{url: postgrestest.New(t), slots: make(chan struct{}, 28)}
	target, err := access.FromURL(st.url)
	if err != nil {
		t.Fatal(err)
	}
	if st.pool, err = postgres.Open(postgres.Options{Target: target, Application: "test", MaxConns: 6}); err != nil {
		t.Fatal(err)
	}
	st.log = eventpostgres.NewLog(st.pool, postgres.DefaultSchema)
	err = st.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		_, err := postgres.Migrate(ctx, conn.Conn(), postgres.DefaultSchema)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.pool.Exec(ctx, `CREATE TABLE mended (id bigint);
		DO 'BEGIN CREATE ROLE nobody; EXCEPTION WHEN duplicate_object THEN END'`); err != nil {
		t.Fatal(err)
	}
	st.stores = stores.New(stores.Options{
		Backend: storespostgres.Backend{AllowLoopback: true, Secrets: func(string) connection.Secrets {
			return func(context.Context, string, string) ([]byte, error) { return []byte(st.url), nil }
		}},
		Changed: func(types.NamespacedName) {}, Planner: "operator/test", MaxSessions: 1, Log: logr.Discard(),
	})
	var running sync.WaitGroup
	running.Go(func() { _ = st.stores.Start(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		st.pool.Close()
	})
	return st
}

// row is a processor with a group that misbehaves, and one beside it that does not.
type row struct {
	*stage
	t      *testing.T
	id     int64
	key    types.NamespacedName
	spec   definition.Spec
	worker atomic.Pointer[worker.Worker]

	calls   atomic.Int64 // of a Go handler while it misbehaves
	mended  chan struct{}
	undo    []string // statements that take causes away
	replays []tokenstore.ReplayRequest
	began   time.Time // to misbehave
}

// newRow waits for a slot.
func (st *stage) newRow(t *testing.T) *row {
	t.Helper()
	st.slots <- struct{}{}
	id := st.rows.Add(1)
	r := &row{stage: st, t: t, id: id, key: types.NamespacedName{Namespace: "shop", Name: fmt.Sprintf("row-%d", id)}, mended: make(chan struct{})}
	r.exec(`CREATE TABLE seen_{id} (n bigserial, position bigint NOT NULL);
		CREATE TABLE once_{id} (i int PRIMARY KEY);
		CREATE TABLE late_{id} (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE a_{id} (i int); CREATE TABLE b_{id} (i int);
		CREATE SEQUENCE calls_{id}`)
	t.Cleanup(func() {
		<-st.slots
		r.exec(`DROP TABLE seen_{id}, once_{id}, late_{id}, a_{id}, b_{id}`)
	})
	return r
}

// own fills the number of the row in, which makes names its own.
func (r *row) own(text string) string { return strings.ReplaceAll(text, "{id}", fmt.Sprint(r.id)) }

func (r *row) exec(sql string) {
	r.t.Helper()
	if _, err := r.pool.Exec(context.Background(), r.own(sql)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *row) query(sql string, args ...any) (holds bool) {
	return r.pool.QueryRow(context.Background(), r.own(sql), args...).Scan(&holds) == nil && holds
}

// misbehaves makes a function of the database that does something as long as it is not mended.
func (r *row) misbehaves(body string) {
	r.exec(`CREATE FUNCTION bad_{id}() RETURNS int LANGUAGE plpgsql VOLATILE AS $bad$
		BEGIN
		  IF EXISTS (SELECT FROM public.mended WHERE id = {id}) THEN RETURN 1; END IF;
		  PERFORM nextval('public.calls_{id}');
		  ` + body + `;
		  RETURN 1;
		END $bad$`)
}

// start has the operator know the processor, and a worker run it.
func (r *row) start(group string, handle handler.Handler) {
	r.t.Helper()
	document, err := definition.ParseYAML([]byte(r.own(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: row-{id}}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}
  processingGroups:
  - name: fine-{id}
    segments: 2
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS fine_{id} (position bigint PRIMARY KEY)
        statements:
        - {eventTypes: [Good{id}, Bad{id}], batch: INSERT INTO fine_{id} SELECT position FROM events}
  - name: calls-{id}
    segments: 1
    onError: {backoff: {initial: 100ms, max: 400ms}}` + group)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.spec = document.Spec
	r.want()
	target, err := access.FromURL(r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	handlers := map[string]handler.Handler{}
	if handle != nil {
		handlers[r.own("calls-{id}")] = handle
	}
	o := worker.Options{Processor: r.name(), Pod: "a", Definition: r.spec.Definition(), DefinitionID: r.spec.Definition().ID(), Handlers: handlers,
		Backend: backend.Postgres{Target: target, Schema: postgres.DefaultSchema}, Version: "test", Executors: 2, CallGrace: 300 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	r.worker.Store(worker.New(o))
	var running sync.WaitGroup
	running.Go(func() {
		err := r.worker.Load().Run(ctx)
		for errors.Is(err, worker.ErrCallsHang) { // its container ends and is started again
			r.worker.Store(worker.New(o))
			err = r.worker.Load().Run(ctx)
		}
		if err != nil {
			r.t.Errorf("the worker: %v", err)
		}
	})
	r.t.Cleanup(func() {
		r.mend()
		cancel()
		running.Wait()
		r.stores.Forget(r.key)
	})
}

func (r *row) name() string { return "test/shop/" + r.key.Name }

// want has the operator ask the store for what the processor is to be.
func (r *row) want() {
	r.stores.Want(r.key, stores.Wanted{Namespace: "shop", Name: r.name(), Generation: 1, Definition: r.spec.Definition().ID(), Spec: r.spec, Replays: r.replays})
}

// replay asks for a replay of the group.
func (r *row) replay(id string) {
	groups := []string{r.own("calls-{id}")}
	r.replays = append(r.replays, tokenstore.ReplayRequest{ID: id, Groups: groups, From: progress.StartPosition{Type: progress.Earliest},
		Definition: r.spec.Definition().ID(), State: tokenstore.ReplayWanted, Sequencing: r.spec.Sequencings(groups)})
	r.want()
}

// phase returns how far a replay has come.
func (r *row) phase(id string) tokenstore.ReplayPhase {
	for _, replay := range r.stores.Observe(r.key).Facts.Replays {
		if replay.ID == id {
			return replay.Phase
		}
	}
	return ""
}

// append appends events of some kinds, Good or Bad, at once.
func (r *row) append(stream string, kinds ...string) {
	r.t.Helper()
	var events []eventpostgres.NewEvent
	for _, kind := range kinds {
		events = append(events, eventpostgres.NewEvent{Type: fmt.Sprint(kind, r.id), Data: map[string]int{"n": 1}})
	}
	if _, err := r.log.Append(context.Background(), fmt.Sprint(stream, "-", r.id), eventpostgres.Any, events...); err != nil {
		r.t.Fatal(err)
	}
}

// bad returns the position of the event at which the group misbehaves.
func (r *row) bad() (position int64) {
	r.t.Helper()
	err := r.pool.QueryRow(context.Background(), `SELECT position FROM sluice.event WHERE type = $1`, r.own("Bad{id}")).Scan(&position)
	if err != nil {
		r.t.Fatal(err)
	}
	return position
}

// conditions are those that the operator would write now, one a line: of the processor, and of its
// Replays.
func (r *row) conditions() (text string) {
	s := healthy(r.t, func(s *scope) {
		s.now = time.Now()
		s.store = r.stores.Observe(r.key)
		s.desired = desired.Processor{Object: s.desired.Object, Spec: r.spec, ID: r.spec.Definition().ID()}
	})
	add := func(all []metav1.Condition) {
		for _, c := range all {
			text += fmt.Sprintf("%s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	add(statusOf(s).Conditions)
	for i := range s.store.Facts.Replays {
		row := &s.store.Facts.Replays[i]
		object := &v1alpha1.Replay{ObjectMeta: metav1.ObjectMeta{Name: row.ID}, Spec: v1alpha1.ReplaySpec{ProcessorName: r.key.Name, Groups: row.Groups}}
		add(replayStatus(object, s, row, s.now).Conditions)
	}
	return text
}

// says reports whether one condition has all of some parts, which are regular expressions.
func (r *row) says(parts ...string) bool {
	for line := range strings.Lines(r.conditions()) {
		all := true
		for _, part := range parts {
			all = all && regexp.MustCompile(r.own(part)).MatchString(line)
		}
		if all {
			return true
		}
	}
	return false
}

// until waits for something to hold.
func (r *row) until(limit time.Duration, what string, holds func() bool) {
	r.t.Helper()
	for began := time.Now(); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > limit {
			r.t.Fatalf("waited %s for %s\n%s%d calls\n%+v", limit, what, r.conditions(), r.count(), r.worker.Load().Holdings())
		}
	}
}

// whether the group is not mended yet; the call counts.
func (r *row) isBad() bool {
	select {
	case <-r.mended:
		return false
	default:
		r.calls.Add(1)
		return true
	}
}

// mend takes away what makes the group misbehave.
func (r *row) mend() {
	select {
	case <-r.mended:
		return
	default:
	}
	r.exec(`INSERT INTO mended VALUES ({id})`)
	for _, undo := range r.undo {
		r.exec(undo)
	}
	close(r.mended)
}

// count is how often the group has misbehaved.
func (r *row) count() int64 {
	var inDatabase int64
	err := r.pool.QueryRow(context.Background(), r.own(`SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM calls_{id}`)).Scan(&inDatabase)
	if err != nil {
		r.t.Fatal(err)
	}
	return max(inDatabase, r.calls.Load())
}

// goesOn checks that the other group handles what is appended now, and that nothing behind the
// event that fails is handled.
func (r *row) goesOn() {
	r.t.Helper()
	began := time.Now()
	r.append("other", "Good", "Good")
	r.until(patience, "the other group", func() bool {
		return r.query(`SELECT (SELECT count(*) FROM fine_{id}) = (SELECT count(*) FROM sluice.event WHERE type IN ('Good{id}', 'Bad{id}'))`)
	})
	if took := time.Since(began); took > 10*time.Second {
		r.t.Errorf("the other group took %s", took)
	}
}

// backsOff checks that attempts have waits between them.
func (r *row) backsOff() {
	r.t.Helper()
	took := time.Since(r.began)
	if n, most := r.count(), first+int64(took/quickest); n > most {
		r.t.Errorf("it was called %d times in %s, want %d at most", n, took, most)
	}
}

// recovers mends the group, and waits until all events are handled, once and in order, and nothing
// is reported any more.
func (r *row) recovers() {
	r.t.Helper()
	r.mend()
	r.handled()
	r.stores.Wake(r.key) // it looks seldom
	r.until(patience, "clear conditions", func() bool { return r.says("Degraded=False Healthy") && r.says("HandlerValid=True") })
}

func (r *row) handled() {
	r.t.Helper()
	r.until(patience, "all events, once and in order", func() bool {
		return r.query(`SELECT (SELECT array_agg(position ORDER BY n) FROM seen_{id}) = (SELECT array_agg(position ORDER BY position) FROM sluice.event WHERE type IN ('Good{id}', 'Bad{id}'))`)
	})
}

// record is what a handler does with an event that it handles.
func (r *row) record(ctx context.Context, tx pgx.Tx, e handler.Event) error {
	_, err := tx.Exec(ctx, r.own(`INSERT INTO public.seen_{id} (position) VALUES ($1)`), e.Position)
	return err
}

// keep holds something in the database, in a transaction of its own, until the row is mended. What
// it does meanwhile is done again and again.
func (r *row) keep(hold string, meanwhile ...string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := pgx.Connect(ctx, r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, r.own(hold))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	isMended := func() bool {
		select {
		case <-r.mended:
			return true
		default:
			return false
		}
	}
	var running sync.WaitGroup
	running.Go(func() {
		for len(meanwhile) > 0 && !isMended() {
			if _, err := tx.Exec(ctx, r.own(strings.Join(meanwhile, "; "))); err != nil {
				r.t.Errorf("while something is held: %v", err)
				break
			}
		}
		<-r.mended
		if err := conn.Close(context.Background()); err != nil {
			r.t.Errorf("ending what was held: %v", err)
		}
	})
	r.t.Cleanup(func() {
		r.mend()
		running.Wait()
		cancel()
	})
}
