package worker

import (
	"context"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// endless is a source with always one more event, or with none.
type endless struct {
	eventsource.Source
	more bool
}

type place int64

func (p place) Covers(e *eventsource.Event) bool       { return e.Position <= int64(p) }
func (p place) Position() int64                        { return int64(p) }
func (p place) Distance(to eventsource.Coverage) int64 { return max(to.Position()-int64(p), 0) }
func (p place) Progress() progress.Progress            { return progress.Progress{Position: int64(p)} }

func (s endless) Parse(p progress.Progress) (eventsource.Coverage, error) {
	return place(p.Position), nil
}

func (s endless) Read(_ context.Context, from []eventsource.Coverage, _ []segment.Segment, _ int) (eventsource.Page, error) {
	next := from[0].Position() + 1
	return eventsource.Page{Events: []*eventsource.Event{{Position: next}}, More: s.more,
		After: func(eventsource.Coverage, *eventsource.Event) eventsource.Coverage { return place(next) }}, nil
}

// segmentOf returns a segment that has got its first events from a source.
func segmentOf(t *testing.T, source endless) *segmentRun {
	t.Helper()
	delivered := make(chan struct{}, math.MaxInt16)
	f := feed.New(source, feed.Options{}, slog.New(slog.DiscardHandler), func(tokenstore.Key) {
		select {
		case delivered <- struct{}{}:
		default:
		}
	}, func(error) {})
	token := tokenstore.Token{Key: tokenstore.Key{Group: "view"}, Parts: []progress.Part{{}}}
	m, err := f.Add(token, segment.PerStream)
	if err != nil {
		t.Fatal(err)
	}
	go f.Run(t.Context())
	<-delivered
	return &segmentRun{member: m}
}

func TestSegmentsNearTheTailGoFirst(t *testing.T) {
	behind, other, live := segmentOf(t, endless{more: true}), segmentOf(t, endless{more: true}), segmentOf(t, endless{})
	q := &runQueue{most: 1}
	q.push(behind)
	q.push(other)
	q.push(live)
	q.push(live) // is there already
	if s, backlog := q.pop(); s != live || backlog {
		t.Fatalf("first comes %p, with a backlog: %t; want the segment near the tail, %p", s, backlog, live)
	}
	if s, backlog := q.pop(); s != behind || !backlog {
		t.Fatalf("then comes %p, with a backlog: %t; want the one that was there first, %p", s, backlog, behind)
	}
	popped := make(chan *segmentRun)
	go func() {
		for {
			s, _ := q.pop()
			if popped <- s; s == nil {
				return
			}
		}
	}()
	q.push(live)
	if s := <-popped; s != live {
		t.Fatal("a second segment with a backlog runs, where one at most may")
	}
	q.done()
	if s := <-popped; s != other {
		t.Fatal("the second segment with a backlog does not come when the first has ended")
	}
	q.close()
	if s := <-popped; s != nil {
		t.Fatal("a closed queue gives a segment")
	}
}

// Segments near the tail that always have something to do let one with a backlog go now and then, and those with a backlog take no more than that.
func TestABacklogGoesOnBesideSegmentsThatAlwaysHaveSomethingToDo(t *testing.T) {
	behind, busy, busier := segmentOf(t, endless{more: true}), segmentOf(t, endless{}), segmentOf(t, endless{})
	q := &runQueue{most: 1}
	for _, s := range []*segmentRun{behind, busy, busier} {
		q.push(s)
	}
	turns := map[*segmentRun]int{}
	for range 10 * (patience + 1) {
		s, backlog := q.pop()
		turns[s]++
		q.push(s)
		if backlog {
			q.done()
		}
	}
	if turns[behind] != 10 || turns[busy] != 5*patience || turns[busier] != 5*patience {
		t.Errorf("the one with a backlog had %d turns and the others %d and %d, want 10, and %d for each of these", turns[behind], turns[busy], turns[busier], 5*patience)
	}
}

// A backlog that rests keeps its place: no other one runs meanwhile, and those near the tail do.
func TestABacklogThatRestsLetsNoOtherOneRun(t *testing.T) {
	first, second, live := segmentOf(t, endless{more: true}), segmentOf(t, endless{more: true}), segmentOf(t, endless{})
	q := &runQueue{most: 1}
	q.push(first)
	q.push(second)
	q.pop()
	const rest = 50 * time.Millisecond
	began := time.Now()
	q.doneAfter(rest)
	q.push(live)
	if s, _ := q.pop(); s != live {
		t.Fatal("while one with a backlog rests, the one near the tail does not come")
	}
	if s, _ := q.pop(); s != second || time.Since(began) < rest {
		t.Errorf("%p comes %v after the other one began to rest, want %p after %v", s, time.Since(began), second, rest)
	}
	q.doneAfter(0)
	q.push(first)
	if s, _ := q.pop(); s != first {
		t.Error("after no rest none comes")
	}
}
