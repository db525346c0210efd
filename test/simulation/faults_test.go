package simulation_test

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/backend/memory"
	"github.com/sluice-project/sluice/tokenstore"
)

// kind is a kind of thing that is done to a world.
type kind struct {
	name   string
	effect string // that the record counts if it did something; empty if the checks of the history tell
	do     func(*world)
}

// kinds are done to each world, some more than once.
var kinds = []kind{
	{"crash", "crash of an owner", (*world).crash},
	{"cut", "cut", (*world).cut},
	{"freeze", "late lease", (*world).freeze},
	{"pause", "pause", (*world).pause},
	{"partition", "partition", (*world).partition},
	{"lost answer", "lost answer", (*world).loseAnswer},
	{"lost request", "lost request", (*world).loseRequest},
	{"late request", "late request", (*world).delayRequest},
	{"slow store", "slow store", (*world).slow},
	{"rollout", "workers of two releases", (*world).rollout},
	{"scale", "scale", (*world).scale},
	{"outage of the operator", "plan by a worker", (*world).outage},
	{"replay", "reset", (*world).replay},
	{"end of a replay", "", (*world).endReplay},
	{"split", "", (*world).split},
	{"merge", "", (*world).merge},
}

// rewriting is how many kinds at the end of the list write tokens anew. They are done more often:
// it is when they follow each other that it matters what a token remembers.
const rewriting = 4

// schedule is what is done to the world: each kind at least once, and some of them again.
func (w *world) schedule() []kind {
	all := append([]kind{}, kinds...)
	for range 2 + w.rand.IntN(6) {
		all = append(all, kinds[w.rand.IntN(len(kinds))])
	}
	for range 4 + w.rand.IntN(6) {
		all = append(all, kinds[len(kinds)-rewriting+w.rand.IntN(rewriting)])
	}
	w.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// inflict does something to the world.
func (w *world) inflict(k kind) {
	w.record.add("== %s", k.name)
	k.do(w)
	time.Sleep(w.upTo(3 * time.Second))
}

// insist does again what has had no effect yet, as of a pod that has ended since.
func (w *world) insist(all []kind) {
	for _, k := range all {
		for tries := 0; tries < 5 && k.effect != "" && !w.record.has(k.effect); tries++ {
			w.inflict(k)
			for waits := 0; waits < 25 && !w.record.has(k.effect); waits++ {
				time.Sleep(400*time.Millisecond + w.upTo(time.Millisecond))
			}
		}
	}
}

// victim chooses a pod whose process runs. It waits for one that owns segments, but not for long.
func (w *world) victim() *pod {
	for tries := 0; ; tries++ {
		w.mu.Lock()
		var all, owners []*pod
		for _, p := range w.pods {
			if p.killed || p.hasEnded() {
				continue
			}
			all = append(all, p)
			if len(p.worker.Holdings()) > 0 {
				owners = append(owners, p)
			}
		}
		w.mu.Unlock()
		switch {
		case len(owners) > 0:
			return owners[w.rand.IntN(len(owners))]
		case len(all) > 0 && tries > 50:
			return all[w.rand.IntN(len(all))]
		}
		time.Sleep(100*time.Millisecond + w.upTo(time.Millisecond))
	}
}

// crash kills a process. The operator sees that, and starts another pod.
func (w *world) crash() {
	p := w.victim()
	w.record.add("%s is killed", p.name)
	if len(p.worker.Holdings()) > 0 {
		w.record.happened("crash of an owner")
	}
	w.mu.Lock()
	p.killed = true
	w.mu.Unlock()
	p.backend.Kill()
	p.stop()
}

// cut loses the connections of a pod, in the middle of what it does.
func (w *world) cut() {
	p := w.victim()
	w.record.add("%s loses its connections", p.name)
	p.expect("cut", time.Minute)
	p.backend.Cut()
}

// freeze stops a process for longer than its lease.
func (w *world) freeze() { w.stop("freeze", 7*time.Second+w.upTo(8*time.Second)) }

// pause stops a process for a moment.
func (w *world) pause() { w.stop("pause", w.upTo(4*time.Second)) }

func (w *world) stop(effect string, d time.Duration) {
	p := w.victim()
	w.record.add("%s stops for %s", p.name, d)
	p.expect(effect, d)
	p.backend.Freeze(d)
}

// split wants more segments of the group that has fewer.
func (w *world) split() {
	w.relayout(func(a, b int) bool { return a < b }, func(n int) int { return n + 1 + w.rand.IntN(n) })
}

// merge wants fewer segments of the group that has more.
func (w *world) merge() {
	w.relayout(func(a, b int) bool { return a > b }, func(n int) int { return 1 + w.rand.IntN(max(n-1, 1)) })
}

// relayout wants another number of segments of one of the groups, and waits for a moment until the
// planner has begun.
func (w *world) relayout(before func(a, b int) bool, change func(int) int) {
	group := "view"
	if before(w.segments["totals"], w.segments["view"]) {
		group = "totals"
	}
	w.change(func() {
		w.segments[group] = change(w.segments[group])
		w.record.add("group %s is to have %d segments", group, w.segments[group])
	})
	changes := w.record.layouts()
	for tries := 0; tries < 50 && w.record.layouts() == changes; tries++ {
		time.Sleep(200*time.Millisecond + w.upTo(time.Millisecond))
	}
}

// partition cuts a pod off from the store for a while: sometimes for so short a time that no
// connection is lost.
func (w *world) partition() {
	p, d := w.victim(), w.upTo(10*time.Second)
	w.record.add("%s is cut off for %s", p.name, d)
	p.expect("partition", d)
	p.backend.Partition(d)
}

// loseAnswer has a pod not learn that a commit, or something else that it writes, has had its
// effect.
func (w *world) loseAnswer() { w.lose(memory.LostAnswer) }

// loseRequest has a pod not learn that it has had none.
func (w *world) loseRequest() { w.lose(memory.LostRequest) }

// delayRequest has a commit take effect when its pod has already given the connection up.
func (w *world) delayRequest() { w.lose(memory.LateRequest) }

// lose has calls of a pod get lost: the next commit at least, and maybe whatever it writes next.
func (w *world) lose(what memory.Loss) {
	p := w.victim()
	p.lose(loss{Loss: what})
	if what != memory.LateRequest && w.rand.IntN(2) == 0 {
		p.lose(loss{Loss: what, anyWrite: true})
	}
}

// slow has requests take long for a while.
func (w *world) slow() {
	d := time.Second + w.upTo(6*time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slowUntil, w.slowest = time.Now().Add(d), 50*time.Millisecond+w.upTo(1500*time.Millisecond)
	w.record.add("requests take up to %s for %s", w.slowest, d)
}

// rollout wants another release: pods of both run for a while.
func (w *world) rollout() {
	w.change(func() {
		w.release++
		w.record.add("release %d is wanted", w.release)
	})
}

// scale wants another number of pods.
func (w *world) scale() {
	w.change(func() {
		w.replicas = 2 + (w.replicas-1+w.rand.IntN(3))%4
		w.record.add("%d pods are wanted", w.replicas)
	})
}

// outage keeps the operator from the store for longer than workers wait for a plan.
func (w *world) outage() {
	d := 3*time.Second + w.upTo(6*time.Second)
	w.record.add("the operator is cut off for %s", d)
	w.operator.expect(outage, time.Minute)
	w.operator.backend.Partition(d)
}

// outage is an effect of the operator: it has been cut off.
const outage = "outage"

// replay wants a replay of some groups, from the beginning or from a position.
func (w *world) replay() {
	groups := [][]string{{"totals"}, {"view"}, {"totals", "view"}}[w.rand.IntN(3)]
	from := progress.StartPosition{Type: progress.Earliest}
	if w.rand.IntN(3) == 0 {
		head, _ := w.log.Source().Head(context.Background()) // it never fails
		from = progress.StartPosition{Type: progress.AtPosition, Position: strconv.FormatInt(w.rand.Int64N(head.Position()+1), 10)}
	}
	w.change(func() {
		id := fmt.Sprint("replay-", len(w.replays)+1)
		w.replays = append(w.replays, tokenstore.ReplayRequest{ID: id, Groups: groups, From: from, Rebind: true, State: tokenstore.ReplayWanted})
		w.record.add("%s of %v from %s %s is wanted", id, groups, from.Type, from.Position)
	})
}

// endReplay does not want the newest replay any more: it is cancelled before its reset, and
// abandoned after it.
func (w *world) endReplay() {
	w.change(func() {
		if len(w.replays) == 0 {
			return
		}
		newest := &w.replays[len(w.replays)-1]
		newest.State = tokenstore.ReplayToBeAbandoned
		w.record.add("%s is to be abandoned", newest.ID)
	})
}
