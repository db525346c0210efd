package feed

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// read is one read for some members; while it runs nobody else changes their coverage.
type read struct {
	members   []*Member
	coverages []eventsource.Coverage
	limit     int  // events
	behind    bool // its members are not near the tail
	began     time.Time
}

// startReads begins a read for each cluster of members of which one has room, as far as readers are free and the budget allows it.
func (f *Feed) startReads(ctx context.Context) {
	for _, m := range f.beginReads(ctx) {
		f.deliver(m.key)
	}
}

// beginReads begins reads, and returns the members for which nobody should wait for more, as the budget has come to an end or others
// are waited for.
func (f *Feed) beginReads(ctx context.Context) (full []*Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refused := f.refused
	f.refused = false
	noRoom := f.withoutRoom()
	for _, members := range clusters(f.wanting(), f.near()) {
		if f.waitsFor(noRoom, members) {
			full = append(full, held(members)...)
			continue
		}
		for _, m := range members {
			m.held = false
		}
		behind := !f.isNearTail(members[0])
		if !f.freeReader(behind) {
			continue
		}
		r := f.readFor(members, behind)
		if r == nil {
			continue
		}
		if behind && !f.mayReadBacklog() {
			continue
		}
		f.began(r)
		f.start(ctx, r)
	}
	if f.refused && !refused {
		for _, m := range f.all() {
			if m.behind && m.buffered > 0 {
				full = append(full, m)
			}
		}
	}
	return full
}

// withoutRoom returns how far the members have come that no read may take along.
func (f *Feed) withoutRoom() (coverages []eventsource.Coverage) {
	for _, m := range f.members {
		if !f.mayHaveMore(m) {
			coverages = append(coverages, m.lowest())
		}
	}
	return coverages
}

// waitsFor reports whether the members of a cluster have enough waiting to let one near them that has no room take some of its own first. If it were left out
// now, what is read would be read once more for it.
func (f *Feed) waitsFor(noRoom []eventsource.Coverage, members []*Member) bool {
	for _, m := range members {
		if m.buffered <= f.options.Buffer/enoughShare && m.retained() <= f.budget.total/roomShare/enoughShare {
			return false
		}
	}
	first, last, near := members[0].lowest(), members[len(members)-1].lowest(), f.near()
	return slices.ContainsFunc(noRoom, func(at eventsource.Coverage) bool { return at.Distance(last) <= near && first.Distance(at) <= near })
}

// enoughShare is the part of what a segment may have waiting, when a read for it begins, up to which it waits for no other.
const enoughShare = 4

// held takes note that reads for members wait for others, and returns those for which that is new and matters.
func held(members []*Member) (news []*Member) {
	for _, m := range members {
		if !m.held && m.behind && m.buffered > 0 {
			news = append(news, m)
		}
		m.held = true
	}
	return news
}

// freeReader reports whether a read may begin, of members near the tail or of others. Neither may have all readers.
func (f *Feed) freeReader(behind bool) bool {
	same := f.reading - f.behind
	if behind {
		same = f.behind
	}
	return f.reading < f.options.Readers && same < f.options.Readers-1
}

// near is how far apart segments may be to be read for together. The caller holds the lock.
func (f *Feed) near() int64 { return f.spacing.of(f.options.Near) }

// isNearTail reports whether a member is near the tail, as far as that is known. The caller holds the lock.
func (f *Feed) isNearTail(m *Member) bool {
	return f.tail != nil && m.lowest().Distance(f.tail) <= f.near()
}

// sawTail takes note that there was nothing beyond a coverage. The caller holds the lock.
func (f *Feed) sawTail(c eventsource.Coverage) {
	if f.tail == nil || f.tail.Distance(c) > 0 {
		f.tail = c
	}
}

// readFor returns the read for a cluster, or nil where none is due.
func (f *Feed) readFor(members []*Member, behind bool) *read {
	bytes := f.budget.page
	if !f.budget.allows(!behind) {
		f.refused = true
		bytes /= smallShare
		members = slices.DeleteFunc(members, func(m *Member) bool { return m.buffered > 0 })
	}
	if !slices.ContainsFunc(members, f.roomFor) {
		return nil
	}
	return &read{members: members, coverages: coverages(members), limit: f.limit(members, bytes), behind: behind}
}

// roomFor reports whether a read may begin for a member.
func (f *Feed) roomFor(m *Member) bool {
	return m.buffered < f.options.Buffer && m.retained() < f.budget.total/roomShare
}

// mayHaveMore reports whether a read for others may take a member along.
func (f *Feed) mayHaveMore(m *Member) bool {
	return m.buffered < f.options.Ahead && m.retained() < f.budget.total/aheadShare
}

// limit is how many events make a page of a size, going by the size that events had lately.
func (f *Feed) limit(members []*Member, bytes int64) int {
	typical := eventBytes
	for _, m := range members {
		typical = max(typical, m.typical)
	}
	// Half of it, so that the source has to end only pages of which events are unlike those before them.
	return int(min(max(bytes/2/typical, 1), int64(f.options.PageSize)))
}

// began takes note that a read begins.
func (f *Feed) began(r *read) {
	r.began = time.Now()
	f.reads[r] = true
	f.reading++
	f.budget.begin()
	if r.behind {
		f.behind++
		f.permit.used = time.Now()
	}
	for _, m := range r.members {
		m.reading, m.hungry = true, false
	}
}

// ended takes note that a read has ended.
func (f *Feed) ended(r *read) {
	delete(f.reads, r)
	f.reading--
	f.budget.end()
	if r.behind {
		f.behind--
		f.permit.used = time.Now()
	}
	for _, m := range r.members {
		m.reading = false
	}
}

// all returns the members by group and segment. The caller holds the lock.
func (f *Feed) all() []*Member {
	return slices.SortedFunc(maps.Values(f.members), func(a, b *Member) int {
		return cmp.Or(cmp.Compare(a.key.Group, b.key.Group), cmp.Compare(a.key.Segment, b.key.Segment))
	})
}

// wanting returns the members that a read may serve. The caller holds the lock.
func (f *Feed) wanting() []*Member {
	var all []*Member
	for _, m := range f.members {
		if m.hungry && !m.reading && f.mayHaveMore(m) {
			all = append(all, m)
		}
	}
	return all
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

// ReadingSince returns when the oldest of the reads that run has begun; the zero time where none
// runs.
func (f *Feed) ReadingSince() (since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.reads {
		if since.IsZero() || r.began.Before(since) {
			since = r.began
		}
	}
	return since
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

// start has a goroutine read. It prefers one that has read before, whose stack has grown: growing the
// stack of a new one for every read takes several per cent of a worker's CPU time under live load.
func (f *Feed) start(ctx context.Context, r *read) {
	f.running.Add(1)
	select {
	case f.idle <- r:
	default:
		f.readers.Go(func() { f.readAll(ctx, r) })
	}
}

// readAll does a read, and then others until the context ends.
func (f *Feed) readAll(ctx context.Context, r *read) {
	for {
		f.read(ctx, r)
		f.running.Done()
		select {
		case r = <-f.idle:
		case <-ctx.Done():
			return
		}
	}
}

func (f *Feed) read(ctx context.Context, r *read) {
	page, err := f.source.Read(ctx, r.coverages, segments(r.members), r.limit)
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
	var sorted sorted
	if page.After != nil {
		sorted = sortOut(r.members, page)
	}
	f.mu.Lock()
	f.ended(r)
	if err != nil || page.After == nil {
		f.interval = f.options.Slowest
		f.mu.Unlock()
		return
	}
	f.spacing.learn(r.members, page)
	given := f.distribute(r.members, page, sorted)
	f.plan(r.members, page)
	f.mu.Unlock()
	for _, m := range given {
		f.deliver(m.key)
	}
}

// plan says when the members of a page are read for next. The caller holds the lock.
func (f *Feed) plan(members []*Member, page eventsource.Page) {
	switch {
	case page.More:
		for _, m := range members {
			m.hungry = true
		}
		return
	case len(page.Events) > 0:
		f.interval = fastest
	default:
		f.interval = min(f.interval*2, f.options.Slowest)
	}
	for _, m := range members {
		f.sawTail(m.lowest())
	}
}
