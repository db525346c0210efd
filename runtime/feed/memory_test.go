package feed

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// counted is what the budget ought to count: everything that somebody points into, once.
func counted(f *Feed) (bytes int64) {
	seen := map[*shared]bool{}
	for _, m := range f.members {
		buffered := 0
		for _, d := range m.queue {
			bytes += d.own
			buffered += len(d.Events)
			for _, s := range d.shares {
				if !seen[s] {
					seen[s] = true
					bytes += s.bytes
				}
			}
		}
		if m.buffered != buffered {
			panic(fmt.Sprintf("%v has %d events waiting, and counts %d", m.key, buffered, m.buffered))
		}
	}
	return bytes + int64(f.reading)*2*f.budget.page
}

// consumer takes what a member is given: always, now and then, or never.
type consumer struct {
	*Member
	pace  int
	taken []int64
}

const (
	always = iota
	sometimes
	never
)

func (c *consumer) take(choose func(n int) int) {
	if c.pace == never || c.pace == sometimes && choose(3) > 0 {
		return
	}
	queue := c.Peek()
	if len(queue) == 0 {
		return
	}
	n, part := len(queue), 0
	if c.pace == sometimes {
		if n = choose(len(queue) + 1); n < len(queue) {
			part = choose(len(queue[n].Events) + 1)
		}
	}
	for _, d := range queue[:n] {
		c.took(d.Events)
	}
	if part > 0 {
		c.took(queue[n].Events[:part])
	}
	c.Take(n, part)
}

func (c *consumer) took(events []*eventsource.Event) {
	for _, e := range events {
		c.taken = append(c.taken, e.Position)
	}
}

// owned are the positions of a line that are a segment's.
func owned(l *line, m *Member) (all []int64) {
	for i := range l.events {
		if e := l.events[i]; m.by.Type == segment.Broadcast || m.whole.Contains(m.by.Of(e.Fields())) {
			all = append(all, e.Position)
		}
	}
	return all
}

// TestMemoryStaysWithinTheBudgetWhoeverTakesWhat has segments of several groups handle events of all sizes: some at once, some now and
// then, some never. All that is kept is counted, once; the budget is exceeded by no more than a page for each that has something waiting;
// each is given its own events once and in order; and whoever takes them is given all, whatever the others do.
func TestMemoryStaysWithinTheBudgetWhoeverTakesWhat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		choose := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).IntN
		l := newLine(rapid.IntRange(1, 400).Draw(t, "events"))
		largest := 1 << rapid.IntRange(0, 15).Draw(t, "log2 of the largest")
		for i := range l.events {
			l.events[i].Data = make([]byte, 1+choose(largest))
		}
		const memory = 64 << 10
		l.pageBytes = PageBytes(memory)
		f := New(l, Options{Memory: memory, PageSize: 1 + choose(60), Buffer: 1 + choose(50), Readers: 2 + choose(3), Near: int64(1 + choose(200))},
			slog.New(slog.DiscardHandler), func(tokenstore.Key) {}, func(error) {})
		var all []*consumer
		for g, by := range []segment.Sequencing{segment.PerStream, byStream, broadcast}[:1+choose(3)] {
			layout, err := segment.Layout(1 + choose(4))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range layout {
				all = append(all, &consumer{Member: add(t, f, fmt.Sprint(g), s, by, 0), pace: choose(3)})
			}
		}
		check := func() {
			told, limit := f.Memory()
			f.mu.Lock()
			defer f.mu.Unlock()
			if want := counted(f); f.budget.used != want || told != want || limit != memory {
				t.Fatalf("%d bytes are counted and %d of %d told, and %d kept", f.budget.used, told, limit, want)
			}
			most := f.budget.total + int64(len(all))*(l.pageBytes+int64(largest)+100) + int64(f.options.PageSize*len(all))*eventBytes*2
			if f.budget.used > most {
				t.Fatalf("%d bytes are kept, with a budget of %d", f.budget.used, f.budget.total)
			}
		}
		done := func() bool {
			return !slices.ContainsFunc(all, func(c *consumer) bool { return c.pace != never && len(c.taken) < len(owned(l, c.Member)) })
		}
		for step := 0; !done(); step++ {
			if step > 5000 {
				t.Fatal("those who take what they are given are not given all")
			}
			f.mu.Lock()
			f.feedAll()
			f.mu.Unlock()
			f.startReads(context.Background())
			f.running.Wait()
			check()
			for _, c := range all {
				c.take(choose)
			}
			check()
		}
		for _, c := range all {
			if want := owned(l, c.Member); !slices.Equal(c.taken, want[:len(c.taken)]) {
				t.Fatalf("%v took %v, want %v", c.key, c.taken, want)
			}
			f.Remove(c.Member)
			c.Take(1, 0) // a batch that ran meanwhile
		}
		if f.budget.used != 0 {
			t.Fatalf("%d bytes are counted of nothing", f.budget.used)
		}
	})
}

// TestOneEventGoesThroughHoweverLarge has a budget that is smaller than each event.
func TestOneEventGoesThroughHoweverLarge(t *testing.T) {
	l := newLine(30)
	for i := range l.events {
		l.events[i].Data = make([]byte, 10_000)
	}
	l.pageBytes = 1
	f := New(l, Options{Memory: pageShare}, slog.New(slog.DiscardHandler), func(tokenstore.Key) {}, func(error) {})
	c := &consumer{Member: add(t, f, "a", segment.Root, segment.PerStream, 0)}
	for range 30 {
		f.startReads(context.Background())
		f.running.Wait()
		if len(c.queue) != 1 || len(c.queue[0].Events) != 1 {
			t.Fatalf("%d deliveries wait", len(c.queue))
		}
		f.startReads(context.Background())
		f.running.Wait()
		if len(c.queue) != 1 {
			t.Fatal("another event was read before the first was taken")
		}
		c.take(nil)
	}
	if len(c.taken) != 30 {
		t.Errorf("took %v", c.taken)
	}
}

// TestAReadOfLargeEventsAsksForFew has events become a thousand times as large: one page is ended by the source, and those after it
// are asked for by their size.
func TestAReadOfLargeEventsAsksForFew(t *testing.T) {
	l := newLine(8000)
	for i := range l.events {
		l.events[i].Data = make([]byte, 100)
		if i >= 4000 {
			l.events[i].Data = make([]byte, 100_000)
		}
	}
	l.pageBytes = PageBytes(DefaultMemory)
	f := newFeed(l)
	c := &consumer{Member: add(t, f, "a", segment.Root, segment.PerStream, 0)}
	for len(c.taken) < 6000 {
		f.startReads(context.Background())
		f.running.Wait()
		c.take(nil)
	}
	if l.ended != 1 {
		t.Errorf("%d pages were ended by the source, want the first of large events alone", l.ended)
	}
}

// TestWhoFallsBehindKeepsNoWholePages has one of sixteen segments take nothing: what it keeps are, but for the first pages, its own
// events, and so there are more of them than four pages have for it.
func TestWhoFallsBehindKeepsNoWholePages(t *testing.T) {
	l := newLine(3000)
	for i := range l.events {
		l.events[i].StreamID = fmt.Sprint(i)
		l.events[i].Hash = segment.PG1(l.events[i].StreamID)
		l.events[i].Data = make([]byte, 1000)
	}
	const memory = 1 << 20
	l.pageBytes = PageBytes(memory)
	f := New(l, Options{Memory: memory}, slog.New(slog.DiscardHandler), func(tokenstore.Key) {}, func(error) {})
	layout, err := segment.Layout(16)
	if err != nil {
		t.Fatal(err)
	}
	var all []*consumer
	for i, s := range layout {
		c := &consumer{Member: add(t, f, "a", s, segment.PerStream, 0)}
		if i == 0 {
			c.pace = never
		}
		all = append(all, c)
	}
	for len(all[1].taken) < len(owned(l, all[1].Member)) {
		f.startReads(context.Background())
		f.running.Wait()
		for _, c := range all {
			c.take(nil)
		}
	}
	slow := all[0]
	if most := f.budget.total/aheadShare + f.budget.page; slow.buffered < 60 || slow.retained() > most || f.budget.used != slow.retained() {
		t.Errorf("it has %d events waiting, which keep %d bytes; all in all %d are kept", slow.buffered, slow.retained(), f.budget.used)
	}
	for _, d := range slow.queue {
		for i, e := range d.Events {
			if e.StreamID != fmt.Sprint(e.Position-1) || e.ID != fmt.Sprint(e.Position-1) || len(e.Data) != 1000 || string(e.Metadata) != `{"tenant": "blue"}` {
				t.Fatalf("event %d is %+v", i, e)
			}
		}
	}
}
