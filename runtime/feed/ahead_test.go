package feed

import (
	"context"
	"log/slog"
	"testing"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// TestASlowerSegmentIsTakenAlongUpToALimit has one of two segments handle everything at once and the other one nothing: events are
// read once for both until the slow one has as many waiting as it may, and from then on for the quick one alone.
func TestASlowerSegmentIsTakenAlongUpToALimit(t *testing.T) {
	l := newLine(1000)
	f := New(l, Options{PageSize: 20, Buffer: 10, Ahead: 40}, slog.New(slog.DiscardHandler), func(tokenstore.Key) {}, func(error) {})
	low, high := segment.Root.Split()
	quick, slow := add(t, f, "a", low, segment.PerStream, 0), add(t, f, "a", high, segment.PerStream, 0)
	for range 20 {
		before := len(l.segments)
		full := slow.buffered >= 40
		f.startReads(context.Background())
		f.running.Wait()
		if got := len(l.segments) - before; got != 1 {
			t.Fatalf("%d reads began, with %d events waiting", got, slow.buffered)
		}
		if served := len(l.segments[before]); full != (served == 1) {
			t.Fatalf("a read served %d segments when the slow one had %d events waiting", served, slow.buffered)
		}
		quick.Take(len(quick.Peek()), 0)
	}
	if slow.buffered < 40 || slow.buffered > 60 {
		t.Errorf("the slow one has %d events waiting, want 40 and at most a page more", slow.buffered)
	}

	f = New(l, Options{PageSize: 20, Buffer: 10, Ahead: 40}, slog.New(slog.DiscardHandler), func(tokenstore.Key) {}, func(error) {})
	first, second := add(t, f, "a", low, segment.PerStream, 0), add(t, f, "a", high, segment.PerStream, 0)
	for first.buffered < 10 || second.buffered < 10 {
		f.startReads(context.Background())
		f.running.Wait()
	}
	before := len(l.segments)
	f.startReads(context.Background())
	f.running.Wait()
	if len(l.segments) != before {
		t.Errorf("a read began although each had %d and %d events waiting", first.buffered, second.buffered)
	}
}
