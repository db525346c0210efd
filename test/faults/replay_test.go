package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/test/history"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// version are the groups of a definition whose view marks each row with the oldest version that has written to it since it was
// made. The reset notes which replay it was of.
func version(n, segments int) string {
	marked := strings.NewReplacer(
		"chain text NOT NULL)", "chain text NOT NULL, mark int NOT NULL); CREATE TABLE IF NOT EXISTS resets (id text)\n        reset: INSERT INTO resets VALUES (current_setting('sluice.replay_id')); TRUNCATE stream_view",
		"events, chain) SELECT stream_id, position, replay, 1, md5(data ->> 'n') FROM event", fmt.Sprintf("events, chain, mark) SELECT stream_id, position, replay, 1, md5(data ->> 'n'), %d FROM event", n),
		"chain = md5(v.chain || excluded.chain)", "chain = md5(v.chain || excluded.chain), mark = least(v.mark, excluded.mark)",
		"CREATE TABLE IF NOT EXISTS stream_view", "|\n          CREATE TABLE IF NOT EXISTS stream_view",
	)
	return marked.Replace(groups(segments))
}

// operator applies specs in steps, each a transaction, and may be killed between two of them.
type operator struct {
	*world
	random *rand.Rand
	kills  int
}

// apply makes a spec and its replay the wanted ones. When it is killed, another operator begins anew a while later.
func (o *operator) apply(spec definition.Spec, generation int, replay string) {
	o.t.Helper()
	for !o.try(spec, generation, replay) {
		o.kills++
		o.pause(300)
	}
}

// try returns false when the operator was killed.
func (o *operator) try(spec definition.Spec, generation int, replay string) bool {
	o.t.Helper()
	p := declare.Processor{Owner: tokenstore.Owner{Processor: processor}, Spec: spec, Definition: spec.Definition().ID(), Live: spec.Live(int64(generation)), Replicas: 3}
	if replay != "" {
		p.Replays = append(p.Replays, tokenstore.ReplayRequest{ID: replay, Groups: []string{"view"}, From: progress.StartPosition{Type: progress.Earliest},
			Definition: p.Definition, Rebind: true, State: tokenstore.ReplayWanted})
	}
	store := mortal{postgres.NewStore(o.pool, postgres.DefaultSchema), postgres.NewDirectory(o.pool, postgres.DefaultSchema), o.random}
	err := declare.Write(context.Background(), store, store, p, o.fromEarliest)
	if err != nil && !errors.Is(err, errKilled) {
		o.t.Fatal(err)
	}
	return err == nil
}

var errKilled = errors.New("the operator was killed")

// mortal is a store whose caller may be killed before each transaction.
type mortal struct {
	declare.Store
	declare.Directory
	random *rand.Rand
}

func (m mortal) killed() bool { return m.random.IntN(4) == 0 }

func (m mortal) Declare(ctx context.Context, owner tokenstore.Owner, groups []tokenstore.Group, requested []tokenstore.ReplayRequest, start func(string) (progress.Progress, error)) error {
	if m.killed() {
		return errKilled
	}
	return m.Store.Declare(ctx, owner, groups, requested, start)
}

func (m mortal) DeclareProcessor(ctx context.Context, p tokenstore.Processor) error {
	if m.killed() {
		return errKilled
	}
	return m.Directory.DeclareProcessor(ctx, p)
}

func (m mortal) RequestReplays(ctx context.Context, processor string, requests []tokenstore.ReplayRequest) error {
	if m.killed() {
		return errKilled
	}
	return m.Store.RequestReplays(ctx, processor, requests)
}

// pause is part of the schedule, not a wait for something.
func (o *operator) pause(atMost int) {
	time.Sleep(time.Duration(o.random.IntN(atMost)) * time.Millisecond)
}

// rollOut replaces pods by such of a definition, one after the other, and kills some on the way; it may leave off before the
// last one.
func (o *operator) rollOut(pods []*pod, spec definition.Spec, whole bool) []*pod {
	o.t.Helper()
	o.spec = spec
	for i := range pods {
		if !whole && o.random.IntN(3) == 0 {
			break
		}
		surge := o.start()
		o.pause(300)
		switch o.random.IntN(4) {
		case 0:
			pods[i].kill()
		case 1:
			o.freeze(pods[i])
		default:
			pods[i].drain()
		}
		pods[i] = surge
		if o.random.IntN(4) == 0 { // a restart
			pods[i].kill()
			pods[i] = o.start()
		}
	}
	return pods
}

// freeze stops a pod that is to end. It wakes up when the others have gone on without it, or before, and takes a while to find
// that it is to end.
func (o *operator) freeze(frozen *pod) {
	frozen.signal(syscall.SIGSTOP)
	asleep, awake := time.Duration(o.random.IntN(9000))*time.Millisecond, time.Duration(o.random.IntN(2000))*time.Millisecond
	for after, signal := range map[time.Duration]syscall.Signal{asleep: syscall.SIGCONT, asleep + awake + 1: syscall.SIGTERM} {
		timer := time.AfterFunc(after, func() { frozen.cmd.Process.Signal(signal) }) // it may have ended
		o.t.Cleanup(func() { timer.Stop() })
	}
	o.late = append(o.late, frozen)
}

func interleavings(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SLUICE_FAULTS_INTERLEAVINGS")
	if text == "" {
		return 5
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("SLUICE_FAULTS_INTERLEAVINGS: %v", err)
	}
	return n
}

// TestANewDefinitionAndItsReplayGoTogether applies a definition and a replay at once, under load, with pods and operators
// killed and frozen on the way, and rolls some of them back. Whatever happens in between, in the end each row of the view was
// written by the last definition alone, and each reset ran once at most.
func TestANewDefinitionAndItsReplayGoTogether(t *testing.T) {
	t.Parallel()
	for i := range interleavings(t) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			interleave(t, rand.New(rand.NewPCG(seed, uint64(i))))
		})
	}
}

func interleave(t *testing.T, random *rand.Rand) {
	w := newWorld(t, version(1, 4))
	w.record()
	o := &operator{world: w, random: random}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	writers := w.writers(ctx, 2)
	pods := []*pod{w.start(), w.start()}
	w.until("events to be handled", `SELECT sum(events) > 20 FROM stream_view`)

	generation, last, rollbacks := int(time.Now().Unix()), "", 0
	next := func(v int, replay string) definition.Spec {
		generation++
		spec := w.parse(version(v, 1+random.IntN(8)))
		w.publish(spec.Definition())
		o.apply(spec, generation, replay)
		return spec
	}
	newest := 1 + 1 + random.IntN(2)
	for v := 2; v <= newest; v++ {
		last = fmt.Sprintf("replay-%d", v)
		spec := next(v, last)
		w.until("the replay to wait for the rollout", `SELECT EXISTS (SELECT FROM sluice.replay WHERE id = $1 AND phase = 'Pending' AND reason = 'WaitingForRollout')`, last)
		o.pause(500)
		if v < newest || random.IntN(2) == 0 { // it may come to nothing, at any time
			pods = o.rollOut(pods, spec, random.IntN(2) == 0)
			o.pause(2000)
			rollbacks++
			pods = o.rollOut(pods, next(v-1, ""), random.IntN(2) == 0)
			o.pause(500)
			if v == newest {
				last += "-again"
				spec = next(v, last)
			}
		}
		if v == newest {
			pods = o.rollOut(pods, spec, true)
		}
	}
	w.until("the last replay to be complete", `SELECT EXISTS (SELECT FROM sluice.replay WHERE id = $1 AND phase = 'Complete')`, last)
	cancel()
	writers.Wait()
	events := w.check()
	w.until("each row to be the last definition's alone", `SELECT bool_and(mark = $1) FROM stream_view`, newest)
	w.until("each reset to have run once at most", `SELECT count(*) = count(DISTINCT id) FROM resets`)
	w.until("the resets that the ledger has", `SELECT (SELECT array_agg(id ORDER BY id) FROM resets) = (SELECT array_agg(id ORDER BY id) FROM sluice.replay WHERE reset_at IS NOT NULL)`)
	for _, p := range slices.Concat(pods, w.late) {
		p.cmd.Process.Signal(syscall.SIGCONT) // it may have ended
	}
	t.Logf("%d events, %d definitions, %d rollbacks, %d operators killed, %d pods frozen", events, newest, rollbacks, o.kills, len(w.late))
	if events < 100 {
		t.Fatalf("vacuous: %d events", events)
	}
	w.historyHolds(history.Want{Events: 200, Resets: 1, Replayed: []string{"view"}})
}
