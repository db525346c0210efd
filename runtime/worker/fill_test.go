package worker

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// stepwise is a source of one event a page, of which the test says when it comes and whether there is more.
type stepwise struct {
	endless
	pages chan bool
}

func (s stepwise) Read(ctx context.Context, from []eventsource.Coverage, all []segment.Segment, limit int) (eventsource.Page, error) {
	select {
	case more := <-s.pages:
		return endless{more: more}.Read(ctx, from, all, limit)
	case <-ctx.Done():
		return eventsource.Page{}, ctx.Err()
	}
}

// TestABatchWaitsForMoreOfABacklog gives a segment one event after the other of a backlog. Its batch waits for more of them as long as
// they are being read, up to its size, up to a time, and up to the end of the backlog.
func TestABatchWaitsForMoreOfABacklog(t *testing.T) {
	delivered, source := make(chan struct{}), stepwise{pages: make(chan bool)}
	f := feed.New(source, feed.Options{}, slog.New(slog.DiscardHandler), func(tokenstore.Key) { delivered <- struct{}{} }, func(error) {})
	m, err := f.Add(tokenstore.Token{Key: tokenstore.Key{Group: "view"}, Parts: []progress.Part{{}}}, segment.PerStream)
	if err != nil {
		t.Fatal(err)
	}
	go f.Run(t.Context())
	page := func(more bool) {
		source.pages <- more
		<-delivered
	}
	l, s := &life{}, &segmentRun{member: m}
	if l.letFill(s, 3) {
		t.Fatal("a batch waits where there is no event")
	}
	page(true)
	for range 2 {
		if !l.letFill(s, 3) {
			t.Fatal("with one event of three, and more to come, the batch does not wait")
		}
	}
	if l.letFill(s, 1) || s.filling != nil {
		t.Fatal("a batch that is full waits")
	}
	page(true)
	if !l.letFill(s, 3) {
		t.Fatal("with two events of three, and more to come, the batch does not wait")
	}
	s.fillUntil = time.Now()
	if l.letFill(s, 3) {
		t.Fatal("the batch waits for longer than it may")
	}
	if !l.letFill(s, 3) || time.Until(s.fillUntil) > batchTime {
		t.Fatal("the next batch does not wait for as long again")
	}
	page(false)
	if l.letFill(s, 4) {
		t.Fatal("the batch waits although the backlog has ended")
	}
}
