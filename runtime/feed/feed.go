// Package feed reads events for the segments of a pod, and hands each its own.
//
// Segments that have come about equally far are read for together: one page serves them all, also segments of several
// groups. Each takes from it what its own coverage lacks, so joining and leaving a common page need no agreement. A segment
// far behind the others is read for apart, so that it holds nobody back. A read begins when a segment has room in its buffer, and
// serves those near it too, whose buffers may become fuller by it, up to a limit: so that segments that are handled about equally
// fast stay together, and events are read once for all of them. A segment at that limit does not take part until it has room; whoever
// falls behind by that is read for apart.
//
// What must always hold: what a segment is given, in order, are exactly the events of its own that its coverage lacked, each with
// the hash of its group's sequencing; a delivery's coverage is what the segment had before, plus the delivery (eventsource.Source
// guarantees the same of pages). Of a group that broadcasts, all events are a segment's own: it is given those that any of its
// parts lacks, and then all of them have them.
package feed

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Options of a feed.
type Options struct {
	// PageSize is the largest number of events that one read returns, 2,000 by default.
	PageSize int
	// Buffer is how many events a segment may have waiting; a read for it begins only below that. 2,000 by default.
	Buffer int
	// Ahead is how many events a segment may have waiting when a read for others takes it along. 8,000 by default.
	Ahead int
	// Near is how many positions apart segments may be to be read for together, 10,000 by default.
	Near int64
	// Readers is how many reads may run at once, 3 by default.
	Readers int
	// Slowest is the longest time between two looks for new events, 250 ms by default.
	Slowest time.Duration
}

func (o Options) withDefaults() Options {
	set := func(value *int, to int) {
		if *value == 0 {
			*value = to
		}
	}
	set(&o.PageSize, 2000)
	set(&o.Buffer, 2000)
	set(&o.Ahead, max(8000, o.Buffer))
	set(&o.Readers, 3)
	if o.Near == 0 {
		o.Near = 10_000
	}
	if o.Slowest == 0 {
		o.Slowest = 250 * time.Millisecond
	}
	return o
}

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
	reading  int
	interval time.Duration // until the next look, when nothing wakes the feed before
	wake     chan struct{}
	running  sync.WaitGroup
}

// New returns a feed over a source. deliver is called whenever a member has got events, failed when a read did not
// succeed (with nil when one does again); both must not block.
func New(source eventsource.Source, options Options, log *slog.Logger, deliver func(tokenstore.Key), failed func(error)) *Feed {
	return &Feed{source: source, options: options.withDefaults(), log: log, deliver: deliver, failed: failed,
		members: map[tokenstore.Key]*Member{}, wake: make(chan struct{}, 1), interval: fastest}
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

// Remove stops reading for a member.
func (f *Feed) Remove(m *Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.removed = true
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
	defer f.running.Wait()
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

// startReads begins a read for each cluster of members of which one has room, as far as readers are free.
func (f *Feed) startReads(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, members := range clusters(f.wanting(), f.options.Near) {
		if f.reading >= f.options.Readers {
			return
		}
		if !slices.ContainsFunc(members, func(m *Member) bool { return m.buffered < f.options.Buffer }) {
			continue
		}
		f.reading++
		for _, m := range members {
			m.reading, m.hungry = true, false
		}
		r := &read{members: members, coverages: coverages(members)}
		f.running.Go(func() { f.read(ctx, r) })
	}
}

// wanting returns the members that a read may serve. The caller holds the lock.
func (f *Feed) wanting() []*Member {
	var all []*Member
	for _, m := range f.members {
		if m.hungry && !m.reading && m.buffered < f.options.Ahead {
			all = append(all, m)
		}
	}
	return all
}

// read is one read for some members; while it runs nobody else changes their coverage.
type read struct {
	members   []*Member
	coverages []eventsource.Coverage
}

func coverages(members []*Member) []eventsource.Coverage {
	var all []eventsource.Coverage
	for _, m := range members {
		for _, part := range m.parts {
			all = append(all, part.Coverage)
		}
	}
	return all
}

// segments are what the source may leave the rest out for: it knows the hashes of stream ids alone.
func segments(members []*Member) []segment.Segment {
	var all []segment.Segment
	for _, m := range members {
		if m.by != segment.PerStream {
			return nil
		}
		all = append(all, m.whole)
	}
	return all
}

func (f *Feed) read(ctx context.Context, r *read) {
	page, err := f.source.Read(ctx, r.coverages, segments(r.members), f.options.PageSize)
	f.finish(ctx, r, page, err)
	f.signal()
}

// finish hands out a page. After an error its members are read for again when the next look is due.
func (f *Feed) finish(ctx context.Context, r *read, page eventsource.Page, err error) {
	if err != nil && ctx.Err() != nil {
		err = nil // the reader is being stopped
	} else {
		f.failed(err)
	}
	f.mu.Lock()
	f.reading--
	for _, m := range r.members {
		m.reading = false
	}
	if err != nil || page.After == nil {
		f.interval = f.options.Slowest
		f.mu.Unlock()
		return
	}
	given := f.distribute(r.members, page)
	switch {
	case page.More:
		for _, m := range r.members {
			m.hungry = true
		}
	case len(page.Events) > 0:
		f.interval = fastest
	default:
		f.interval = min(f.interval*2, f.options.Slowest)
	}
	f.mu.Unlock()
	for _, m := range given {
		f.deliver(m.key)
	}
}
