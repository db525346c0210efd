package postgres_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// locked is a session that holds the lock of an incarnation.
func locked(t *testing.T, pool *pgxpool.Pool, incarnation int64) *postgres.Session {
	t.Helper()
	s, err := postgres.OpenSession(context.Background(), optionsOf(pool), postgres.Channel(postgres.DefaultSchema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // tests close it, or have the server end it
	if got, err := s.Lock(context.Background(), postgres.DefaultSchema, incarnation); err != nil || !got {
		t.Fatalf("locked %t, %v", got, err)
	}
	return s
}

func watch(t *testing.T, pool *pgxpool.Pool, application string) *postgres.PeerWatch {
	t.Helper()
	o := optionsOf(pool)
	o.Application = application
	w, err := postgres.OpenPeerWatch(context.Background(), o, postgres.DefaultSchema, processor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() }) // the server may have ended it
	return w
}

// count waits until a query over the server's locks or connections returns a number.
func count(t *testing.T, pool *pgxpool.Pool, want int, query string, args ...any) {
	t.Helper()
	var n int
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := pool.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d, want %d", query, n, want)
		}
	}
}

const (
	waiting = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted`
	held    = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1`
)

// next watches until there is an answer other than that the session still lasts.
func next(ctx context.Context, w *postgres.PeerWatch, incarnation int64) (ended bool, err error) {
	for !ended && err == nil && ctx.Err() == nil {
		ended, err = w.WaitSessionEnd(ctx, incarnation)
	}
	return ended, err
}

func TestAWatcherThatTurnsAwayLeavesNothingAndGoesOnWithItsConnection(t *testing.T) {
	pool := migrated(t)
	locked(t, pool, 7)
	locked(t, pool, 8)
	w := watch(t, pool, "watcher")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var ended bool
	var err error
	go func() {
		defer close(done)
		ended, err = next(ctx, w, 7)
	}()
	count(t, pool, 1, waiting, 7)
	cancel()
	<-done
	if err != nil || ended {
		t.Fatalf("ended %t, %v", ended, err)
	}
	count(t, pool, 0, waiting, 7)
	again, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if ended, err := w.WaitSessionEnd(again, 8); err != nil || ended {
		t.Fatalf("ended %t, %v", ended, err)
	}
	count(t, pool, 1, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, "watcher")
}

// freezer dials connections of which nothing arrives any more once it is frozen.
type freezer struct{ frozen chan struct{} }

type freezing struct {
	net.Conn
	*freezer
	over context.Context
}

func (c freezing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	select {
	case <-c.frozen:
		<-c.over.Done()
	default:
	}
	return n, err
}

func TestAFrozenWatcherKeepsNothingLocked(t *testing.T) {
	pool := migrated(t)
	victim := locked(t, pool, 7)
	f := &freezer{make(chan struct{})}
	over, thaw := context.WithCancel(context.Background())
	o := optionsOf(pool)
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return freezing{conn, f, over}, err
	}
	w, err := postgres.OpenPeerWatch(context.Background(), o, postgres.DefaultSchema, processor)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan bool)
	go func() {
		defer close(ended)
		got, err := next(context.Background(), w, 7)
		ended <- got && err == nil
	}()
	count(t, pool, 1, waiting, 7)
	close(f.frozen)
	if err := victim.Close(); err != nil {
		t.Fatal(err)
	}
	count(t, pool, 0, held, 7)
	select {
	case <-ended:
		t.Fatal("the watcher was not frozen")
	default:
	}
	locked(t, pool, 7)
	thaw()
	<-ended
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTheOpenTransactionOfADeadOwnerDoesNotBlockItsSuccessor(t *testing.T) {
	d, pool := declaredProcessor(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := pool.Exec(ctx, `CREATE TABLE projection (id int PRIMARY KEY, n int); INSERT INTO projection VALUES (1, 0)`); err != nil {
		t.Fatal(err)
	}
	o := optionsOf(pool)
	o.Application = application(t, pool, 7)
	dead, err := postgres.Connect(ctx, o) // idle in its transaction, and nobody there to end it
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close(ctx) // it is ended by then
	if _, err := dead.Exec(ctx, `SET idle_in_transaction_session_timeout = 0; BEGIN; UPDATE projection SET n = n + 1`); err != nil {
		t.Fatal(err)
	}
	batch := make(chan error, 1)
	go func() {
		_, err := pool.Exec(ctx, `UPDATE projection SET n = n + 10`)
		batch <- err
	}()
	count(t, pool, 1, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
	if n, err := d.Evict(ctx, []int64{8}); err != nil || n != 0 {
		t.Fatalf("connections of another worker: %d, %v", n, err)
	}
	if n, err := d.Evict(ctx, []int64{7}); err != nil || n != 1 {
		t.Fatalf("connections ended: %d, %v", n, err)
	}
	if err := <-batch; err != nil {
		t.Fatal(err)
	}
	count(t, pool, 10, `SELECT n FROM projection`)
}

func TestALockOfAWatcherIsNoSignOfLife(t *testing.T) {
	d, pool := declaredProcessor(t)
	w := worker(7)
	w.SessionLock = true
	register(t, d, w)
	ctx := context.Background()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx) // it only held the lock
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(lock_class, 7) FROM sluice.worker WHERE incarnation = 7`); err != nil {
		t.Fatal(err)
	}
	afterStart(t, pool)
	if got := view(t, d).Workers[0]; got.Alive || !got.Leased {
		t.Fatalf("alive %t, leased %t", got.Alive, got.Leased)
	}
}

// application is the name of the connections of a worker that is not registered.
func application(t *testing.T, pool *pgxpool.Pool, incarnation int64) string {
	t.Helper()
	meta, err := postgres.Check(t.Context(), pool, postgres.DefaultSchema)
	if err != nil {
		t.Fatal(err)
	}
	return postgres.ApplicationOf(meta.Home, incarnation, nonce)
}

// afterStart waits until the server has run for so long that who lately was alive no longer counts as alive.
func afterStart(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	count(t, pool, 1, `SELECT count(*) WHERE clock_timestamp() > pg_postmaster_start_time() + interval '3 s'`)
}
