package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// place is a store on a server that has others, which look as much like it as they can.
type place struct {
	name, schema string
	options      postgres.Options
	pool         *pgxpool.Pool
	directory    *postgres.Directory
	store        *postgres.Store
	home         string
}

func placeIn(t *testing.T, name, database, schema string) place {
	t.Helper()
	p := place{name: name, schema: schema, options: options(t, database)}
	pool, err := postgres.Open(p.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	conn, err := postgres.Connect(t.Context(), p.options)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := postgres.Migrate(t.Context(), conn, schema); err != nil {
		t.Fatal(err)
	}
	meta, err := postgres.Check(t.Context(), conn, schema)
	if err != nil {
		t.Fatal(err)
	}
	p.pool, p.directory, p.store, p.home = pool, postgres.NewDirectory(pool, schema), postgres.NewStore(pool, schema), meta.Home
	return p
}

// neighbours are a store, another one in the same database with the same id, and a copy of both in
// another database of the server. In each, worker 7 holds its session lock and has a connection.
func neighbours(t *testing.T) []place {
	t.Helper()
	database := postgrestest.New(t)
	a, b := placeIn(t, "schema a", database, "a"), placeIn(t, "schema b", database, "b")
	exec(t, a.pool, `UPDATE b.meta SET store_id = (SELECT store_id FROM a.meta)`)
	a.pool.Reset()
	b.pool.Reset()
	count(t, admin(t, database), 0, `SELECT count(*) FROM pg_stat_activity WHERE datname = $1`, nameOf(t, database))
	copied := nameOf(t, database) + "_copy"
	exec(t, admin(t, database), `CREATE DATABASE `+copied+` TEMPLATE `+nameOf(t, database))
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + copied
	return []place{placeIn(t, "schema a", database, "a"), placeIn(t, "schema b", database, "b"),
		placeIn(t, "schema a of the copy", u.String(), "a"), placeIn(t, "schema b of the copy", u.String(), "b")}
}

func nameOf(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path[1:]
}

// admin is a pool on the server's own database.
func admin(t *testing.T, database string) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/postgres"
	pool, err := postgres.Open(options(t, u.String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// live has worker 7 register, hold its lock and connect.
func (p place) live(t *testing.T) (*postgres.Session, *pgx.Conn) {
	t.Helper()
	session, err := postgres.OpenSession(t.Context(), p.options, postgres.Channel(p.schema), postgres.LiveChannel(p.schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() }) // it may be closed
	if got, err := session.Lock(t.Context(), p.schema, 7); err != nil || !got {
		t.Fatalf("%s: the session lock of its own worker 7: %t, %v", p.name, got, err)
	}
	w := worker(7)
	w.SessionLock = true
	if err := p.directory.Register(t.Context(), processor, w); err != nil {
		t.Fatal(err)
	}
	return session, p.connect(t, postgres.ApplicationOf(p.home, 7, nonce))
}

func (p place) connect(t *testing.T, application string) *pgx.Conn {
	t.Helper()
	o := p.options
	o.Application = application
	conn, err := postgres.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) // it may have been ended
	return conn
}

func lives(t *testing.T, conn *pgx.Conn) bool {
	t.Helper()
	_, err := conn.Exec(t.Context(), "SELECT")
	return err == nil
}

func TestWorkersOfOtherStoresAreNeitherBlockedNorEnded(t *testing.T) {
	places := neighbours(t)
	var conns []*pgx.Conn
	var sessions []*postgres.Session
	for _, p := range places {
		if err := p.directory.DeclareProcessor(t.Context(), tokenstore.Processor{Name: processor, Definition: "one", Replicas: 1, Live: []byte(`{}`)}); err != nil {
			t.Fatal(err)
		}
		session, conn := p.live(t)
		conns, sessions = append(conns, conn), append(sessions, session)
	}
	afterStart(t, places[0].pool)
	if err := sessions[0].Close(); err != nil {
		t.Fatal(err)
	}
	for i, p := range places {
		v, err := p.directory.View(t.Context(), processor)
		if err != nil {
			t.Fatal(err)
		}
		if w := v.Workers[0]; i > 0 && (!w.SessionLock || !w.Alive) {
			t.Errorf("%s: its worker has a lock: %t, and is alive: %t", p.name, w.SessionLock, w.Alive)
		}
	}
	count(t, places[0].pool, 0, `SELECT count(*) FROM pg_locks l JOIN a.worker w ON l.classid = w.lock_class::oid AND l.objid = 7
		WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	if n, err := places[0].directory.Evict(t.Context(), []int64{7}); err != nil || n != 1 {
		t.Errorf("ended %d connections of worker 7 of %s: %v", n, places[0].name, err)
	}
	for i, p := range places {
		if got, want := lives(t, conns[i]), i > 0; got != want {
			t.Errorf("the connection of worker 7 of %s lives: %t", p.name, got)
		}
	}
	exec(t, places[1].pool, `DELETE FROM b.worker`) // its row may be gone
	if n, err := places[1].directory.Evict(t.Context(), []int64{7, 77}); err != nil || n != 1 {
		t.Errorf("ended %d connections of worker 7 of %s: %v", n, places[1].name, err)
	}
	if !lives(t, conns[2]) || !lives(t, conns[3]) {
		t.Error("connections of the copy were ended")
	}
}

func TestOnlyBlockersOfTheSameStoreAreEnded(t *testing.T) {
	places := neighbours(t)
	conns := map[string]*pgx.Conn{"report": places[0].connect(t, "report"), "sluice:7": places[0].connect(t, "sluice:7")}
	var blockers []postgres.Blocker
	for _, p := range places {
		conns[p.name] = p.connect(t, postgres.ApplicationOf(p.home, 8, nonce))
	}
	for _, conn := range conns {
		blockers = append(blockers, postgres.Blocker{PID: conn.PgConn().PID()})
	}
	if err := places[0].store.Unblock(t.Context(), blockers); err != nil {
		t.Fatal(err)
	}
	for name, conn := range conns {
		if got, want := lives(t, conn), name != places[0].name; got != want {
			t.Errorf("the connection %s lives: %t, want %t", name, got, want)
		}
	}
}

func acquires(t *testing.T, permits *postgres.Permits, want bool) {
	t.Helper()
	if got, err := permits.Acquire(t.Context()); err != nil || got != want {
		t.Fatalf("acquired a permit: %t, %v, want %t", got, err, want)
	}
}

func TestLocksOfOneSchemaAreFreeInAnother(t *testing.T) {
	database := postgrestest.New(t)
	a, b := placeIn(t, "a", database, "a"), placeIn(t, "b", database, "b")
	permitsOf := func(p place) *postgres.Permits {
		permits := postgres.NewPermits(p.options, p.schema, 1)
		t.Cleanup(func() { permits.Close() })
		return permits
	}
	acquires(t, permitsOf(a), true)
	acquires(t, permitsOf(a), false)
	acquires(t, permitsOf(b), true)
	planned := 0
	if _, err := a.directory.PlannerLock(t.Context(), processor, func() error {
		for _, p := range []place{a, b} {
			got, err := p.directory.PlannerLock(t.Context(), processor, func() error { planned++; return nil })
			if err != nil || got != (p.name == "b") {
				t.Errorf("schema %s plans beside schema a: %t, %v", p.name, got, err)
			}
		}
		return nil
	}); err != nil || planned != 1 {
		t.Errorf("planned %d times, %v", planned, err)
	}
	for _, p := range []place{a, b} {
		if err := p.directory.DeclareProcessor(t.Context(), tokenstore.Processor{Name: processor, Definition: "one", Replicas: 1, Live: []byte(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, a.pool, `CREATE TABLE waits ()`)
	held := a.connect(t, "holds the table")
	if _, err := held.Exec(t.Context(), `BEGIN; LOCK TABLE waits`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- a.directory.SetupOnce(context.Background(), processor, "one", "view", "LOCK TABLE waits IN ACCESS SHARE MODE", 0)
	}()
	count(t, b.pool, 1, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.directory.SetupOnce(ctx, processor, "one", "view", "SELECT", 0); err != nil {
		t.Errorf("a setup beside another schema's: %v", err)
	}
	if err := held.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the setup that waited: %v", err)
	}
}

func TestMigrationsOfOneSchemaDoNotWaitForAnother(t *testing.T) {
	database := postgrestest.New(t)
	pool, err := postgres.Open(options(t, database))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	connect := func() *pgx.Conn {
		conn, err := postgres.Connect(t.Context(), options(t, database))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	// While another transaction makes schema a, its migration waits, and its lock is to be seen.
	blocker := connect()
	if _, err := blocker.Exec(t.Context(), `SET idle_in_transaction_session_timeout = 0; BEGIN; CREATE SCHEMA a`); err != nil {
		t.Fatal(err)
	}
	migrating, waiting := make(chan error, 1), connect()
	go func() {
		_, err := postgres.Migrate(context.Background(), waiting, "a")
		migrating <- err
	}()
	var class, object uint32
	err = pgx.ErrNoRows
	for errors.Is(err, pgx.ErrNoRows) {
		err = pool.QueryRow(t.Context(), `SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&class, &object)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			t.Fatal(err)
		}
	}
	if err := <-migrating; err == nil {
		t.Fatal("the migration did not wait for schema a")
	}
	holder := connect()
	if _, err := holder.Exec(t.Context(), `SELECT pg_advisory_lock($1::int, $2::int)`, int32(class), int32(object)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if done, err := postgres.Migrate(ctx, connect(), "b"); err != nil || len(done) == 0 {
		t.Errorf("migrating schema b while schema a is being migrated: %v, %v", done, err)
	}
}

// formerWorker is worker 7 of a runtime that is older than installations, with the lock and
// connection that it has.
func formerWorker(t *testing.T, p place) (*pgx.Conn, *pgx.Conn) {
	t.Helper()
	exec(t, p.pool, `INSERT INTO `+p.schema+`.worker (incarnation, nonce, processor, pod, definition, handlers, version, protocol, session_lock, state, lease_until)
		VALUES (7, gen_random_uuid(), $1, 'old', 'one', '{}', 'v', 1, true, 'Active', clock_timestamp() + interval '1 h')`, processor)
	session, data := p.connect(t, "sluice"), p.connect(t, "sluice:7")
	if _, err := session.Exec(t.Context(), `SELECT pg_advisory_lock(5358542, 7)`); err != nil {
		t.Fatal(err)
	}
	return session, data
}

func TestWorkersOfTheLastVersionAreSeenWatchedAndEnded(t *testing.T) {
	p := placeIn(t, "store", postgrestest.New(t), postgres.DefaultSchema)
	declare(t, p.directory, "one")
	session, data := formerWorker(t, p)
	afterStart(t, p.pool)
	if w := view(t, p.directory).Workers[0]; !w.SessionLock || !w.Alive {
		t.Fatalf("it has a lock: %t, and is alive: %t", w.SessionLock, w.Alive)
	}
	watcher := watch(t, p.pool, "")
	if ended, err := watcher.WaitSessionEnd(t.Context(), 7); err != nil || ended {
		t.Fatalf("its session has ended: %t, %v", ended, err)
	}
	if err := session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if ended, err := next(ctx, watcher, 7); err != nil || !ended {
		t.Fatalf("its session has ended: %t, %v", ended, err)
	}
	count(t, p.pool, 0, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 5358542`)
	if w := view(t, p.directory).Workers[0]; w.Alive || !w.Leased {
		t.Errorf("after that it is alive: %t, with a lease: %t", w.Alive, w.Leased)
	}
	if n, err := p.directory.Evict(t.Context(), []int64{7}); err != nil || n != 1 || lives(t, data) {
		t.Errorf("ended %d of its connections: %v", n, err)
	}
}

// TestFormerConnectionsAreLeftWhereTheyMayBeOtherStores: before stores had names, workers 7 of two
// schemas called theirs the same.
func TestFormerConnectionsAreLeftWhereTheyMayBeOtherStores(t *testing.T) {
	database := postgrestest.New(t)
	a, b := placeIn(t, "a", database, "a"), placeIn(t, "b", database, "b")
	_, data := formerWorker(t, a)
	exec(t, a.pool, `UPDATE a.worker SET state = 'Ended'`)
	for _, p := range []place{a, b} {
		if n, err := p.directory.Evict(t.Context(), []int64{7}); err != nil || n != 0 {
			t.Errorf("schema %s ended %d connections: %v", p.name, n, err)
		}
	}
	if !lives(t, data) {
		t.Error("the connection was ended")
	}
}

// TestWorkersOfTheLastVersionSeeTheLeaseOfNewOnes: they look for a lock of their own key where
// session_lock says that there is one.
func TestWorkersOfTheLastVersionSeeTheLeaseOfNewOnes(t *testing.T) {
	p := placeIn(t, "store", postgrestest.New(t), postgres.DefaultSchema)
	declare(t, p.directory, "one")
	p.live(t)
	var alive bool
	if err := p.pool.QueryRow(t.Context(), `SELECT w.lease_until > clock_timestamp() AND (NOT w.session_lock OR EXISTS (
		SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = 5358542 AND l.objid = w.incarnation::oid))
		FROM sluice.worker w WHERE incarnation = 7`).Scan(&alive); err != nil || !alive {
		t.Errorf("to a worker of the last version it is alive: %t, %v", alive, err)
	}
}

func TestChannelsOfSchemasDiffer(t *testing.T) {
	long := strings.Repeat("x", 62)
	names := map[string]string{}
	for _, schema := range []string{"sluice", "other", long + "a", long + "b"} {
		for what, name := range map[string]string{"changes in ": postgres.Channel(schema), "live events of ": postgres.LiveChannel(schema)} {
			if former, there := names[name]; there || len(name) > 63 {
				t.Errorf("%s%s are told on %s, as are %s", what, schema, name, former)
			}
			names[name] = what + schema
		}
	}
}

// TestSchemasWithLongNamesAreNotified: PostgreSQL refuses notifications on channels with names that
// it would cut.
func TestSchemasWithLongNamesAreNotified(t *testing.T) {
	p := placeIn(t, "store", postgrestest.New(t), strings.Repeat("x", 63))
	if err := p.directory.DeclareProcessor(t.Context(), tokenstore.Processor{Name: processor, Definition: "one", Replicas: 1, Live: []byte(`{}`)}); err != nil {
		t.Error(err)
	}
	if err := p.directory.NotifyLiveEvents(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOnlyWorkersOfTheSchemaHearOfLiveEvents has two schemas' workers listen.
func TestOnlyWorkersOfTheSchemaHearOfLiveEvents(t *testing.T) {
	database := postgrestest.New(t)
	a, b := placeIn(t, "a", database, "a"), placeIn(t, "b", database, "b")
	session, err := postgres.OpenSession(t.Context(), a.options, postgres.LiveChannel("a"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() }) // it is not needed any more
	for _, p := range []place{b, a} {
		if err := p.directory.NotifyLiveEvents(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, a.pool, `SELECT pg_notify($1, 'last')`, postgres.LiveChannel("a"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, want := range []string{"", "last"} {
		if channel, payload, err := session.Wait(ctx); err != nil || channel != postgres.LiveChannel("a") || payload != want {
			t.Errorf("heard %q on %q, %v, want %q", payload, channel, err, want)
		}
	}
}
