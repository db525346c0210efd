package feed

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Head of a line.
func (l *line) Head(context.Context) (eventsource.Coverage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return upTo(len(l.events)), nil
}

// grow adds events to a line.
func (l *line) grow(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, newLine(len(l.events) + n).events[len(l.events):]...)
}

// started is a feed that runs until the test ends, and passes on who was given something.
func started(t *testing.T, l *line, o Options) (*Feed, <-chan tokenstore.Key) {
	t.Helper()
	given := make(chan tokenstore.Key, 10_000)
	f := New(l, o, slog.New(slog.DiscardHandler), func(key tokenstore.Key) { given <- key }, func(error) {})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return f, given
}

// awaits waits until a group has been given something.
func awaits(t *testing.T, given <-chan tokenstore.Key, group string) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case key := <-given:
			if key.Group == group {
				return
			}
		case <-deadline:
			t.Fatalf("%s is given nothing", group)
		}
	}
}

// TestReadsOfABacklogNeverKeepOneAtTheTailFromBeginning has reads of several backlogs take as long as the test: a segment at the tail is read
// for meanwhile.
func TestReadsOfABacklogNeverKeepOneAtTheTailFromBeginning(t *testing.T) {
	l := newLine(5000)
	release := make(chan struct{})
	var held atomic.Int32
	l.before = func(low int64) {
		if low < 4900 {
			held.Add(1)
			<-release
		}
	}
	f, given := started(t, l, Options{Near: 100})
	defer close(release) // before the feed ends
	live := add(t, f, "live", segment.Root, segment.PerStream, 4990)
	awaits(t, given, "live")
	for i := range 6 {
		add(t, f, "behind", segment.Segment{ID: uint32(i), Mask: 7}, segment.PerStream, int64(i)*500)
	}
	for deadline := time.Now().Add(time.Minute); held.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d reads of backlogs have begun, want 2", held.Load())
		}
	}
	for range 20 {
		live.Take(len(live.Peek()), 0)
		l.grow(3)
		f.Wake()
		awaits(t, given, "live")
	}
	if n := held.Load(); n != 2 {
		t.Errorf("%d reads of backlogs have begun, want 2 of 3 readers", n)
	}
}

// counter is a store's permits, and one who acquires them.
type counter struct {
	mu          sync.Mutex
	free, least int
	taken       int // in all
	refused     int
}

type acquirer struct {
	*counter
	err error
}

func (c *acquirer) Acquire(context.Context) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false, c.err
	}
	if c.free == 0 {
		c.refused++
		return false, nil
	}
	c.free--
	c.taken++
	c.least = min(c.least, c.free)
	return true, nil
}

func (c *acquirer) Release(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free++
	return nil
}

func (c *acquirer) Close() error { return nil }

func (c *counter) wasRefused() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

// TestABacklogWaitsForAPermitAndTheTailDoesNot has no permit free: a segment at the tail is read for,
// one far behind only when there is one.
func TestABacklogWaitsForAPermitAndTheTailDoesNot(t *testing.T) {
	l := newLine(5000)
	var behind atomic.Int32
	l.before = func(low int64) {
		if low < 4000 {
			behind.Add(1)
		}
	}
	permits := &acquirer{counter: &counter{}}
	f, given := started(t, l, Options{Near: 100, Permits: permits})
	live := add(t, f, "live", segment.Root, segment.PerStream, 4990)
	awaits(t, given, "live")
	add(t, f, "behind", segment.Root, segment.PerStream, 0)
	for deadline := time.Now().Add(time.Minute); permits.wasRefused() < 3; {
		if time.Now().After(deadline) || behind.Load() > 0 {
			t.Fatalf("%d reads of a backlog without a permit, and %d attempts to get one", behind.Load(), permits.wasRefused())
		}
		live.Take(len(live.Peek()), 0)
		l.grow(1)
		f.Wake()
		awaits(t, given, "live")
	}
	if n := behind.Load(); n != 0 {
		t.Fatalf("%d reads of a backlog without a permit", n)
	}
	permits.mu.Lock()
	permits.free = 1
	permits.mu.Unlock()
	awaits(t, given, "behind")
}

// TestFeedsSharePermits has five feeds with a backlog share two permits: no more than two hold one at
// a time, and all come to the end.
func TestFeedsSharePermits(t *testing.T) {
	shared := &counter{free: 2, least: 2}
	const events = 40_000
	var running sync.WaitGroup
	for range 5 {
		l := newLine(events)
		l.before = func(int64) { // until one has to wait
			for shared.wasRefused() == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		f, given := started(t, l, Options{Near: 10, Permits: &acquirer{counter: shared}})
		running.Go(func() {
			c := &consumer{Member: add(t, f, "a", segment.Root, segment.PerStream, 0)}
			for deadline := time.After(time.Minute); len(c.taken) < events; {
				select {
				case <-given:
					c.take(nil)
				case <-deadline:
					t.Errorf("took %d of %d", len(c.taken), events)
					return
				}
			}
		})
	}
	running.Wait()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.least != 0 || shared.taken < 5 {
		t.Errorf("%d permits were acquired by five; %d were left at least", shared.taken, shared.least)
	}
}

// TestABacklogIsReadWherePermitsCannotBeAcquired has every attempt fail.
func TestABacklogIsReadWherePermitsCannotBeAcquired(t *testing.T) {
	l := newLine(5000)
	f, given := started(t, l, Options{Near: 10, Permits: &acquirer{counter: &counter{}, err: errors.New("no locks here")}})
	add(t, f, "behind", segment.Root, segment.PerStream, 0)
	awaits(t, given, "behind")
}

// TestWhereThereIsNothingNobodyAcquiresAPermit looks at an empty source again and again.
func TestWhereThereIsNothingNobodyAcquiresAPermit(t *testing.T) {
	l := newLine(0)
	var reads atomic.Int32
	l.before = func(int64) { reads.Add(1) }
	permits := &acquirer{counter: &counter{free: 1}}
	f, given := started(t, l, Options{Permits: permits})
	m := add(t, f, "a", segment.Root, segment.PerStream, 0)
	for deadline := time.Now().Add(time.Minute); reads.Load() < 20; f.Wake() {
		if time.Now().After(deadline) {
			t.Fatalf("%d reads", reads.Load())
		}
	}
	l.grow(1)
	awaits(t, given, "a")
	m.Take(len(m.Peek()), 0)
	permits.mu.Lock()
	defer permits.mu.Unlock()
	if permits.taken != 0 {
		t.Errorf("%d permits were acquired", permits.taken)
	}
}
