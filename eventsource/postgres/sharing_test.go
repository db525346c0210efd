package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/pgproxy"
)

// asked is an append, and what was answered.
type asked struct {
	stream  string
	ids     []string
	version postgres.Version // 0 where nothing was appended
	unknown bool             // whether it was
}

// One in many appends at the same time meets a conflict, or is refused by the server: the others are made, each once and with the versions that it
// was told. So they are where connections are lost, but for those that have been told that.
func TestWhatSharesATransactionIsNotFeltByOthers(t *testing.T) {
	for _, killing := range []bool{false, true} {
		t.Run(fmt.Sprintf("killing=%t", killing), func(t *testing.T) {
			t.Parallel()
			db := database(t)
			url := db.Config().ConnString()
			log := newLog(t, pool(t, url+"&application_name=appends"))
			var mu sync.Mutex
			var all []asked
			var shared atomic.Bool // enough have, to say something: on a busy machine few wait at the same time, and it takes longer
			done, killed, looked := make(chan struct{}), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(looked)
				for !shared.Load() {
					select {
					case <-done:
						return
					case <-time.After(50 * time.Millisecond):
					}
					shared.Store(query[bool](t, db, "SELECT 2 * count(DISTINCT (stream_id, txid)) > 3 * count(DISTINCT txid) FROM sluice.event"))
				}
			}()
			go func() {
				defer close(killed)
				for n := 0; killing; n++ {
					select {
					case <-done:
						return
					case <-time.After(20 * time.Millisecond):
					}
					exec(t, db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'appends' AND datname = current_database() ORDER BY hashint4(pid + $1) LIMIT 1", n)
				}
			}()
			concurrently(48, func(client int) {
				c := &appender{t: t, db: db, log: log, own: fmt.Sprint("own-", client), random: rand.New(rand.NewPCG(uint64(client), 1)), killing: killing}
				for n := 0; n < 60 || n < 500 && !shared.Load(); n++ {
					c.append()
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, c.asked...)
			})
			close(done)
			<-killed
			<-looked
			judgeAppends(t, db, all)
		})
	}
}

// Where the answer to a shared transaction is lost, those that share it are told so, and nobody appends their events again.
func TestASharedTransactionIsNotRepeatedWhereItsOutcomeIsUnknown(t *testing.T) {
	for _, do := range []pgproxy.Action{pgproxy.CutBefore, pgproxy.CutAfter, pgproxy.Swallow} {
		t.Run(do.String(), func(t *testing.T) {
			t.Parallel()
			url := migrated(t, schema)
			db, proxy := pool(t, url), pgproxy.Start(t, url)
			log := newLog(t, pool(t, proxy.URL()))
			cut := proxy.Set(pgproxy.Rule{Nth: 10, Do: do, When: func(m pgproxy.Message) bool { return m.Commits() && m.Ran("lock_timeout", "INSERT INTO") }})
			var mu sync.Mutex
			var all []asked
			var settled atomic.Bool
			go func() {
				cut.WaitSettled()
				settled.Store(true)
			}()
			concurrently(48, func(client int) {
				c := &appender{t: t, db: db, log: log, own: fmt.Sprint("own-", client), random: rand.New(rand.NewPCG(uint64(client), 1)), killing: true, quiet: true}
				for n := 0; n < 20 || !settled.Load() && n < 2000; n++ {
					c.append()
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, c.asked...)
			})
			if !settled.Load() {
				t.Fatal("vacuous: there were no ten shared transactions")
			}
			judgeAppends(t, db, all)
			if unknown := slices.DeleteFunc(all, func(a asked) bool { return !a.unknown }); len(unknown) < 2 {
				t.Errorf("%d appends were told that it is not known what became of them; two at least shared the transaction", len(unknown))
			}
		})
	}
}

// appender appends to streams that others append to, and to one of its own.
type appender struct {
	t       *testing.T
	db      postgres.DB
	log     *postgres.Log
	random  *rand.Rand
	killing bool
	quiet   bool // it appends to its own stream alone, and makes no mistakes

	own     string
	version postgres.Version // of its own stream
	late    bool             // the stream may get further events: the server may commit what was cut off
	asked   []asked
}

func (c *appender) append() {
	events := make([]postgres.NewEvent, 1+c.random.IntN(3))
	a := asked{stream: c.own}
	for i := range events {
		events[i] = postgres.NewEvent{Type: "Happened", ID: uuid.NewString()}
		a.ids = append(a.ids, events[i].ID)
	}
	expected, conflicts, refused := c.version, false, false
	switch n := c.random.IntN(40); {
	case c.quiet:
	case n == 0:
		events[len(events)-1].Data, refused = json.RawMessage(`"\u0000"`), true
	case n < 5:
		expected, conflicts = c.version+1, true
	case n < 20:
		a.stream, expected = fmt.Sprint("common-", c.random.IntN(5)), postgres.Any
	}
	version, err := c.log.Append(c.t.Context(), a.stream, expected, events...)
	conflict, isConflict := errors.AsType[*postgres.ConflictError](err)
	pg, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil && !conflicts && !refused:
		if a.version = version; expected != postgres.Any {
			if version != expected+postgres.Version(len(events)) {
				c.t.Errorf("%d events were appended at version %d: the new one is %d", len(events), expected, version)
			}
			c.version, c.late = version, false
		}
	case isConflict && c.late && conflict.Actual > c.version:
		c.version, c.late = conflict.Actual, false
	case isConflict && conflicts && conflict.Actual == c.version, pg != nil && pg.Code == "22P05" && refused:
	case err != nil && c.killing && !isConflict:
		a.unknown, c.late = true, true
		c.version = query[postgres.Version](c.t, c.db, "SELECT coalesce(max(version), 0) FROM sluice.event WHERE stream_id = $1", c.own)
	default:
		c.t.Errorf("%d events at version %d of %s: %v", len(events), expected, a.stream, err)
	}
	c.asked = append(c.asked, a)
}

// judgeAppends holds what was answered against what is there.
func judgeAppends(t *testing.T, db postgres.DB, all []asked) {
	t.Helper()
	type row struct {
		stream  string
		version postgres.Version
	}
	there := map[string]row{}
	rows, err := db.Query(t.Context(), "SELECT id::text, stream_id, version FROM sluice.event")
	if err != nil {
		t.Fatal(err)
	}
	var id string
	var r row
	if _, err := pgx.ForEachRow(rows, []any{&id, &r.stream, &r.version}, func() error {
		if _, twice := there[id]; twice {
			t.Errorf("event %s is there twice", id)
		}
		there[id] = r
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	made, unknown := 0, 0
	for _, a := range all {
		found := 0
		for i, id := range a.ids {
			r, ok := there[id]
			delete(there, id)
			if ok {
				found++
			}
			if a.version > 0 && r != (row{a.stream, a.version - postgres.Version(len(a.ids)-1-i)}) {
				t.Errorf("event %d of %d up to version %d of %s is at %+v", i+1, len(a.ids), a.version, a.stream, r)
			}
		}
		switch {
		case a.unknown:
			unknown++
			if found > 0 && found < len(a.ids) {
				t.Errorf("of %d events %d are there", len(a.ids), found)
			}
		case a.version == 0 && found > 0:
			t.Errorf("%d events are there of an append to %s that failed", found, a.stream)
		case a.version > 0:
			made++
		}
	}
	if len(there) > 0 {
		t.Errorf("%d events are there that nobody has appended", len(there))
	}
	if gaps := query[int](t, db, "SELECT count(*) FROM (SELECT FROM sluice.event GROUP BY stream_id HAVING max(version) <> count(*)) s"); gaps > 0 {
		t.Errorf("%d streams have gaps", gaps)
	}
	if out := query[int](t, db, "SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY stream_id ORDER BY position) AS before FROM sluice.event) e WHERE version <= before"); out > 0 {
		t.Errorf("%d versions stand before a lower one", out)
	}
	transactions := query[int](t, db, "SELECT count(DISTINCT txid) FROM sluice.event")
	t.Logf("%d appends by %d transactions; of %d it is not known", made, transactions, unknown)
	if transactions > made*3/4 {
		t.Error("vacuous: hardly any have shared a transaction")
	}
}

// Appends to a stream that somebody's open transaction appends to wait for that; appends to others do not, however many wait.
func TestAppendsThatWaitHoldNobodyUp(t *testing.T) {
	t.Parallel()
	db := database(t)
	log := newLog(t, db)
	open, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Rollback(context.WithoutCancel(t.Context()))
	if _, err := log.AppendTx(t.Context(), open, "held", postgres.Any, happened); err != nil {
		t.Fatal(err)
	}
	const clients, each = 16, 25
	var ended atomic.Int64
	var held sync.WaitGroup
	for range clients {
		held.Go(func() {
			if _, err := log.Append(t.Context(), "held", postgres.Any, happened); err != nil {
				t.Error(err)
			}
			ended.Add(1)
		})
	}
	for query[int](t, db, "SELECT count(*) FROM pg_locks WHERE NOT granted") < 4 {
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	concurrently(clients, func(client int) {
		for range each {
			if _, err := log.Append(ctx, fmt.Sprint("free-", client), postgres.Any, happened); err != nil {
				t.Error(err)
				return
			}
		}
	})
	if ended.Load() > 0 {
		t.Errorf("%d appends did not wait for the transaction that they have to wait for", ended.Load())
	}
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	held.Wait()
	for _, stream := range column[string](t, db, "SELECT stream_id || ' ' || max(version) || ' ' || count(*) FROM sluice.event GROUP BY stream_id") {
		var name string
		var last, count int
		if _, err := fmt.Sscan(stream, &name, &last, &count); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: clients + 1, false: each}[name == "held"]; last != want || count != want {
			t.Errorf("stream %s has %d events up to version %d, want %d", name, count, last, want)
		}
	}
}

// Who does not want to wait any more does not, and others do not feel it.
func TestAnAppendEndsWithItsContext(t *testing.T) {
	t.Parallel()
	db := database(t)
	log := newLog(t, db)
	locked, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer locked.Rollback(context.WithoutCancel(t.Context()))
	if _, err := locked.Exec(t.Context(), "LOCK TABLE sluice.event"); err != nil {
		t.Fatal(err)
	}
	const clients = 30
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var leaving, staying sync.WaitGroup
	for range clients {
		leaving.Go(func() {
			if _, err := log.Append(ctx, "a", postgres.Any, happened); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	for range 5 {
		staying.Go(func() {
			if _, err := log.Append(t.Context(), "b", postgres.Any, happened); err != nil {
				t.Error(err)
			}
		})
	}
	for query[int](t, db, "SELECT count(*) FROM pg_locks WHERE NOT granted") < 4 {
	}
	cancel()
	leaving.Wait()
	if err := locked.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	staying.Wait()
	if b := query[int](t, db, "SELECT count(*) FROM sluice.event WHERE stream_id = 'b'"); b != 5 {
		t.Errorf("%d events of 5", b)
	}
	if gaps := query[int](t, db, "SELECT count(*) FROM (SELECT FROM sluice.event GROUP BY stream_id HAVING max(version) <> count(*)) s"); gaps > 0 {
		t.Errorf("%d streams have gaps", gaps)
	}
}

// refusing is a database in which appends alone take as long as the test wants, and shared ones are refused then.
type refusing struct {
	postgres.DB
	refuse, end chan struct{}

	mu    sync.Mutex
	alone []string // the data of appends
}

func (r *refusing) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) { // notifications
	return pgconn.CommandTag{}, nil
}

func (r *refusing) QueryRow(_ context.Context, _ string, args ...any) pgx.Row {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone = append(r.alone, fmt.Sprint(args[3]))
	return rowAfter{r.end}
}

func (r *refusing) SendBatch(context.Context, *pgx.Batch) pgx.BatchResults {
	return refused{after: r.refuse}
}

type rowAfter struct{ end chan struct{} }

func (r rowAfter) Scan(values ...any) error {
	<-r.end
	*values[0].(*postgres.Version) = 1
	return nil
}

type refused struct {
	pgx.BatchResults
	after chan struct{}
}

func (r refused) Close() error {
	<-r.after
	return &pgconn.PgError{SeverityUnlocalized: "ERROR"}
}

// What a caller does with its bytes when it does not wait any more is not appended.
func TestAnAppendKeepsItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &refusing{refuse: make(chan struct{}), end: make(chan struct{})}
		log := postgres.NewLog(db, schema)
		var running sync.WaitGroup
		for range 5 { // four are under way, the fifth shares with the next
			running.Go(func() {
				if _, err := log.Append(t.Context(), "a", postgres.Any, happened); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		data := json.RawMessage(`{"n": 1}`)
		left := make(chan error)
		go func() {
			_, err := log.Append(ctx, "a", postgres.Any, postgres.NewEvent{Type: "Happened", Data: data})
			left <- err
		}()
		time.Sleep(time.Second) // they are not waited for as long
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		copy(data, `{"n": 2}`)
		close(db.refuse)
		synctest.Wait()
		close(db.end)
		running.Wait()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
		if want := []string{"{}", "{}", "{}", "{}", "{}", `{"n": 1}`}; !slices.Equal(slices.Sorted(slices.Values(db.alone)), slices.Sorted(slices.Values(want))) {
			t.Errorf("appended: %s, want %s", db.alone, want)
		}
	})
}
