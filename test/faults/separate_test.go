package faults

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// elsewhere is a server with events, and without the store.
type elsewhere struct {
	t      *testing.T
	server *localpostgres.Server
	pool   *pgxpool.Pool
}

// newSeparateWorld makes a world whose events are on another server than its store.
func newSeparateWorld(t *testing.T, groups string) *world {
	t.Helper()
	ctx := context.Background()
	w := newWorld(t, groups)
	e := &elsewhere{t: t, server: postgrestest.Start(t)}
	target, err := access.FromURL(e.server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := postgres.Connect(ctx, postgres.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	if e.pool, err = postgres.Open(postgres.Options{Target: target, Application: "test", MaxConns: 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.pool.Close)
	w.events = e
	w.secret("events", e.server.URL("postgres"))
	return w
}

// signal sends a signal to all processes of the server.
func (e *elsewhere) signal(signal syscall.Signal) {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join(e.server.DataDir(), "postmaster.pid"))
	if err != nil {
		e.t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	children, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%[1]s/children", first))
	if err != nil {
		e.t.Fatal(err)
	}
	for _, pid := range append([]string{first}, strings.Fields(string(children))...) { // first who would start others
		n, err := strconv.Atoi(pid)
		if err != nil {
			e.t.Fatal(err)
		}
		if err := syscall.Kill(n, signal); err != nil && err != syscall.ESRCH {
			e.t.Fatal(err)
		}
	}
}

// crash ends the server without warning, and starts it again.
func (e *elsewhere) crash() {
	e.t.Helper()
	if err := e.server.Crash(); err != nil {
		e.t.Fatal(err)
	}
	again, err := e.server.Restart(context.Background())
	if err != nil {
		e.t.Fatal(err)
	}
	e.server = again
	e.t.Cleanup(func() { again.Stop() }) // the one after a later crash stops by itself
}

// write appends to random streams until the context ends. Half of the transactions do not wait for
// the disk: a crash may take them back after they were seen.
func (e *elsewhere) write(ctx context.Context, writer int, appended *atomic.Int64) {
	random := rand.New(rand.NewPCG(uint64(writer), 7))
	for turn := 0; ctx.Err() == nil; turn++ {
		// What is given up may take effect later, after the test has looked at the events.
		ctx := context.WithoutCancel(ctx)
		err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
			if random.IntN(2) == 0 {
				if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, `SELECT sluice.append($1, NULL, jsonb_build_array(jsonb_build_object('type', 'Counted', 'data', jsonb_build_object('n', $2::text))))`,
				fmt.Sprint("stream-", random.IntN(20)), fmt.Sprint(writer, "-", turn))
			return err
		})
		if err == nil {
			appended.Add(1)
		}
		select { // as many as workers can follow
		case <-ctx.Done():
		case <-time.After(4 * time.Millisecond):
		}
	}
}

// chains are what a fold over the events of each stream is, and how many there are.
func (e *elsewhere) chains() map[string]string {
	e.t.Helper()
	rows, err := e.pool.Query(context.Background(), `SELECT stream_id, data ->> 'n' FROM sluice.event ORDER BY stream_id, version`)
	if err != nil {
		e.t.Fatal(err)
	}
	sum := func(text string) string { s := md5.Sum([]byte(text)); return hex.EncodeToString(s[:]) }
	chains, counts := map[string]string{}, map[string]int{}
	var stream, n string
	if _, err := pgx.ForEachRow(rows, []any{&stream, &n}, func() error {
		if counts[stream]++; counts[stream] == 1 {
			chains[stream] = sum(n)
		} else {
			chains[stream] = sum(chains[stream] + sum(n))
		}
		return nil
	}); err != nil {
		e.t.Fatal(err)
	}
	for stream, count := range counts {
		chains[stream] += fmt.Sprint(" of ", count)
	}
	return chains
}

// folded is the view of the store in the form of chains.
func (w *world) folded() map[string]string {
	w.t.Helper()
	rows, err := w.pool.Query(context.Background(), `SELECT stream_id, chain || ' of ' || events FROM stream_view`)
	if err != nil {
		return nil // before the setup
	}
	folded := map[string]string{}
	var stream, chain string
	if _, err := pgx.ForEachRow(rows, []any{&stream, &chain}, func() error { folded[stream] = chain; return nil }); err != nil {
		return nil
	}
	return folded
}

// Both servers and the workers fail, each by itself: each event that is left is handled once and in
// order, and none that a crash took back.
func TestEachEventOnceAndInOrderWhileEventsAreOnAnotherServer(t *testing.T) {
	t.Parallel()
	view, _, _ := strings.Cut(groups(6), "  - name: answer")
	view += "  source: {type: Store, postgres: {urlSecretRef: {name: events}}}\n"
	w := newSeparateWorld(t, view)
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	var appended atomic.Int64
	for i := range 3 {
		writers.Go(func() { w.events.write(ctx, i, &appended) })
	}
	pods := []*pod{w.start(), w.start()}
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	did := map[string]int{}
	for turn, end := 0, time.Now().Add(chaos(t)/2); turn < 5 || time.Now().Before(end); turn++ {
		act, i := turn, random.IntN(len(pods))
		if turn >= 5 {
			act = random.IntN(5)
		}
		switch act {
		case 0:
			did["the source crashed"]++
			w.events.crash()
		case 1:
			did["a worker was killed"]++
			pods[i].kill()
			pods[i] = w.start()
		case 2:
			did["the source hung"]++
			w.events.signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond) // the schedule
			w.events.signal(syscall.SIGCONT)
		case 3:
			did["a worker was frozen"]++
			pods[i].signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond) // the schedule
			pods[i].signal(syscall.SIGCONT)
		case 4:
			did["connections to the store ended"]++
			w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sluice/%' AND random() < 0.3`)
		}
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond) // the schedule
	}
	cancel()
	writers.Wait()
	want := w.events.chains()
	differing := func() (streams []string) {
		folded := w.folded()
		for stream, chain := range want {
			if folded[stream] != chain {
				streams = append(streams, fmt.Sprintf("%s is %s, want %s", stream, folded[stream], chain))
			}
		}
		for stream, chain := range folded {
			if want[stream] == "" {
				streams = append(streams, fmt.Sprintf("%s is %s, and has no event", stream, chain))
			}
		}
		return streams
	}
	deadline := time.Now().Add(60 * time.Second)
	for len(differing()) > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if wrong := differing(); len(wrong) > 0 {
		t.Errorf("%d streams are not the fold over their events, such as %s\n%s", len(wrong), wrong[0], w.dump())
	}
	t.Logf("%d events; %v", appended.Load(), did)
	if appended.Load() < 500 {
		t.Fatalf("vacuous: %d events", appended.Load())
	}
}
