package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/segment"
)

// A third of all positions is missing, and a writer below all of them stays open: nobody waits for it, or for the holes, and it is not lost.
func TestARollbackStormBehindAnOpenWriter(t *testing.T) {
	for _, name := range []string{"own table", "outbox", "own table, separate"} {
		t.Run(name, func(t *testing.T) { aRollbackStorm(t, subjects[name](t)) })
	}
}

func aRollbackStorm(t *testing.T, on *subject) {
	open, err := on.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Rollback(context.WithoutCancel(t.Context()))
	if err := on.appendTx(t.Context(), open, "open", 3); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	groups := []*readerGroup{
		newReaderGroup(t, "all", on.reads(), &done, 50, true, []segment.Segment{segment.Root}),
		newReaderGroup(t, "eighths", on.reads(), &done, 200, false, layout(t, 8)),
	}
	var reading sync.WaitGroup
	read := func() {
		for _, g := range groups {
			reading.Go(func() {
				if err := g.run(); err != nil {
					t.Errorf("%s: %v", g.name, err)
				}
			})
		}
	}
	read()
	weather(t, on, max(2*time.Second, longRun()), leastInStorm)
	done.Store(true)
	reading.Wait()
	before := judge(t, groups, committed(t, on))

	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	read()
	reading.Wait()
	truth := committed(t, on)
	if after := judge(t, groups, truth); after != before+2*3 || len(truth) < leastInStorm {
		t.Errorf("%d late events, then %d, of %d events: this run says nothing", before, after, len(truth))
	}
	highest := int64(0)
	for position := range truth {
		highest = max(highest, position)
	}
	holes := 1 - float64(len(truth))/float64(highest)
	t.Logf("%d events, %.0f %% holes", len(truth), 100*holes)
	if holes < 0.3 {
		t.Errorf("%.0f %% of the positions are holes, want 30 %% at least: this run says nothing", 100*holes)
	}
}

// leastInStorm is how many events a storm has to have, to say anything.
const leastInStorm = 500

// weather appends for a time, and so many events at least, and rolls about as many appends back.
func weather(t *testing.T, on *subject, during time.Duration, least int64) {
	undo := errors.New("rolled back")
	ctx, cancel := context.WithTimeout(context.Background(), during)
	defer cancel()
	var appended atomic.Int64
	var writing sync.WaitGroup
	for n := range 6 {
		random := rand.New(rand.NewPCG(uint64(n), 1))
		writing.Go(func() {
			for i := 0; ctx.Err() == nil || appended.Load() < least; i++ {
				events := 1 + random.IntN(3)
				err := pgx.BeginFunc(context.Background(), on.db, func(tx pgx.Tx) error {
					if err := on.appendTx(context.Background(), tx, fmt.Sprint(stream(random), "-of-", n), events); err != nil {
						return err
					}
					if i%5 >= 2 {
						return undo
					}
					return nil
				})
				switch {
				case err == nil:
					appended.Add(int64(events))
				case !errors.Is(err, undo):
					t.Errorf("writer %d: %v", n, err)
					return
				}
			}
		})
	}
	writing.Wait()
}

// judge holds what readers were given against what has been committed, and returns how many events were late.
func judge(t *testing.T, groups []*readerGroup, truth map[int64]place) (late int) {
	t.Helper()
	for _, g := range groups {
		for _, m := range g.members {
			lost, twice, invented, disordered := m.compare(truth)
			if lost+twice+invented+disordered > 0 {
				t.Errorf("%s, segment %s: lost %d, twice %d, out of order %d, never committed %d of %d", g.name, m.segment, lost, twice, disordered, invented, len(truth))
			}
			late += int(m.late.Load())
		}
	}
	return late
}
