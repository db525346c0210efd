package worker

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// act carries a decision out.
func (c *controller) act(ctx context.Context, d *decision, tokens []tokenstore.Token) error {
	for _, key := range d.drop {
		if s := c.segment(key); s != nil {
			c.lose(s)
		}
	}
	var leaving []*segmentRun
	for _, key := range d.release {
		if s := c.segment(key); s != nil {
			leaving = append(leaving, s)
		}
	}
	c.leave(ctx, leaving)
	if err := c.adopt(ctx, d, tokens); err != nil {
		return err
	}
	if len(d.claim) == 0 || !c.trusts() {
		return nil
	}
	return c.claim(ctx, d, tokens)
}

func (l *life) segment(key tokenstore.Key) *segmentRun {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segments[key]
}

// adopt makes this worker the assignee of orphans; those that it gets are claimed.
func (c *controller) adopt(ctx context.Context, d *decision, tokens []tokenstore.Token) error {
	if len(d.adopt) == 0 {
		return nil
	}
	got, err := c.directory.Adopt(ctx, c.options.Processor, c.self.Incarnation, d.adopt)
	if err != nil {
		return err
	}
	epochs := map[tokenstore.Key]int64{}
	for _, t := range tokens {
		epochs[t.Key] = t.Epoch
	}
	for _, key := range got {
		delete(c.orphaned, key)
		d.claim = append(d.claim, tokenstore.Claim{Key: key, Epoch: epochs[key]})
	}
	d.missing += len(got)
	return nil
}

// claim claims segments and begins to read for them.
func (c *controller) claim(ctx context.Context, d *decision, before []tokenstore.Token) error {
	if err := c.bury(ctx, d.dead); err != nil {
		return err
	}
	for i := range d.claim {
		d.claim[i].Sequencing = c.groups[d.claim[i].Group].by.String()
	}
	tokens, err := c.store.Claim(ctx, c.options.Processor, c.self.Incarnation, d.definition, d.claim)
	if err != nil {
		return err
	}
	if len(tokens) < len(d.claim) {
		d.soon(retryClaim / 2)
	}
	h, err := c.prehistory(ctx, before, tokens)
	if err != nil {
		c.look() // what was claimed is looked at anew
		return err
	}
	for _, t := range tokens {
		if err := c.hold(ctx, t, h); err != nil {
			return err
		}
	}
	c.tellTakeovers(d.dead, before, tokens)
	d.missing -= len(tokens)
	c.log.Info("claimed", "segments", len(tokens), "held", len(c.held()))
	return nil
}

// prehistory is what there is to know of segments that were claimed.
type prehistory struct {
	attempts map[tokenstore.Key]*tokenstore.Failure // stored, with marks
	unclean  map[tokenstore.Key]bool                // that their last owner, another worker, had not released
	head     int64                                  // of the events, where some segment may be suspect
	bounds   *boundaries
}

// prehistory reads it after the claim: the last owners are fenced off and write nothing any more.
func (c *controller) prehistory(ctx context.Context, before, claimed []tokenstore.Token) (h prehistory, err error) {
	all, err := c.store.Attempts(ctx, c.options.Processor)
	if err != nil {
		return h, err
	}
	h.attempts = map[tokenstore.Key]*tokenstore.Failure{}
	for i := range all {
		h.attempts[all[i].Key] = &all[i]
	}
	replays, err := c.store.Replaying(ctx, c.options.Processor)
	if err != nil {
		return h, err
	}
	h.bounds = &boundaries{source: c.source, of: replays}
	h.unclean = map[tokenstore.Key]bool{}
	for _, t := range before {
		if t.Owner != 0 && t.Owner != c.self.Incarnation {
			h.unclean[t.Key] = true
		}
	}
	if len(h.unclean) > 0 || c.losses() > 0 {
		h.head = c.headInTime(ctx)
	}
	return h, nil
}

// headInTime is the head of the events, or the highest position if the source does not tell in
// time: segments are suspect for longer then, and nobody waits for a source that is not there.
func (c *controller) headInTime(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	head, err := c.source.Head(ctx)
	if err != nil {
		return math.MaxInt64
	}
	return head.Position()
}

// losses is how many segments were lost with a batch whose outcome was unknown.
func (l *life) losses() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lost)
}

// hold begins to process a token that was claimed. Where an event failed before, the segment goes on alone with that event.
func (c *controller) hold(ctx context.Context, t tokenstore.Token, h prehistory) error {
	replay, err := h.bounds.around(t)
	if err != nil {
		return err
	}
	if replay != nil && replay.moved && replay.by.NeedsContents() {
		c.pages.NeedContents() // before anything is read for it: that an event had been handled is told by its contents
	}
	s := &segmentRun{group: c.groups[t.Group], Holding: protocol.Hold(t), moved: time.Now(), claimed: time.Now(), size: batchSize{limit: firstBatch}, replay: replay}
	member, err := c.feed.Add(t, s.group.by)
	if err != nil {
		return fmt.Errorf("segment %d of %s: %w", t.Segment, t.Group, err)
	}
	s.member = member
	s.goAlone(1) // whatever made its last owner lose it
	lost := c.recall(t)
	if h.unclean[t.Key] || lost != nil && lost.fault.Kind == tokenstore.InfrastructureFault {
		s.suspect(h.head, c.maxBatchSize(t.Group))
	}
	c.resume(ctx, s, lost, h.attempts[t.Key])
	c.mu.Lock()
	c.segments[t.Key] = s
	c.mu.Unlock()
	c.runnable.push(s) // something may have been delivered before it was in the table
	return nil
}

// leave releases segments: at once those that no batch runs of, the others after it.
func (l *life) leave(ctx context.Context, segments []*segmentRun) {
	var now []*segmentRun
	l.mu.Lock()
	for _, s := range segments {
		if s.Leave() {
			now = append(now, s)
		}
	}
	l.mu.Unlock()
	l.release(ctx, now)
}

// loseAll forgets all segments, so that they are claimed and read for anew.
func (l *life) loseAll(cause string) {
	l.mu.Lock()
	all := l.all()
	l.mu.Unlock()
	for _, s := range all {
		l.lose(s)
	}
	if len(all) > 0 {
		l.log.Warn("claiming again", "segments", len(all), "cause", cause)
	}
}
