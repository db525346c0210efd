// Package feed reads events for the segments of a pod, and hands each its own.
//
// Segments that have come about equally far are read for together: one page serves them all, also segments of several
// groups. Each takes from it what its own coverage lacks, so joining and leaving a common page need no agreement. A segment
// far behind the others is read for apart, so that it holds nobody back. A read begins when a segment has room in its buffer, and
// serves those near it too, whose buffers may become fuller by it, up to a limit: so that segments that are handled about equally
// fast stay together, and events are read once for all of them. A segment at that limit does not take part until it has room: those near it
// wait for it as long as they have enough, which also leaves it the processor. Whoever falls behind for longer is read for apart.
//
// Memory is bounded by bytes, by one budget for all: what waits to be taken, and a page for each read that runs, count against it. The
// events of a page are handed on as they are, and are in memory as long as somebody points to one of them, and count as long, once; a
// segment that has fallen behind copies what is its own instead. A part of the budget, and one of the readers, are there for segments near the tail alone, so that no backlog
// holds up what happens now. Where the budget is used up, segments with nothing waiting are read for nevertheless, in small
// pages: others may never take what they were given, because they are paused or stand still at an event.
//
// What must always hold: what a segment is given, in order, are exactly the events of its own that its coverage lacked, each with
// the hash of its group's sequencing; a delivery's coverage is what the segment had before, plus the delivery (eventsource.Source
// guarantees the same of pages). Of a group that broadcasts, all events are a segment's own: it is given those that any of its
// parts lacks, and then all of them have them.
package feed

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Options of a feed.
type Options struct {
	// PageSize is the largest number of events that one read returns, 5,000 by default.
	PageSize int
	// Buffer is how many events a segment may have waiting; a read for it begins only below that. 10,000 by default.
	Buffer int
	// Ahead is how many events a segment may have waiting when a read for others takes it along. 20,000 by default.
	Ahead int
	// Near is how many events apart segments may be to be read for together, going by how far apart
	// the positions of events are, 10,000 by default.
	Near int64
	// Readers is how many reads may run at once, 3 by default, at least 2: one is for segments near the tail alone, one for others.
	Readers int
	// Permits are what reads for segments that are not near the tail wait for; nil if they do not wait.
	Permits tokenstore.Permits
	// Memory is the budget in bytes, 64 MiB by default; see [PageBytes] for what the source has to know of it.
	Memory int64
	// Slowest is the longest time between two looks for new events, 300 ms by default.
	Slowest time.Duration
	// Random returns numbers from 0 up to 1, for the share of chance in waits; rand.Float64 by default.
	Random func() float64
}

func (o Options) withDefaults() Options {
	set := func(value *int, to int) {
		if *value == 0 {
			*value = to
		}
	}
	set(&o.PageSize, 5000)
	set(&o.Buffer, 10_000)
	set(&o.Ahead, max(20_000, o.Buffer))
	set(&o.Readers, 3)
	o.Readers = max(o.Readers, 2)
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Near == 0 {
		o.Near = 10_000
	}
	if o.Slowest == 0 {
		o.Slowest = 300 * time.Millisecond
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	return o
}

// DefaultMemory is the budget where none is given.
const DefaultMemory = 64 << 20

// PageBytes is the size at which the source has to end a page, of a feed with a budget.
func PageBytes(memory int64) int64 { return memory / pageShare }

// fastest is the time between two looks for new events while there are some.
const fastest = 2 * time.Millisecond

// Feed reads for members.
type Feed struct {
	source  eventsource.Source
	options Options
	log     *slog.Logger
	deliver func(tokenstore.Key)
	failed  func(error)

	mu       sync.Mutex
	members  map[tokenstore.Key]*Member
	budget   budget
	permit   permit
	spacing  spacing
	refused  bool // the budget kept a read from beginning
	reading  int
	reads    map[*read]bool       // that run
	behind   int                  // of these, reads for segments that are not near the tail
	tail     eventsource.Coverage // the farthest one up to which there is known to be no more; nil at first
	interval time.Duration        // until the next look, when nothing wakes the feed before
	wake     chan struct{}
	idle     chan *read     // taken by a goroutine that has read before
	readers  sync.WaitGroup // goroutines that read
	running  sync.WaitGroup // reads, and acquiring permits
}

// New returns a feed over a source. deliver is called whenever a member has got events, failed when a read did not
// succeed (with nil when one does again); both must not block.
func New(source eventsource.Source, options Options, log *slog.Logger, deliver func(tokenstore.Key), failed func(error)) *Feed {
	options = options.withDefaults()
	permit := permit{needed: options.Permits != nil, wanted: make(chan struct{}, 1)}
	return &Feed{source: source, options: options, log: log, deliver: deliver, failed: failed, interval: fastest,
		budget:  budget{total: options.Memory, page: PageBytes(options.Memory)},
		permit:  permit,
		members: map[tokenstore.Key]*Member{}, reads: map[*read]bool{}, wake: make(chan struct{}, 1), idle: make(chan *read)}
}

// Add begins to read for a token, whose group takes its events by a sequencing. Only one member of a key may be there at a time.
func (f *Feed) Add(token tokenstore.Token, by segment.Sequencing) (*Member, error) {
	m := &Member{feed: f, key: token.Key, whole: token.Range(), by: by, hungry: true}
	for _, part := range token.Parts {
		coverage, err := f.source.Parse(part.Progress)
		if err != nil {
			return nil, err
		}
		m.parts = append(m.parts, Part{Segment: part.Segment, Coverage: coverage})
	}
	f.mu.Lock()
	f.members[m.key] = m
	f.mu.Unlock()
	f.signal()
	return m, nil
}

// Remove stops reading for a member, and forgets what it has not taken. What a batch of it still points into does not count any more.
func (f *Feed) Remove(m *Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.removed {
		return
	}
	m.removed = true
	for _, d := range m.queue {
		m.drop(d)
	}
	m.queue = nil
	f.signal()
	if f.members[m.key] == m {
		delete(f.members, m.key)
	}
}

// Wake has the feed look for new events at once.
func (f *Feed) Wake() {
	f.mu.Lock()
	f.interval = fastest
	f.feedAll()
	f.mu.Unlock()
	f.signal()
}

func (f *Feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// feedAll makes all members want a look. The caller holds the lock.
func (f *Feed) feedAll() {
	for _, m := range f.members {
		m.hungry = true
	}
}

// Run reads until the context ends.
func (f *Feed) Run(ctx context.Context) {
	defer f.readers.Wait()
	defer f.running.Wait()
	if f.options.Permits != nil {
		f.running.Go(func() { f.acquirePermits(ctx) })
	}
	timer := time.NewTimer(fastest)
	defer timer.Stop()
	looked := time.Now()
	for {
		f.startReads(ctx)
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-timer.C:
			looked = time.Now()
			f.mu.Lock()
			f.feedAll()
			f.mu.Unlock()
		}
		f.mu.Lock()
		timer.Reset(time.Until(looked.Add(f.interval)))
		f.mu.Unlock()
	}
}
