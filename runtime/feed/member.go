package feed

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Part is a part of a segment and how far it has come.
type Part struct {
	Segment  segment.Segment
	Coverage eventsource.Coverage
}

// Parts of one segment.
type Parts []Part

// Progress returns the parts as a token stores them: one where all have come equally far.
func (p Parts) Progress(whole segment.Segment) []tokenstore.Part {
	parts := make([]tokenstore.Part, len(p))
	met := true
	for i, part := range p {
		parts[i] = tokenstore.Part{Segment: part.Segment, Progress: part.Coverage.Progress()}
		met = met && parts[i].Progress == parts[0].Progress
	}
	if met {
		return []tokenstore.Part{{Segment: whole, Progress: parts[0].Progress}}
	}
	return parts
}

// Delivery is what a page held for one segment.
type Delivery struct {
	// Events of the segment, by position; may be empty: then only the coverage has moved.
	Events   []eventsource.Event
	before   Parts
	page     eventsource.Page
	expected int // events, roughly
}

// Until returns the segment's parts after the delivery's events up to and including the position.
func (d *Delivery) Until(position int64) Parts {
	after := make(Parts, len(d.before))
	for i, part := range d.before {
		after[i] = Part{part.Segment, d.page.After(part.Coverage, position)}
	}
	return after
}

// All returns the segment's parts after the whole page.
func (d *Delivery) All() Parts { return d.Until(maxPosition) }

const maxPosition = 1<<63 - 1

// Member is a segment that the feed reads for.
type Member struct {
	feed  *Feed
	key   tokenstore.Key
	whole segment.Segment
	by    segment.Sequencing

	// Under the feed's lock.
	parts    Parts // after all that was delivered
	queue    []*Delivery
	buffered int  // events in the queue
	hungry   bool // a look for new events is due
	reading  bool
	removed  bool
}

// Peek returns what has been delivered and not taken yet, oldest first.
func (m *Member) Peek() []*Delivery {
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	return slices.Clone(m.queue)
}

// Take removes the first n deliveries, and the first events of the one after them.
func (m *Member) Take(n, events int) {
	m.feed.mu.Lock()
	for _, d := range m.queue[:n] {
		m.buffered -= len(d.Events)
	}
	m.queue = m.queue[n:]
	if events > 0 {
		d := *m.queue[0]
		d.Events, d.before = d.Events[events:], d.Until(d.Events[events-1].Position)
		m.queue = append([]*Delivery{&d}, m.queue[1:]...)
		m.buffered -= events
	}
	hungry := m.hungry && !m.reading
	m.feed.mu.Unlock()
	if hungry {
		m.feed.signal()
	}
}

// Oldest returns when the oldest event was recorded that has been delivered and not taken yet.
func (m *Member) Oldest() (time.Time, bool) {
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	for _, d := range m.queue {
		if len(d.Events) > 0 {
			return d.Events[0].RecordedAt, true
		}
	}
	return time.Time{}, false
}

// distribute gives each member what it lacks of the page, and returns those that got events.
// The caller holds the feed's lock.
func (f *Feed) distribute(members []*Member, page eventsource.Page) []*Member {
	deliveries := sortOut(members, page)
	var given []*Member
	for i, m := range members {
		if m.removed {
			continue
		}
		d := deliveries[i]
		m.parts = d.All()
		m.append(d)
		if len(d.Events) > 0 {
			given = append(given, m)
		}
	}
	return given
}

// append adds a delivery. One without events replaces one without events: both only move the coverage.
func (m *Member) append(d *Delivery) {
	if n := len(m.queue); n > 0 && len(d.Events) == 0 && len(m.queue[n-1].Events) == 0 {
		m.queue[n-1] = d
		return
	}
	m.queue = append(m.queue, d)
	m.buffered += len(d.Events)
}

// clusters groups members such that neighbours in a cluster are at most near positions apart.
// The cluster that has come farthest stands first: what happens now goes before what is to be made up for.
func clusters(members []*Member, near int64) [][]*Member {
	slices.SortFunc(members, func(a, b *Member) int {
		return cmp.Or(cmp.Compare(b.position(), a.position()), cmp.Compare(a.key.Group, b.key.Group), cmp.Compare(a.key.Segment, b.key.Segment))
	})
	var all [][]*Member
	for i, m := range members {
		if i == 0 || members[i-1].position()-m.position() > near {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], m)
	}
	return all
}

// position is that of the member's part that is farthest behind.
func (m *Member) position() int64 {
	low := m.parts[0].Coverage.Position()
	for _, part := range m.parts[1:] {
		low = min(low, part.Coverage.Position())
	}
	return low
}
