package worker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/handler"
)

// crash ends the server as a crash does, has the test look at what is left of it before any worker can, on another port, and has it begin again
// where it was.
func (w *world) crash(server *localpostgres.Server, look func(left *world)) *localpostgres.Server {
	w.t.Helper()
	ctx := context.Background()
	if err := server.Crash(); err != nil {
		w.t.Fatal(err)
	}
	bin, err := localpostgres.Find()
	if err != nil {
		w.t.Fatal(err)
	}
	apart, err := localpostgres.Start(ctx, localpostgres.Options{BinDir: bin, DataDir: server.DataDir(), Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		w.t.Fatal(err)
	}
	left := openWorld(w.t, apart.URL("postgres"))
	look(left)
	left.pool.Close()
	if err := apart.Stop(); err != nil {
		w.t.Fatal(err)
	}
	again, err := server.Restart(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := again.Stop(); err != nil {
			w.t.Error(err)
		}
	})
	w.pool.Reset()
	return again
}

// versions is how often tokens have been written, all together.
func (w *world) versions() (sum int64) {
	w.t.Helper()
	if err := w.pool.QueryRow(context.Background(), `SELECT sum(version) FROM sluice.token`).Scan(&sum); err != nil {
		w.t.Fatal(err)
	}
	return sum
}

// writes waits until tokens have been written so many times more, and returns how often they have been.
func (w *world) writes(n int64) (versions int64) {
	w.t.Helper()
	before := w.versions()
	for deadline := time.Now().Add(time.Minute); ; {
		if versions = w.versions(); versions >= before+n {
			return versions
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("tokens were written %d times in a minute\n%s", versions-before, w.dump())
		}
	}
}

// TestACrashOfTheServerTakesABacklogsBatchesWholeOrNotAtAll has the server crash while batches commit without waiting for the disk. Some that
// were seen to have committed are lost, their rows and their tokens' moves alike; their events come again. A batch without a backlog is there for good.
func TestACrashOfTheServerTakesABacklogsBatchesWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	const streams = 2_000
	for kind, of := range map[string]struct {
		spec string
		each int // events of a stream: as many as outlast the crashes
	}{"SQL": {viewOf, 20}, "Go": {goViewOf, 8}} {
		spec, each := of.spec, of.each
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := postgrestest.Start(t)
			w := newWorldAt(t, server.URL("postgres"), "\n  - name: view\n    maxBatchSize: 20"+fmt.Sprintf(spec, 4)[len("\n  - name: view"):])
			w.exec(`CREATE TABLE stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL)`)
			for _, setting := range []string{"wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'"} { // nobody has it on disk but who waits for that
				w.exec(`ALTER SYSTEM SET ` + setting)
			}
			w.exec(`SELECT pg_reload_conf()`)
			w.memory = 1 << 20 // little of the backlog is read ahead
			w.addingUnless(func(handler.Event) error { return nil })
			w.backlog(streams, each)
			w.start("a")
			var lost int64
			for crashes := 0; crashes < 3 || lost == 0 && crashes < 10; crashes++ { // who waits for the disk just then has all before it there
				seen := w.writes(20)
				server = w.crash(server, func(left *world) {
					left.consistent()
					lost += max(0, seen-left.versions())
				})
			}
			if lost == 0 {
				t.Error("vacuous: nothing was lost that had committed")
			}
			w.until("the backlog not to have ended before the last crash", `SELECT sum(events) < $1 FROM stream_view`, streams*each)
			w.caughtUp()
			w.atRest()
			w.appendTo(10, 1)
			w.caughtUp()
			w.crash(server, func(left *world) {
				left.consistent()
				if n := left.folded(); n != streams*each+10 {
					t.Errorf("of %d events in the view, the last of which had come without a backlog, a crash has left %d", streams*each+10, n)
				}
			})
			w.caughtUp()
			w.atRest()
		})
	}
}
