package postgres_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/segment"
)

// While one writer keeps its transaction open, others roll back three of ten of theirs: their holes are closed, so that tokens stay small and nobody waits.
func TestAStormOfRollbacksIsReadBehindAnOpenWriter(t *testing.T) {
	on := serialTable(t)
	exec(t, on.db, insertEvent)
	_, open := begin(t, on, insertEvent)
	var done atomic.Bool
	g := newReaderGroup(t, "all", on.reads(), &done, 500, true, []segment.Segment{segment.Root})
	m := g.members[0]
	if _, err := g.read(g.members); err != nil { // what is taken before the reader's first rounds of proof the open writer may have taken
		t.Fatal(err)
	}

	var holes, events atomic.Int64
	var writers, reading sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for !done.Load() {
				err := pgx.BeginFunc(context.Background(), on.db, func(tx pgx.Tx) error {
					if _, err := tx.Exec(context.Background(), insertEvent); err != nil {
						return err
					}
					if rand.IntN(10) < 3 {
						return errUndone
					}
					return nil
				})
				switch {
				case errors.Is(err, errUndone):
					holes.Add(1)
				case err != nil:
					t.Error(err)
					return
				default:
					events.Add(1)
				}
			}
		})
	}
	var most, largest int
	var slowest time.Duration
	reading.Go(func() {
		for !done.Load() {
			began := time.Now()
			page, err := g.read(g.members)
			if err != nil {
				t.Error(err)
				return
			}
			slowest = max(slowest, time.Since(began))
			m.take(page, g.random, true)
			most, largest = max(most, postgres.Steps(m.coverage)), max(largest, len(m.stored.State))
			time.Sleep(5 * time.Millisecond)
		}
	})
	for began := time.Now(); (holes.Load() < 3000 || time.Since(began) < 4*time.Second) && time.Since(began) < time.Minute; {
		time.Sleep(100 * time.Millisecond)
	}
	done.Store(true)
	writers.Wait()
	reading.Wait()
	for atEnd := 0; atEnd < 4; { // the writer is still open
		on.source.ProveAgain()
		page, err := g.read(g.members)
		if err != nil {
			t.Fatal(err)
		}
		m.take(page, g.random, true)
		if !page.More {
			atEnd++
		}
	}
	left := postgres.Steps(m.coverage) - 1
	t.Logf("%d events and %d holes; at most %d gaps were open, in tokens of up to %d bytes, and %d are left; the slowest read took %v", events.Load(), holes.Load(), most, largest, left, slowest.Round(time.Millisecond))
	if holes.Load() < 500 || left > 10 || int64(most) > holes.Load()*3/4 {
		t.Error("holes are not closed while a writer is open that does nothing")
	}
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.run(); err != nil {
		t.Fatal(err)
	}
	if lost, twice, invented, _ := m.compare(committed(t, on)); lost+twice+invented > 0 {
		t.Errorf("lost %d, twice %d, never committed %d", lost, twice, invented)
	}
}

var errUndone = errors.New("undone")

// A server that crashes gives numbers out again that left nothing on disk: what was read before, and is not stored, is not gone on from.
func TestCoveragesInMemoryDoNotOutliveTheServer(t *testing.T) {
	server := postgrestest.Start(t)
	url := server.URL("postgres")
	migrate(t, url, schema)
	db := pool(t, url)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	on := outboxSubject(db, unaltered("Inserted", ""))
	exec(t, db, insertEvent)
	r := newReader(t, on.source, earliest, segment.Root)
	r.next(10)
	stored := r.coverage.Progress()
	writer := func() (pid int) { // 0 while there is none
		if err := db.QueryRow(t.Context(), "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'").Scan(&pid); err != nil {
			return 0
		}
		return pid
	}
	victim := writer()
	if victim == 0 {
		t.Fatal("there is no WAL writer to kill")
	}
	kill9(t, victim) // all sessions end, and the server recovers by itself
	until(t, "the server again", func() bool { pid := writer(); return pid != 0 && pid != victim })
	_, err := on.source.Read(t.Context(), []eventsource.Coverage{r.coverage}, nil, 10)
	if !errors.Is(err, postgres.ErrServerRestarted) {
		t.Fatalf("going on from memory: %v", err)
	}
	r.resume(stored)
	exec(t, db, insertEvent)
	if page := r.next(10); len(page.Events) != 1 {
		t.Errorf("from what is stored it is given %d events, want the new one", len(page.Events))
	}
}

func kill9(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
