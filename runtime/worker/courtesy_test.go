package worker

import (
	"math/rand/v2"
	"testing"
	"time"
)

// busy is a database that has less to give than both want: a probe waits behind batches of a backlog.
type busy struct {
	random *rand.Rand
	own    time.Duration // of a probe that waits for nobody
	waits  float64       // how probable it is that one waits, beside a backlog that never rests
}

// beside has probes made while a backlog works beside live batches, and returns which share of the last ones was slow, and how long the backlog rested, for each
// second that it worked.
func (b busy) beside(c *courtesy, now *time.Time, probes int) (slow, rests float64) {
	const work = 20 * time.Millisecond // a batch of the backlog
	last := probes / 4
	for i := range probes {
		*now = now.Add(probeEvery)
		c.heard(*now)
		rest := c.rest(work, *now).Seconds() / work.Seconds()
		took := b.own
		if b.random.Float64() < b.waits/(1+rest) {
			took += 15 * b.own
		}
		c.probed(took)
		if i >= probes-last {
			rests += rest / float64(last)
			if took > b.own {
				slow += 1 / float64(last)
			}
		}
	}
	return slow, rests
}

// A backlog rests for as long as makes one probe in two hundred slow.
func TestABacklogGivesWayToLiveSegments(t *testing.T) {
	now := time.Now()
	for _, own := range []time.Duration{time.Millisecond, 30 * time.Millisecond} {
		var c courtesy
		slow, rests := busy{rand.New(rand.NewPCG(1, 1)), own, 0.02}.beside(&c, &now, 400_000)
		if slow < 0.004 || slow > 0.006 || rests < 2.2 || rests > 4 {
			t.Errorf("own %v: %.2f %% are slow, and the backlog rests %.1f times as long as it works: want 0.5 %% and 3 times", own, 100*slow, rests)
		}
	}
}

// It does not where there is enough for both, also where the database is a slow one; and not where nothing live goes on.
func TestABacklogWorksWhereItIsInNobodysWay(t *testing.T) {
	now := time.Now()
	for _, own := range []time.Duration{time.Millisecond, 300 * time.Millisecond} {
		var c courtesy
		if _, rests := (busy{rand.New(rand.NewPCG(1, 2)), own, 0.002}).beside(&c, &now, 50_000); rests > 0.2 {
			t.Errorf("own %v: the backlog rests %.1f times as long as it works, want it to work", own, rests)
		}
	}
	var quick courtesy
	if _, rests := (busy{rand.New(rand.NewPCG(1, 2)), 600 * time.Microsecond, 0.5}).beside(&quick, &now, 50_000); rests > 0 {
		t.Errorf("beside probes that never take longer than 10 ms the backlog rests %.1f times as long as it works", rests)
	}
	var c courtesy
	if c.isDue(now) || c.rest(time.Second, now) != 0 {
		t.Error("it gives way before there was anything live")
	}
	c.heard(now)
	c.probed(time.Millisecond)
	for range 100 {
		c.probed(20 * time.Millisecond)
	}
	if rest := c.rest(10*time.Millisecond, now); rest != 90*time.Millisecond || !c.isDue(now) {
		t.Errorf("it rests %v where all probes are slow, want the longest, 90ms", rest)
	}
	if rest := c.rest(time.Hour, now); rest != time.Second {
		t.Errorf("it rests %v after a batch of an hour, want a second", rest)
	}
	if now = now.Add(liveFor); c.isDue(now) || c.rest(10*time.Millisecond, now) != 0 {
		t.Errorf("it gives way %v after there was something live last", liveFor)
	}
	if c.heard(now); c.rest(10*time.Millisecond, now) != 0 {
		t.Error("when something live comes again, it rests before a probe was slow")
	}
}

// A database that has become slower for good is not taken for one that is busy.
func TestWhatTakesLongerForGoodIsNotSlow(t *testing.T) {
	now := time.Now()
	var c courtesy
	busy{rand.New(rand.NewPCG(1, 4)), 2 * time.Millisecond, 0}.beside(&c, &now, 1000)
	if _, rests := (busy{rand.New(rand.NewPCG(1, 5)), 40 * time.Millisecond, 0}).beside(&c, &now, 40_000); rests > 0 {
		t.Errorf("the backlog rests %.1f times as long as it works", rests)
	}
}

// Of all workers that have live batches about one says so every two seconds, however many there are.
func TestOneOfAllTellsOfLiveEvents(t *testing.T) {
	now := time.Now()
	all := make([]courtesy, 50)
	said := 0
	for range 1000 {
		now = now.Add(10 * time.Millisecond)
		for i := range all {
			if all[i].committed(now) {
				said++
				for j := range all {
					all[j].heard(now)
				}
			}
		}
	}
	if said != 5 {
		t.Errorf("in ten seconds %d notifications were sent, want 5", said)
	}
}
