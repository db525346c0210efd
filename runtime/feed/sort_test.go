package feed

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// upTo covers the events up to a position.
type upTo int64

func (c upTo) Covers(e *eventsource.Event) bool       { return e.Position <= int64(c) }
func (c upTo) Position() int64                        { return int64(c) }
func (c upTo) Distance(to eventsource.Coverage) int64 { return max(to.Position()-int64(c), 0) }
func (c upTo) Progress() progress.Progress            { return progress.Progress{Position: int64(c)} }

// line is a source whose events are there from the beginning. It notes what it was asked to leave out.
type line struct {
	eventsource.Source
	events    []*eventsource.Event
	pageBytes int64 // pages end at it; 0 for never
	before    func(low int64)

	mu       sync.Mutex
	segments [][]segment.Segment
	ended    int // pages that ended at pageBytes
}

func (l *line) Parse(p progress.Progress) (eventsource.Coverage, error) {
	return upTo(p.Position), nil
}

func (l *line) Read(_ context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (eventsource.Page, error) {
	low := slices.MinFunc(from, func(a, b eventsource.Coverage) int { return int(a.Position() - b.Position()) }).Position()
	if l.before != nil {
		l.before(low)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, segments)
	events := l.events[min(int(low), len(l.events)):]
	events = events[:min(limit, len(events))]
	more := len(events) == limit
	for i, size := 0, int64(0); i < len(events) && l.pageBytes > 0; i++ {
		if size += int64(events[i].Size()); size >= l.pageBytes && i < len(events)-1 {
			events, more = events[:i+1], true
			l.ended++
		}
	}
	last := low + int64(len(events))
	return eventsource.Page{Events: events, More: more, Spacing: eventsource.Spacing(events), After: func(c eventsource.Coverage, e *eventsource.Event) eventsource.Coverage {
		if e != nil {
			return upTo(max(c.Position(), min(e.Position, last)))
		}
		return upTo(max(c.Position(), last))
	}}, nil
}

func newLine(n int) *line {
	l := &line{}
	for i := range n {
		stream := fmt.Sprintf("stream-%d", i%10)
		l.events = append(l.events, &eventsource.Event{Position: int64(i + 1), StreamID: stream, ID: fmt.Sprint(i), Hash: segment.PG1(stream),
			Data: []byte(fmt.Sprintf(`{"customer": %d}`, i%7)), Metadata: []byte(`{"tenant": "blue"}`)})
	}
	return l
}

// failer is a test, also one of rapid's.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// add adds a member of a group, with its parts at positions.
func add(t failer, f *Feed, group string, s segment.Segment, by segment.Sequencing, at ...int64) *Member {
	t.Helper()
	token := tokenstore.Token{Key: tokenstore.Key{Group: group, Segment: s.ID}, Mask: s.Mask}
	low, high := s.Split()
	parts := []segment.Segment{low, high}
	if len(at) == 1 {
		parts = []segment.Segment{s}
	}
	for i, position := range at {
		token.Parts = append(token.Parts, progress.Part{Segment: parts[i], Progress: progress.Progress{Position: position}})
	}
	m, err := f.Add(token, by)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func readFor(members ...*Member) {
	f := members[0].feed
	r := &read{members: members, coverages: coverages(members), limit: f.options.PageSize}
	f.began(r)
	f.read(context.Background(), r)
}

func newFeed(l *line) *Feed {
	return New(l, Options{}, slog.New(slog.DiscardHandler), func(tokenstore.Key) {}, func(error) {})
}

func got(m *Member) (events []*eventsource.Event) {
	for _, d := range m.Peek() {
		events = append(events, d.Events...)
	}
	return events
}

var (
	byStream   = segment.Sequencing{Type: segment.Stream, Hash: segment.HashJava}
	byCustomer = segment.Sequencing{Type: segment.Property, Property: "customer", Hash: segment.HashJava}
	broadcast  = segment.Sequencing{Type: segment.Broadcast, Hash: segment.HashPG1}
)

// TestOnePageServesGroupsOfEverySequencing reads once for members of several groups: each is given what is its own by its group's
// sequencing, with the hash of that.
func TestOnePageServesGroupsOfEverySequencing(t *testing.T) {
	l := newLine(100)
	f := newFeed(l)
	var members []*Member
	layout, err := segment.Layout(3)
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string]segment.Sequencing{"a": segment.PerStream, "b": byCustomer, "c": broadcast, "d": {Type: segment.Sequential, Hash: segment.HashPG1}, "e": byCustomer}
	for name, by := range groups {
		for _, s := range layout {
			members = append(members, add(t, f, name, s, by, 10))
		}
	}
	readFor(members...)
	given := map[string]int{}
	for _, m := range members {
		last := int64(10)
		for _, e := range got(m) {
			if e.Position <= last {
				t.Fatalf("position %d after %d", e.Position, last)
			}
			last = e.Position
			if e.Hash != m.by.Of(e.Fields()) || m.by != broadcast && !m.whole.Contains(e.Hash) {
				t.Fatalf("%s of %s was given an event with the hash %d", m.whole, m.key.Group, e.Hash)
			}
			given[m.key.Group]++
		}
		if progress := m.parts.Progress(m.whole); len(progress) != 1 || progress[0].Progress.Position != 100 {
			t.Errorf("%s of %s is at %+v", m.whole, m.key.Group, progress)
		}
	}
	for name, by := range groups {
		want := 90
		if by == broadcast {
			want *= 3
		}
		if given[name] != want {
			t.Errorf("group %s was given %d events, want %d", name, given[name], want)
		}
	}
}

// TestABroadcastSegmentIsGivenWhatAnyOfItsPartsLacks merges halves that have come unequally far.
func TestABroadcastSegmentIsGivenWhatAnyOfItsPartsLacks(t *testing.T) {
	l := newLine(40)
	f := newFeed(l)
	m := add(t, f, "a", segment.Root, broadcast, 30, 10)
	readFor(m)
	if events := got(m); len(events) != 30 || events[0].Position != 11 {
		t.Fatalf("%d events, from %d on", len(events), events[0].Position)
	}
	half := m.Peek()[0].Until(&eventsource.Event{Position: 20})
	if half[0].Coverage.Position() != 30 || half[1].Coverage.Position() != 20 {
		t.Fatalf("in the middle the parts are at %+v", half)
	}
	if progress := m.parts.Progress(m.whole); len(progress) != 1 || progress[0].Progress.Position != 40 {
		t.Errorf("afterwards it is at %+v", progress)
	}
}

// TestTheSourceLeavesNothingOutThatAGroupNeeds looks at what it is asked for: it knows the hashes of stream ids alone.
func TestTheSourceLeavesNothingOutThatAGroupNeeds(t *testing.T) {
	low, high := segment.Root.Split()
	for name, test := range map[string]struct {
		by       segment.Sequencing
		filtered bool
	}{
		"streams":           {segment.PerStream, true},
		"streams, Java":     {segment.Sequencing{Type: segment.Stream, Hash: segment.HashJava}, false},
		"a property":        {byCustomer, false},
		"one key for all":   {segment.Sequencing{Type: segment.Sequential, Hash: segment.HashPG1}, false},
		"the event's id":    {segment.Sequencing{Type: segment.Concurrent, Hash: segment.HashPG1}, false},
		"for every segment": {broadcast, false},
	} {
		l := newLine(10)
		f := newFeed(l)
		readFor(add(t, f, "a", low, segment.PerStream, 0), add(t, f, "b", high, test.by, 0))
		if asked := l.segments[0]; test.filtered != (len(asked) == 2) || !test.filtered && len(asked) != 0 {
			t.Errorf("%s: the source was asked for %v", name, asked)
		}
	}
}

// BenchmarkDistribute hands a page of 2,000 events to 64 segments.
func BenchmarkDistribute(b *testing.B) {
	for name, by := range map[string]segment.Sequencing{"streams": segment.PerStream, "property": byCustomer} {
		b.Run(name, func(b *testing.B) {
			l := newLine(2000)
			f := newFeed(l)
			layout, err := segment.Layout(64)
			if err != nil {
				b.Fatal(err)
			}
			var members []*Member
			for _, s := range layout {
				members = append(members, add(b, f, "a", s, by, 0))
			}
			page, err := l.Read(context.Background(), coverages(members), nil, 2000)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, m := range members {
					m.parts[0].Coverage, m.queue, m.buffered = upTo(0), nil, 0
				}
				f.distribute(members, page, sortOut(members, page))
			}
		})
	}
}
