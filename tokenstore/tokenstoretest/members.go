package tokenstoretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// patience is how long the suite waits for what has to happen.
const patience = 30 * time.Second

// until calls a function until it returns true.
func (w *world) until(what string, is func() bool) {
	w.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			w.Fatalf("%s: it is not so after %s", what, patience)
		}
	}
}

// join joins as a worker. The session ends with the test.
func (w *world) join() (tokenstore.Member, tokenstore.Session) {
	w.Helper()
	member, session, err := w.Membership.Join(w.ctx)
	w.must(err)
	w.Cleanup(func() { session.Close() }) // the test may have closed it
	return member, session
}

// joined is a worker that has joined and is registered.
func (w *world) joined() (tokenstore.Worker, tokenstore.Session) {
	w.Helper()
	member, session := w.join()
	as, identity := worker(member.Identity().Incarnation), member.Identity()
	as.Nonce, as.SessionLock = identity.Nonce, identity.SessionLock
	return w.register(as), session
}

// watch is a member's watch of its peers.
func (w *world) watch(member tokenstore.Member) tokenstore.PeerWatch {
	w.Helper()
	watch, err := member.(tokenstore.PeerWatcher).WatchPeers(w.ctx, processor)
	w.must(err)
	w.Cleanup(func() { watch.Close() })
	return watch
}

// ends waits for the end of a session.
func (w *world) ends(watch tokenstore.PeerWatch, incarnation int64) error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	for {
		if ended, err := watch.WaitSessionEnd(ctx, incarnation); ended || err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the session of incarnation %d has not ended after %s", incarnation, patience)
		}
	}
}

// lasts fails the test unless a session has not ended.
func (w *world) lasts(watch tokenstore.PeerWatch, incarnation int64) {
	w.Helper()
	if ended, err := watch.WaitSessionEnd(w.ctx, incarnation); err != nil || ended {
		w.Errorf("the session of incarnation %d has ended: %t, %v", incarnation, ended, err)
	}
}

// received returns the signals that a session has not received yet.
func (w *world) received(session tokenstore.Session) []tokenstore.Signal {
	w.Helper()
	const last = "test/default/last"
	w.must(w.Directory.Wake(w.ctx, last))
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var all []tokenstore.Signal
	for {
		signal, err := session.Next(ctx)
		w.must(err)
		if signal.Processor == last {
			return all
		}
		all = append(all, signal)
	}
}

// permits are a member's access to the permits.
func (w *world) permits(member tokenstore.Member, limit int) tokenstore.Permits {
	w.Helper()
	permits := member.(tokenstore.Limiter).Permits(limit)
	w.Cleanup(func() { permits.Close() }) // the connection may have been ended
	return permits
}

// acquires fails the test unless a permit is free, or is not.
func (w *world) acquires(permits tokenstore.Permits, want bool) {
	w.Helper()
	if got, err := permits.Acquire(w.ctx); err != nil || got != want {
		w.Fatalf("acquired a permit: %t, %v, want %t", got, err, want)
	}
}

func (w *world) acquiresAtLast(permits tokenstore.Permits) {
	w.Helper()
	w.until("a permit is free", func() bool {
		got, err := permits.Acquire(w.ctx)
		w.must(err)
		return got
	})
}

var changed = tokenstore.Signal{Kind: tokenstore.DirectoryChanged, Processor: processor}

var members = map[string]func(*world){
	"who joins is an incarnation of its own": func(w *world) {
		first, session := w.join()
		second, _ := w.join()
		w.must(session.Close())
		third, _ := w.join()
		a, b, c := first.Identity(), second.Identity(), third.Identity()
		if a.Incarnation >= b.Incarnation || b.Incarnation >= c.Incarnation || a.Nonce == b.Nonce || b.Nonce == c.Nonce {
			w.Errorf("joined as %+v, %+v and %+v", a, b, c)
		}
		if !a.SessionLock || !b.SessionLock || !c.SessionLock {
			w.Errorf("without session locks: %+v, %+v and %+v", a, b, c)
		}
	},
	"the end of a session ends the wait of a watch, and is announced": func(w *world) {
		victim, session := w.join()
		watcher, _ := w.join()
		_, other := w.join()
		watch := w.watch(watcher)
		w.same("received before", []tokenstore.Signal(nil), w.received(other))
		told := make(chan error, 1)
		go func() { told <- w.ends(watch, victim.Identity().Incarnation) }()
		w.must(session.Close())
		w.must(<-told)
		if all := w.received(other); !slices.Contains(all, changed) {
			w.Errorf("another session has received %v", all)
		}
	},
	"a session that lasts has not ended": func(w *world) {
		lasting, _ := w.join()
		watcher, _ := w.join()
		w.lasts(w.watch(watcher), lasting.Identity().Incarnation)
	},
	"a watch goes on after a wait that was given up": func(w *world) {
		victim, session := w.join()
		watcher, _ := w.join()
		watch := w.watch(watcher)
		given := make(chan error, 1)
		ctx, cancel := context.WithCancel(w.ctx)
		go func() {
			ended, err := watch.WaitSessionEnd(ctx, victim.Identity().Incarnation)
			if err == nil && ended {
				err = errors.New("it has ended")
			}
			given <- err
		}()
		cancel()
		w.must(<-given)
		w.must(session.Close())
		w.must(w.ends(watch, victim.Identity().Incarnation))
	},
	"a session that was lost is opened again": func(w *world) {
		w.processor()
		member, session := w.join()
		watcher, _ := w.join()
		watch, n := w.watch(watcher), member.Identity().Incarnation
		me := worker(n)
		me.SessionLock = true
		w.register(me)
		w.must(session.Close())
		w.must(w.ends(watch, n))
		again, err := member.Rejoin(w.ctx)
		w.must(err)
		w.Cleanup(func() { again.Close() })
		w.lasts(watch, n)
		if v := w.view().Workers[0]; !v.Alive {
			w.Errorf("with its second session: %+v", v)
		}
		w.must(w.Directory.Wake(w.ctx, processor))
		w.same("received", []tokenstore.Signal{changed}, w.received(again))
	},
	"a member has one session at a time": func(w *world) {
		member, session := w.join()
		ctx, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
		defer cancel()
		if again, err := member.Rejoin(ctx); err == nil {
			w.Error("there are two")
			again.Close()
		}
		w.must(session.Close())
		again, err := member.Rejoin(w.ctx)
		w.must(err)
		w.must(again.Close())
	},
	"a session receives what is announced after it was opened": func(w *world) {
		w.processor()
		w.declare(1)
		_, session := w.join()
		w.same("received before", []tokenstore.Signal(nil), w.received(session))
		me, _ := w.joined()
		token := w.claim(1, w.tokens()...)[0]
		w.received(session)
		for _, announces := range []struct {
			what string
			call func() error
			want tokenstore.Signal
		}{
			{"a wake-up", func() error { return w.Directory.Wake(w.ctx, processor) }, changed},
			{"live events", func() error { return w.Directory.NotifyLiveEvents(w.ctx) }, tokenstore.Signal{Kind: tokenstore.LiveEvents}},
			{"another definition", func() error {
				return w.Directory.DeclareProcessor(w.ctx, tokenstore.Processor{Name: processor, Definition: "d2", Replicas: 1, Live: []byte(`{}`)})
			}, changed},
			{"a worker", func() error { return w.Directory.Register(w.ctx, processor, worker(1000)) }, changed},
			{"a worker that drains", func() error { return w.Directory.SetState(w.ctx, me.Incarnation, tokenstore.Draining) }, changed},
			{"a worker that leaves", func() error { return w.Directory.Leave(w.ctx, processor, []string{me.Pod}) }, changed},
			{"a plan", func() error {
				return w.Directory.Assign(w.ctx, processor, plan(0, tokenstore.Assignment{Key: token.Key, Worker: me.Incarnation}))
			}, changed},
			{"costs", func() error { return w.Directory.Acknowledge(w.ctx, processor, 1) }, changed},
			{"a release", func() error { return w.Store.Advance(w.ctx, []tokenstore.Advance{released(to(token, 5))}) }, tokenstore.Signal{Kind: tokenstore.DirectoryChanged}},
		} {
			w.must(announces.call())
			if all := w.received(session); !slices.Contains(all, announces.want) {
				w.Errorf("%s: received %v, want %v", announces.what, all, announces.want)
			}
		}
	},
	"a session receives how a replay goes on": func(w *world) {
		everybody := tokenstore.Signal{Kind: tokenstore.DirectoryChanged}
		w.handled()
		_, session := w.join()
		end := func(phase tokenstore.ReplayPhase) error {
			return w.Store.EndReset(w.ctx, w.replay("x"), phase, tokenstore.ReplayWaitsForRollout, "")
		}
		for _, announces := range []struct {
			what string
			call func() error
			want tokenstore.Signal
		}{
			{"a request", func() error { return w.Store.RequestReplays(w.ctx, processor, []tokenstore.ReplayRequest{asked("x")}) }, changed},
			{"what it waits for", func() error {
				return w.Store.Explain(w.ctx, w.replay("x"), tokenstore.ReplayWaitsForPause, "paused")
			}, changed},
			{"the beginning of a reset", func() error { return w.Store.BeginReset(w.ctx, processor, w.replay("x")) }, everybody},
			{"a reset that is put off", func() error { return end(tokenstore.ReplayPending) }, everybody},
			{"another beginning", func() error { return w.Store.BeginReset(w.ctx, processor, w.replay("x")) }, everybody},
			{"a reset", func() error {
				return w.Reset(w.ctx, processor, w.replay("x"), Line{}, At(0), map[string]string{"reset": "x"}, nil)
			}, everybody},
			{"its end", func() error { return w.Store.Abandon(w.ctx, w.replay("x"), Line{}) }, everybody},
		} {
			w.must(announces.call())
			if all := w.received(session); !slices.Contains(all, announces.want) {
				w.Errorf("%s: received %v, want %v", announces.what, all, announces.want)
			}
		}
	},
	"a session that was closed says so": func(w *world) {
		_, session := w.join()
		w.must(session.Close())
		for {
			if _, err := session.Next(w.ctx); err != nil {
				if w.ctx.Err() != nil || errors.Is(err, context.Canceled) {
					w.Errorf("the error of the context: %v", err)
				}
				return
			}
		}
	},
	"so many permits are held at a time": func(w *world) {
		var all []tokenstore.Permits
		for range 3 {
			member, _ := w.join()
			all = append(all, w.permits(member, 2))
		}
		a, b, c := all[0], all[1], all[2]
		w.acquires(a, true)
		w.acquires(b, true)
		w.acquires(c, false)
		w.must(a.Release(w.ctx))
		w.acquires(c, true)
		w.acquires(a, false)
		w.must(c.Close())
		w.acquiresAtLast(a)
		w.acquires(c, false) // opened again
	},
	"of many who acquire permits at once, so many get one": func(w *world) {
		const limit, rounds = 2, 20
		var all []tokenstore.Permits
		for range 5 {
			member, _ := w.join()
			all = append(all, w.permits(member, limit))
		}
		var held, beyond, got atomic.Int64
		for _, err := range together(len(all), func(i int) error {
			for range rounds {
				acquired, err := all[i].Acquire(w.ctx)
				if err != nil {
					return err
				}
				if !acquired {
					continue
				}
				got.Add(1)
				if held.Add(1) > limit {
					beyond.Add(1)
				}
				held.Add(-1)
				if err := all[i].Release(w.ctx); err != nil {
					return err
				}
			}
			return nil
		}) {
			w.must(err)
		}
		if beyond.Load() > 0 || got.Load() == 0 {
			w.Errorf("%d times more than %d permits were held; %d were acquired", beyond.Load(), limit, got.Load())
		}
	},
	"the largest limit counts": func(w *world) {
		held := 0
		for _, limit := range []int{1, 2, 2, 1} {
			member, _ := w.join()
			got, err := w.permits(member, limit).Acquire(w.ctx)
			w.must(err)
			if got {
				held++
			}
		}
		w.same("held", 2, held)
	},
	"below 1 there is no limit": func(w *world) {
		member, _ := w.join()
		for _, limit := range []int{0, -1} {
			if permits := member.(tokenstore.Limiter).Permits(limit); permits != nil {
				w.Errorf("with the limit %d there are permits", limit)
			}
		}
	},
	"the permit of an incarnation that is evicted is free, and its session lasts": func(w *world) {
		frozen, _ := w.join()
		other, _ := w.join()
		n := frozen.Identity().Incarnation
		was, is := w.permits(frozen, 1), w.permits(other, 1)
		w.acquires(was, true)
		if ended, err := w.Directory.Evict(w.ctx, []int64{other.Identity().Incarnation, n + 1000}); err != nil || ended != 0 {
			w.Errorf("of an incarnation without connections and of nobody %d were ended, %v", ended, err)
		}
		w.acquires(is, false)
		if ended, err := w.Directory.Evict(w.ctx, []int64{n}); err != nil || ended != 1 {
			w.Errorf("%d connections were ended, %v, want 1", ended, err)
		}
		w.acquiresAtLast(is)
		if err := was.Release(w.ctx); err == nil {
			w.Error("a permit that was taken back was released")
		}
		w.acquires(was, false)
		w.lasts(w.watch(other), n)
	},
	"one plans a processor at a time": func(w *world) {
		fails, planned := errors.New("it cannot be planned"), 0
		plan := func() error { planned++; return nil }
		got, err := w.Directory.PlannerLock(w.ctx, processor, func() error {
			for name, want := range map[string]bool{processor: false, "test/default/other": true} {
				if got, err := w.Directory.PlannerLock(w.ctx, name, plan); err != nil || got != want {
					w.Errorf("beside who plans %s, somebody plans %s: %t, %v", processor, name, got, err)
				}
			}
			return fails
		})
		if !got || !errors.Is(err, fails) {
			w.Errorf("the lock: %t, %v", got, err)
		}
		if got, err := w.Directory.PlannerLock(w.ctx, processor, plan); err != nil || !got {
			w.Errorf("afterwards: %t, %v", got, err)
		}
		w.same("planned", 2, planned)
	},
	"of many who would plan at once, one does": func(w *world) {
		var planning, planned, beside atomic.Int64
		for _, err := range together(8, func(int) error {
			for range 10 {
				if _, err := w.Directory.PlannerLock(w.ctx, processor, func() error {
					planned.Add(1)
					if planning.Add(1) > 1 {
						beside.Add(1)
					}
					planning.Add(-1)
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		}) {
			w.must(err)
		}
		if beside.Load() > 0 || planned.Load() == 0 {
			w.Errorf("%d of %d planned beside another one", beside.Load(), planned.Load())
		}
	},
	"a probe needs no worker": func(w *world) {
		w.must(w.Directory.Probe(w.ctx, w.register(worker(1)).Incarnation))
		w.must(w.Directory.Probe(w.ctx, 1000))
	},
}
