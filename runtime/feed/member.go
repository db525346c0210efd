package feed

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
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
func (p Parts) Progress(whole segment.Segment) []progress.Part {
	parts := make([]progress.Part, len(p))
	met := true
	for i, part := range p {
		parts[i] = progress.Part{Segment: part.Segment, Progress: part.Coverage.Progress()}
		met = met && parts[i].Progress == parts[0].Progress
	}
	if met {
		return []progress.Part{{Segment: whole, Progress: parts[0].Progress}}
	}
	return parts
}

// Cover reports whether all parts cover an event, of which position and mark are needed.
func (p Parts) Cover(e *eventsource.Event) bool {
	return !slices.ContainsFunc(p, func(part Part) bool { return !part.Coverage.Covers(e) })
}

// Member is a segment that the feed reads for.
type Member struct {
	feed  *Feed
	key   tokenstore.Key
	whole segment.Segment
	by    segment.Sequencing

	// Under the feed's lock.
	parts    Parts // after all that was delivered
	queue    []*Delivery
	buffered int   // events in the queue
	typical  int64 // bytes of an event, as they were lately; 0 where that is not known
	hungry   bool  // a look for new events is due
	reading  bool
	removed  bool
	behind   bool  // the last page ended before the last event
	held     bool  // reads for it wait for others
	again    Parts // from where it is to be read again, while a read for it runs; nil otherwise
}

// Peek returns what has been delivered and not taken yet, oldest first.
func (m *Member) Peek() []*Delivery {
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	return slices.Clone(m.queue)
}

// Take removes the first n deliveries, and the first events of the one after them: nobody points into them any more.
func (m *Member) Take(n, events int) {
	m.feed.mu.Lock()
	if m.removed {
		m.feed.mu.Unlock()
		return
	}
	for _, d := range m.queue[:n] {
		m.drop(d)
	}
	clear(m.queue[:n]) // or they would stay in memory until the queue is moved
	m.queue = m.queue[n:]
	if events > 0 {
		m.queue = append([]*Delivery{m.queue[0].split(events)}, m.queue[1:]...)
		m.buffered -= events
	}
	room := m.hungry && !m.reading || m.feed.refused
	m.feed.mu.Unlock()
	if room {
		m.feed.signal()
	}
}

// ReadAgain reads anew what has been delivered and not taken yet: an event could not be read, and
// may have been repaired.
func (m *Member) ReadAgain() {
	f := m.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.removed || len(m.queue) == 0 {
		return
	}
	from := m.queue[0].before
	for _, d := range m.queue {
		m.drop(d)
	}
	m.queue = nil
	if m.reading {
		m.again = from
	} else {
		m.parts = from
	}
	m.hungry = true
	f.signal()
}

// drop takes note that a delivery is not kept any more. The caller holds the feed's lock.
func (m *Member) drop(d *Delivery) {
	m.buffered -= len(d.Events)
	m.feed.budget.release(d)
}

// Waiting returns how many events have been delivered and not taken yet, and whether more are about to be: there are some, and
// they are being read or will be without anybody having to take these first.
func (m *Member) Waiting() (events int, more bool) {
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	more = m.behind && !m.removed && (m.reading || m.hungry && !m.held && !m.feed.refused && m.feed.roomFor(m))
	return m.buffered, more
}

// Behind reports whether the segment has a backlog: its last page ended before the last event.
func (m *Member) Behind() bool {
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	return m.behind
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
func (f *Feed) distribute(members []*Member, page eventsource.Page, sorted sorted) []*Member {
	var given []*Member
	for i, m := range members {
		if m.removed {
			continue
		}
		if m.again != nil {
			m.parts, m.again, m.hungry = m.again, nil, true
			continue
		}
		d := sorted.deliveries[i]
		m.parts = d.All()
		if len(page.Events) > 0 {
			m.typical = max(sorted.typical, m.typical*3/4)
		}
		if len(d.Events) > 0 && !f.roomFor(m) {
			d.copy() // it has fallen behind: it must not keep what the others have taken
		}
		m.append(d)
		caughtUp := m.behind && !page.More
		m.behind = page.More
		if len(d.Events) > 0 || caughtUp && m.buffered > 0 { // nobody is to wait for more
			given = append(given, m)
		}
	}
	return given
}

// append adds a delivery. One without events replaces one without events: both only move the coverage.
func (m *Member) append(d *Delivery) {
	if n := len(m.queue); n > 0 && len(d.Events) == 0 && len(m.queue[n-1].Events) == 0 {
		m.drop(m.queue[n-1])
		m.queue[n-1] = d
		return
	}
	m.queue = append(m.queue, d)
	m.buffered += len(d.Events)
	m.feed.budget.keep(d)
}

// clusters groups members such that the distance of neighbours in a cluster is at most near.
// The cluster that has come farthest stands first: what happens now goes before what is to be made up for.
func clusters(members []*Member, near int64) [][]*Member {
	slices.SortFunc(members, func(a, b *Member) int {
		return cmp.Or(cmp.Compare(b.lowest().Position(), a.lowest().Position()), cmp.Compare(a.key.Group, b.key.Group), cmp.Compare(a.key.Segment, b.key.Segment))
	})
	var all [][]*Member
	for i, m := range members {
		if i == 0 || m.lowest().Distance(members[i-1].lowest()) > near {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], m)
	}
	return all
}

// retained is how many bytes the queue keeps in memory. What others keep too counts in parts: whoever has taken its events leaves the
// rest of the page to those that have not. The caller holds the lock.
func (m *Member) retained() (bytes int64) {
	for _, d := range m.queue {
		bytes += d.retained()
	}
	return bytes
}

// lowest is the coverage of the member's part that is farthest behind.
func (m *Member) lowest() eventsource.Coverage {
	low := m.parts[0].Coverage
	for _, part := range m.parts[1:] {
		if part.Coverage.Position() < low.Position() {
			low = part.Coverage
		}
	}
	return low
}
