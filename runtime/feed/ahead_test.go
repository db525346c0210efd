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

// TestWhoHasEnoughWaitsForWhoHasNoRoom has one of two segments take nothing until it has no room for more: nothing is read for the other while that
// has enough, which whoever waits to fill a batch is told; then the first takes some, and both are read for together, each event once. A segment that
// has not enough does not wait.
func TestWhoHasEnoughWaitsForWhoHasNoRoom(t *testing.T) {
	const enough = 10
	l := newLine(2000)
	var told []string
	f := New(l, Options{PageSize: 20, Buffer: 4 * enough, Ahead: 60, Near: 100}, slog.New(slog.DiscardHandler), func(k tokenstore.Key) { told = append(told, k.Group) }, func(error) {})
	full, other := add(t, f, "full", segment.Root, segment.PerStream, 0), add(t, f, "other", segment.Root, segment.PerStream, 0)
	look := func() (served int) {
		before := len(l.segments)
		f.startReads(context.Background())
		f.running.Wait()
		for _, s := range l.segments[before:] {
			served += len(s)
		}
		return served
	}
	for full.buffered < 60 {
		if served := look(); served != 2 {
			t.Fatalf("a read served %d segments, with %d events waiting for one of them", served, full.buffered)
		}
		if other.buffered > enough {
			other.Take(1, 0)
		}
	}
	look() // of other, which has taken all
	if other.buffered != 20 || full.lowest().Distance(other.lowest()) == 0 {
		t.Fatalf("%d events wait for who takes them, who is at %d, and %d for the other, at %d", other.buffered, other.lowest().Position(), full.buffered, full.lowest().Position())
	}
	told = nil
	for range 3 {
		if served := look(); served != 0 {
			t.Fatalf("a read began for one with %d events waiting, while another had no room", other.buffered)
		}
	}
	if len(told) != 1 || told[0] != "other" {
		t.Errorf("that no more comes was told to %v, want other, once", told)
	}
	if _, more := other.Waiting(); more {
		t.Error("who waits for another to take something is told that more is coming")
	}

	full.Take(1, 0)
	if served := look(); served != 2 || full.lowest() != other.lowest() {
		t.Errorf("with room for all a read served %d segments, and they stand at %d and %d", served, full.lowest().Position(), other.lowest().Position())
	}
	if _, more := other.Waiting(); !more {
		t.Error("after a read for both nothing more is said to come")
	}

	other.Take(len(other.Peek()), 0)
	for full.buffered < 60 {
		look()
	}
	other.Take(len(other.Peek()), 0)
	if served := look(); served != 1 {
		t.Errorf("a read served %d segments, where one has nothing and the other no room", served)
	}
}
