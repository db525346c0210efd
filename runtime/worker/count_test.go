package worker_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// plans keeps the plan renewed, as an operator does, by way of the test's own connections.
func (w *world) plans() {
	operator := planner.Planner{Directory: postgres.NewDirectory(w.pool, postgres.DefaultSchema), Store: w.store(), Processor: processor, Name: "operator/test"}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if _, err := operator.Step(ctx); err != nil && ctx.Err() == nil && !planner.IsOutdated(err) {
				w.t.Errorf("planning: %v", err)
				return
			}
		}
	})
	w.t.Cleanup(func() { cancel(); running.Wait() })
}

// tally is what a worker has sent in the time of some heartbeats.
type tally struct {
	took   time.Duration // from the first of them to the last
	within time.Duration // what was sent was counted in no more time
	byText map[string]int
}

func (c tally) of(text string) (n int) {
	for sql, count := range c.byText {
		if strings.Contains(sql, text) {
			n += count
		}
	}
	return n
}

func (c tally) total() int { return c.of("") }

func (c tally) String() string {
	lines := []string{fmt.Sprint("in ", c.within.Round(time.Millisecond), ":")}
	for _, sql := range slices.Sorted(maps.Keys(c.byText)) {
		text := strings.Join(strings.Fields(sql), " ")
		lines = append(lines, fmt.Sprintf("%4d %s", c.byText[sql], text[:min(len(text), 100)]))
	}
	return strings.Join(lines, "\n")
}

const (
	beat  = "SET lease_until = clock_timestamp()"
	poll  = "pg_snapshot_xip"
	beats = 4 // that are counted

	lookEvery       = 300 * time.Millisecond // of a feed at rest
	moveTokensEvery = 5 * time.Second        // of a worker
	lookForWriters  = 10 * time.Second       // too
)

func isBeat(m pgproxy.Message) bool { return m.Runs() && m.Ran(beat) }

// idle has one worker, which owns all segments and has nothing to do, and counts what it sends in the time of some heartbeats. Where
// it has looked at the directory meanwhile, the machine was too slow for it or for the planner: it is counted again, thrice at most.
func idle(t *testing.T, groups string) (c tally) {
	t.Helper()
	w, proxy := newWorldBehindProxy(t, groups)
	w.plans()
	w.start("a")
	w.until("the worker to be ready and to have stood idle", `SELECT EXISTS (SELECT FROM sluice.worker WHERE (report -> 'ready')::bool AND (report -> 'idle')::bool)`)
	w.atRest()
	for range 3 {
		if c = count(proxy); c.of("assignment") == 0 {
			break
		}
	}
	return c
}

// count counts what is sent from one heartbeat to another.
func count(proxy *pgproxy.Proxy) tally {
	all := proxy.Count(func(pgproxy.Message) bool { return true })
	first, last := proxy.Set(pgproxy.Rule{When: isBeat}), proxy.Set(pgproxy.Rule{When: isBeat, Nth: 1 + beats})
	from, before := first.WaitFired(), all.ByText()
	took := last.WaitFired().Sub(from)
	c := tally{took: took, byText: all.ByText(), within: time.Since(from)}
	for sql, n := range before {
		if c.byText[sql] -= n; c.byText[sql] == 0 {
			delete(c.byText, sql)
		}
	}
	return c
}

// TestWhatAnIdleWorkerSends counts all statements of workers at rest: a heartbeat a second and a look for events every quarter of
// one, whatever the number of segments and of groups. Every ten seconds it looks who keeps a transaction open.
func TestWhatAnIdleWorkerSends(t *testing.T) {
	t.Parallel()
	several := ""
	for i := range 8 {
		several += fmt.Sprintf("\n  - name: view-%d\n    segments: 4", i) + view
	}
	for name, groups := range map[string]string{
		"one segment":  fmt.Sprintf(viewOf, 1),
		"500 segments": fmt.Sprintf(viewOf, 500),
		"eight groups": several,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := idle(t, groups)
			// The margin is for a first one that was late.
			if c.took < beats*tokenstore.Heartbeat*9/10 {
				t.Errorf("%d heartbeats in %s, want one a second", beats, c.took)
			}
			// Those at either end may fall into the time as well.
			if looks := c.of(poll); looks == 0 || looks > int(c.within/lookEvery)+2 {
				t.Errorf("%d looks for events in %s, want one in %s", looks, c.within, lookEvery)
			}
			// The pool asks a connection whether it lives, when it has rested for a second, before it gives it out.
			pings := c.of("-- ping")
			writers := c.of("pg_prepared_xacts")
			if most := int(c.within/lookForWriters) + 1; writers > most {
				t.Errorf("%d looks for open writers in %s, want one in %s", writers, c.within, lookForWriters)
			}
			if other := c.total() - c.of(beat) - c.of(poll) - pings - writers; other > 0 || pings > int(c.within/tokenstore.Heartbeat)+1 {
				t.Errorf("%d pings and %d other statements", pings, other)
			}
			t.Log(c)
		})
	}
}

// TestAWorkerThatPlansRenewsItsPlanByOneStatement has no operator: a worker at rest does not look at everything with each heartbeat.
func TestAWorkerThatPlansRenewsItsPlanByOneStatement(t *testing.T) {
	t.Parallel()
	w, proxy := newWorldBehindProxy(t, fmt.Sprintf(viewOf, 16))
	w.start("a")
	w.until("the worker to be ready and to have stood idle", `SELECT EXISTS (SELECT FROM sluice.worker WHERE (report -> 'ready')::bool AND (report -> 'idle')::bool)`)
	w.atRest()
	c := count(proxy)
	if looks, most := c.of("FROM \"sluice\".assignment"), 2*(1+int(c.within/(5*time.Second))); looks > most {
		t.Errorf("%d looks at everything in %s, want %d at most", looks, c.within, most)
	}
	if renewals := c.of("plan_renewed_at = clock_timestamp()"); renewals < beats-1 {
		t.Errorf("the plan was renewed %d times in the time of %d heartbeats", renewals, beats)
	}
	t.Log(c)
}

// TestGroupsWithoutEventsOfTheirsShareOneStatement has a group that handles events and seven that want none of them. The tokens of
// these follow, all of them by one statement in moveEvery.
func TestGroupsWithoutEventsOfTheirsShareOneStatement(t *testing.T) {
	t.Parallel()
	groups := fmt.Sprintf(viewOf, 4)
	for i := range 7 {
		groups += fmt.Sprintf("\n  - name: other-%d\n    segments: 4", i) + strings.Replace(view, "[Counted]", "[Other]", 1)
	}
	w, proxy := newWorldBehindProxy(t, groups)
	w.start("a")
	w.appendSome()
	w.caughtUp()
	moved := func(m pgproxy.Message) bool {
		return m.Runs() && strings.Contains(m.SQL, "advance(") && !m.Ran("INTO stream_view")
	}
	first, second := proxy.Set(pgproxy.Rule{When: moved}), proxy.Set(pgproxy.Rule{When: moved, Nth: 2})
	began := first.WaitFired()
	w.until("all tokens to have followed", `SELECT min(t.position) >= max(e.position) FROM sluice.token t, sluice.event e`)
	w.appendSome()
	if took := second.WaitFired().Sub(began); took < moveTokensEvery*9/10 {
		t.Errorf("28 segments of seven groups had their tokens moved twice within %s", took)
	}
	w.until("all tokens to have followed", `SELECT min(t.position) >= max(e.position) FROM sluice.token t, sluice.event e`)
	w.caughtUp()
}
