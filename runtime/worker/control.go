package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// controller is the state of the control loop, which alone claims and decides to release.
type controller struct {
	*life
	response  tokenstore.HeartbeatResponse
	beaten    bool // the directory knows this worker and its processor
	nextBeat  time.Time
	nextMove  time.Time
	restUntil time.Time // no look at the directory before
	orphaned  map[tokenstore.Key]time.Time
	drainFrom time.Time // when draining began; zero before
	planning  bool      // this worker made the newest plan
	due       bool      // a look at the directory is
	announce  func()    // closes known, once
	broken    bool      // the directory could not be reached last
	layouts   map[string]*protocol.LayoutError

	standing  assignment.State
	number    int64     // of the definition that this worker runs, as it was last
	planned   time.Time // when somebody planned last, or when this began
	readiness readiness
}

// trouble takes note of how a statement to the directory went, and logs when that changes.
func (c *controller) trouble(err error) {
	switch {
	case err != nil && !c.broken:
		c.log.Error("the directory cannot be reached; trying again until it can", "error", err)
	case err == nil && c.broken:
		c.log.Info("the directory can be reached again")
	}
	c.broken = err != nil
}

// controlLoop beats, looks at the directory when something has changed, and acts. It ends when the worker has drained
// after the context's end, or with an error when the incarnation has to end.
func (l *life) controlLoop(ctx context.Context) error {
	c := &controller{life: l, orphaned: map[tokenstore.Key]time.Time{}, planned: time.Now(), due: true, nextMove: time.Now().Add(moveEvery),
		announce: sync.OnceFunc(func() { close(l.known) })}
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done()
	l.turns()
	l.waits.Store(false)
	defer l.waits.Store(true)
	for {
		select {
		case <-done:
		case <-l.nudge:
			c.due = true
		case <-timer.C:
		}
		// One turn is for all that has happened, not only for what select has chosen.
		select {
		case <-l.nudge:
			c.due = true
		default:
		}
		if done != nil && ctx.Err() != nil {
			done = nil
			c.beginDrain(ctx)
		}
		l.turns()
		if c.drainFrom.IsZero() && l.abandoned.count() >= mostAbandoned {
			c.beginDrain(ctx)
		}
		again, err := c.turn(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		if c.drained() {
			if err := c.end(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			if l.abandoned.count() >= mostAbandoned {
				return ErrCallsHang
			}
			return nil
		}
		timer.Reset(again)
	}
}

// retryStore is about how soon the directory is tried again while it cannot be reached.
const retryStore = 200 * time.Millisecond

// restAfter is for how many times as long as a look took no other one begins: with many segments each costs something.
const restAfter = 2

// turn does what is due and returns when the next turn is, unless something happens before.
func (c *controller) turn(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	again := tokenstore.Heartbeat
	if !time.Now().Before(c.nextBeat) || c.news.Swap(false) {
		if err := c.beat(ctx); err != nil {
			return 0, err
		}
	}
	if wait := time.Until(c.restUntil); wait > 0 {
		again = min(again, wait)
	} else if c.beaten && (c.due || c.planning || !c.response.Planned) && !c.renews(ctx) {
		began := time.Now()
		d, err := c.observe(ctx)
		c.restUntil = time.Now().Add(restAfter * time.Since(began))
		if err != nil {
			c.trouble(err)
			c.due, again = true, min(again, c.jittered(retryStore))
		} else if d.again > 0 {
			c.due, again = true, min(again, d.again)
		}
	}
	if !time.Now().Before(c.nextMove) {
		c.moveIdle(ctx)
		c.nextMove = time.Now().Add(moveEvery)
		if c.replaying() {
			c.nextMove = time.Now().Add(moveReplaying)
		}
	}
	return max(min(again, time.Until(c.nextBeat), time.Until(c.nextMove)), time.Millisecond), nil
}

// beat renews the lease. An error of its own ends the incarnation; those of the store are tried again.
func (c *controller) beat(ctx context.Context) error {
	timing := tokenstore.TimingOf(c.lease())
	ctx, cancel := context.WithTimeout(ctx, timing.Within) // where a connection has fallen silent, there is time for another one
	defer cancel()
	sent := time.Now()
	c.nextBeat = sent.Add(timing.Heartbeat)
	c.self.Lease = timing.Lease
	c.prove()
	c.self.Report = c.makeReport()
	expired := !c.trusts()
	response, err := c.directory.Heartbeat(ctx, c.self)
	switch {
	case errors.Is(err, tokenstore.ErrWorkerEnded):
		return fmt.Errorf("%w: %w", errNextLife, err)
	case errors.Is(err, tokenstore.ErrNoProcessor):
		c.beaten = false
		c.renew(sent, timing)
		return nil
	case err != nil:
		c.nextBeat = time.Now().Add(c.jittered(retryStore))
		c.trouble(err)
		return nil
	}
	c.trouble(nil)
	c.announce()
	if expired { // others may have taken over: ask before going on
		c.loseAll("the lease was over")
		c.due = true
	}
	c.renew(sent, timing)
	c.storeClock.set(response.Now)
	response.Now = time.Time{}
	if !c.beaten || response != c.response {
		c.due = true
	}
	if response.Planned {
		c.planned = sent
	}
	if response.Replays > 0 {
		c.lookAtReplays()
	}
	c.response, c.beaten = response, true
	return nil
}

// observe looks at the directory and the tokens and acts on what it sees.
func (c *controller) observe(ctx context.Context) (decision, error) {
	c.due = false
	if err := c.reread(ctx); err != nil {
		return decision{}, err
	}
	c.plan(ctx)
	if err := c.beatMeanwhile(ctx); err != nil {
		return decision{}, err
	}
	view, err := c.directory.View(ctx, c.options.Processor)
	if err != nil {
		return decision{}, err
	}
	c.meet(view.Workers)
	tokens, err := c.store.Tokens(ctx, c.options.Processor)
	if err != nil {
		return decision{}, err
	}
	if err := c.beatMeanwhile(ctx); err != nil {
		return decision{}, err
	}
	c.apply(view.Processor)
	if err := c.agree(ctx, sequencings(tokens)); err != nil {
		return decision{}, err
	}
	c.stand(view)
	c.elsewhere.see(c.self.Incarnation, view)
	d := decide(situation{self: c.self.Incarnation, draining: !c.drainFrom.IsZero(), view: view, tokens: tokens, held: c.held(),
		refused: c.refused, broken: c.checkLayouts(tokens), now: time.Now(), standing: c.standing, orphaned: c.orphaned})
	if err := c.act(ctx, &d, tokens); err != nil {
		return decision{}, err
	}
	c.judgeReadiness(&d, view)
	return d, nil
}

// checkLayouts finds the groups whose tokens nobody may handle events by, and logs what is news.
func (c *controller) checkLayouts(tokens []tokenstore.Token) map[string]*protocol.LayoutError {
	broken := protocol.CheckLayouts(tokens)
	for group, err := range broken {
		if c.layouts[group] == nil {
			c.log.Error("a group is not handled any more until its tokens are repaired", "group", group, "error", err)
		}
	}
	for group := range c.layouts {
		if broken[group] == nil {
			c.log.Info("a group's tokens are whole again", "group", group)
		}
	}
	c.layouts = broken
	return broken
}

// beatMeanwhile beats where a look takes long: the lease must not end over it.
func (c *controller) beatMeanwhile(ctx context.Context) error {
	if time.Now().Before(c.nextBeat) {
		return nil
	}
	return c.beat(ctx)
}

// meet takes note of who else lives: whom to watch, and whether there is anybody to hand over to.
func (c *controller) meet(workers []tokenstore.Worker) {
	c.ring.aim(neighbour(c.self.Incarnation, workers))
	c.response.Alive = 0
	for _, w := range workers {
		if w.Alive {
			c.response.Alive++
		}
	}
}

// reread forgets what was read but not stored once a connection was lost: the server may have crashed, and then it gives
// transaction ids again that it had not logged. Stored progress is safe from that.
func (c *controller) reread(ctx context.Context) error {
	if !c.severed.Load() {
		return nil
	}
	if err := c.source.Check(ctx); err != nil && !ofTheTable(err) {
		return err
	}
	c.severed.Store(false)
	c.loseAll("a connection that reads events was lost")
	return nil
}

// plan plans where nobody else does, or where this worker did last: also while it drains, for until somebody else noticed
// nobody would name those who take its segments.
func (c *controller) plan(ctx context.Context) {
	c.planning = (c.planning || !c.response.Planned && c.drainFrom.IsZero()) && (!c.response.Planned || c.response.Planner == c.planner.Name)
	if !c.planning {
		return
	}
	got, err := c.directory.PlannerLock(ctx, c.options.Processor, func() error {
		outcome, err := c.planner.Step(ctx)
		if err == nil && planner.News(c.layouts, outcome.Broken) {
			err = c.directory.Wake(ctx, c.options.Processor)
		}
		return err
	})
	switch {
	case errors.Is(err, tokenstore.ErrPlanOutdated):
		c.due = true
	case err != nil:
		c.log.Warn("planning in place of the operator", "error", err)
	}
	c.planning = got && err == nil
}

// replanEvery is how often a worker that plans looks at everything, where nothing tells it of a change.
const replanEvery = 5 * time.Second

// renews renews the plan, without a look at the directory, where this worker made it and nothing has changed.
func (c *controller) renews(ctx context.Context) bool {
	if c.due || !c.planning || c.response.Planner != c.planner.Name || !c.drainFrom.IsZero() || c.severed.Load() {
		return false
	}
	renewed, err := c.planner.Renew(ctx, replanEvery)
	return renewed && err == nil
}

// apply takes over live settings. What this version cannot read of them is reported and changes nothing else: an operator
// of a later version must not stop this worker.
func (c *controller) apply(p tokenstore.Processor) {
	live, problems := definition.ParseLive(p.Live, c.settings.live)
	unsupported := unsupportedOf(problems)
	c.mu.Lock()
	changed := !c.settings.known || c.settings.live.Generation != live.Generation
	news := !slices.Equal(c.settings.unsupported, unsupported)
	c.settings = newSettings(live, unsupported)
	c.mu.Unlock()
	if news && len(unsupported) > 0 {
		c.log.Warn("this version does not support some live settings and goes on as before; use an image of the operator's version",
			"version", c.options.Version, "settings", unsupported)
	}
	if news {
		c.nextBeat = time.Time{} // report at once
	}
	if changed {
		c.pushAll() // what was paused may go on
	}
}

// pushAll queues all segments held: what may not run yet is left out when its turn comes.
func (l *life) pushAll() {
	l.mu.Lock()
	all := l.all()
	l.mu.Unlock()
	for _, s := range all {
		l.runnable.push(s)
	}
}

// all returns the segments held, by group and segment. The caller holds the lock.
func (l *life) all() []*segmentRun {
	return slices.SortedFunc(maps.Values(l.segments), func(a, b *segmentRun) int { return compareKeys(a.key(), b.key()) })
}

func compareKeys(a, b tokenstore.Key) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Segment, b.Segment))
}

func (l *life) held() map[tokenstore.Key]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := map[tokenstore.Key]int64{}
	for key, s := range l.segments {
		held[key] = s.Token.Epoch
	}
	return held
}

// beginDrain tells everybody that this worker leaves.
func (c *controller) beginDrain(ctx context.Context) {
	c.log.Info("draining", "segments", len(c.held()))
	c.drainFrom, c.self.State, c.due = time.Now(), tokenstore.Draining, true
	c.Worker.ready.Store(false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenstore.TimingOf(c.lease()).Within)
	defer cancel()
	if err := c.directory.SetState(ctx, c.self.Incarnation, tokenstore.Draining); err != nil {
		c.log.Warn("could not announce that this worker drains", "error", err)
	}
}

// drained reports whether draining is over: nothing is held, nobody else is alive, or the others have had their time to ask
// for what is.
func (c *controller) drained() bool {
	if c.drainFrom.IsZero() {
		return false
	}
	return len(c.held()) == 0 || c.response.Alive <= 1 || time.Since(c.drainFrom) > c.options.DrainTimeout
}

// end releases what is left and ends the incarnation.
func (c *controller) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	c.mu.Lock()
	all := c.all()
	c.mu.Unlock()
	if len(all) > 0 && c.response.Alive > 1 {
		c.log.Warn("releasing segments that nobody has asked for", "segments", len(all))
	}
	c.leave(ctx, all)
	for len(c.held()) > 0 && ctx.Err() == nil { // batches that are still running release when they are done
		sleep(ctx, 5*time.Millisecond)
	}
	if err := c.sayEnded(ctx); err != nil {
		c.log.Warn("could not tell that this worker has ended; the others will notice", "error", err)
	}
	c.log.Info("drained", "took", time.Since(c.drainFrom))
	return nil
}

// sayEnded tells the directory that this worker has ended. A connection that was lost meanwhile is no reason to give up.
func (c *controller) sayEnded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		err := c.directory.SetState(ctx, c.self.Incarnation, tokenstore.Ended)
		if err == nil || ctx.Err() != nil {
			return err
		}
		sleep(ctx, 50*time.Millisecond)
	}
}
