package feed

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// TestWhoWaitsForMoreOfABacklogIsToldOfItsEnd reads a backlog of 50 events in pages of 20: after each page but the last one there are
// more to wait for, and whoever waits hears of the last page, although it has no event of his.
func TestWhoWaitsForMoreOfABacklogIsToldOfItsEnd(t *testing.T) {
	l := newLine(50)
	for i := range l.events[40:] {
		l.events[40+i].Hash = 1 // another's
	}
	told := 0
	f := New(l, Options{PageSize: 20, Buffer: 1000}, slog.New(slog.DiscardHandler), func(tokenstore.Key) { told++ }, func(error) {})
	even, _ := segment.Root.Split()
	m := add(t, f, "a", even, segment.PerStream, 0)
	for i, want := range []bool{true, true, false} {
		before := m.buffered
		f.startReads(context.Background())
		f.running.Wait()
		events, more := m.Waiting()
		if more != want {
			t.Errorf("after page %d there is more: %t, want %t", i+1, more, want)
		}
		if events != m.buffered || (events == before) == want {
			t.Errorf("after page %d %d events wait, %d before it", i+1, events, before)
		}
		if told != i+1 {
			t.Errorf("after page %d it was told %d times", i+1, told)
		}
	}

	f = New(l, Options{PageSize: 20, Buffer: 2}, slog.New(slog.DiscardHandler), func(tokenstore.Key) {}, func(error) {})
	m = add(t, f, "a", even, segment.PerStream, 0)
	f.startReads(context.Background())
	f.running.Wait()
	if events, more := m.Waiting(); more {
		t.Errorf("with a full buffer of %d events there is more to wait for", events)
	}
}

// TestNobodyWaitsForMoreThanTheBudgetAllows has two segments, of which one waits for more, until the other has used the budget up.
func TestNobodyWaitsForMoreThanTheBudgetAllows(t *testing.T) {
	l := newLine(3000)
	for i := range l.events {
		l.events[i].Data = make([]byte, 1000)
	}
	const memory = 1 << 20
	l.pageBytes = PageBytes(memory)
	var told atomic.Int64 // whoever waits
	f := New(l, Options{Memory: memory, Near: 1}, slog.New(slog.DiscardHandler), func(key tokenstore.Key) {
		if key.Group == "waits" {
			told.Add(1)
		}
	}, func(error) {})
	waits := add(t, f, "waits", segment.Root, segment.PerStream, 0)
	f.startReads(context.Background())
	f.running.Wait()
	if _, more := waits.Waiting(); !more {
		t.Fatal("after the first page there is no more to wait for")
	}
	before := told.Load()
	for i := range 9 { // each keeps up to an eighth
		add(t, f, fmt.Sprint("other-", i), segment.Root, segment.PerStream, int64(300*i))
	}
	reads := 0
	for _, more := waits.Waiting(); more && reads < 1000; _, more = waits.Waiting() {
		waits.reading = true // no further page comes for it
		f.startReads(context.Background())
		f.running.Wait()
		waits.reading = false
		reads++
	}
	if reads == 1000 || told.Load() == before {
		t.Errorf("after %d reads with %d of %d bytes used, nobody has told who waits", reads, f.budget.used, f.budget.total)
	}
}
