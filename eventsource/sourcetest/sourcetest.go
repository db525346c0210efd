// Package sourcetest is the conformance suite of event sources: what every source promises, tested
// from the outside. Each source runs all of it, against its real parts.
package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// Log is an event log under test: a new, empty one.
type Log struct {
	// Source reads the log. It returns another reader each time, which knows nothing of the others.
	Source func(t *testing.T) eventsource.Source
	// Append appends events to a stream, one by one, and returns when readers can see them.
	Append func(t *testing.T, stream string, events ...Event)
	// Begin appends an event in a transaction that stays open, and returns what commits it. Nil if a
	// log has nothing like that. Streams that have an open transaction are appended to by nobody else.
	Begin func(t *testing.T, stream string, event Event) (commit func())
}

// Event is one to append.
type Event struct {
	Type string
	Data string // JSON
}

// Run runs the suite against logs that open opens.
func Run(t *testing.T, open func(t *testing.T) Log) {
	for name, test := range map[string]func(t *testing.T, log Log){
		"events have what was appended":      eventsHaveWhatWasAppended,
		"each event once, in order":          eachEventOnce,
		"parts of a page":                    partsOfAPage,
		"stored progress":                    storedProgress,
		"one page for several coverages":     severalCoverages,
		"start positions":                    startPositions,
		"start positions that are refused":   refusedStartPositions,
		"algebra":                            algebra,
		"head":                               head,
		"events of open transactions":        openTransactions,
		"readers at once":                    readersAtOnce,
		"progress in no format of this kind": invalidProgress,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// reader reads alone.
type reader struct {
	t        *testing.T
	source   eventsource.Source
	coverage eventsource.Coverage
	segments []segment.Segment
}

func newReader(t *testing.T, log Log, from progress.Progress) *reader {
	t.Helper()
	r := &reader{t: t, source: log.Source(t), segments: []segment.Segment{segment.Root}}
	r.resume(from)
	return r
}

func (r *reader) resume(from progress.Progress) {
	r.t.Helper()
	var err error
	if r.coverage, err = r.source.Parse(from); err != nil {
		r.t.Fatal(err)
	}
}

func (r *reader) read(limit int) eventsource.Page {
	r.t.Helper()
	page, err := r.source.Read(bounded(r.t), []eventsource.Coverage{r.coverage}, r.segments, limit)
	if err != nil {
		r.t.Fatal(err)
	}
	return page
}

// all reads to the end, and takes what is new.
func (r *reader) all(limit int) (events []*eventsource.Event) {
	r.t.Helper()
	for {
		page := r.read(limit)
		events = append(events, lacking(page.Events, r.coverage, r.segments)...)
		r.coverage = page.After(r.coverage, nil)
		if !page.More {
			return events
		}
	}
}

// lacking are the events of some segments that a coverage lacks.
func lacking(events []*eventsource.Event, c eventsource.Coverage, segments []segment.Segment) (missing []*eventsource.Event) {
	for _, e := range events {
		if !c.Covers(e) && slices.ContainsFunc(segments, func(s segment.Segment) bool { return s.Contains(e.Hash) }) {
			missing = append(missing, e)
		}
	}
	return missing
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// appendSome appends n events to each of some streams, in turn.
func appendSome(t *testing.T, log Log, streams, n int) {
	t.Helper()
	for i := range n {
		for s := range streams {
			log.Append(t, fmt.Sprint("stream-", s), Event{"Happened", fmt.Sprintf(`{"n": %d}`, i)})
		}
	}
}

func names(events []*eventsource.Event) (all []string) {
	for _, e := range events {
		all = append(all, fmt.Sprintf("%d %s", e.Position, e.StreamID))
	}
	return all
}

func same(t *testing.T, what string, got, want []*eventsource.Event) {
	t.Helper()
	if !slices.Equal(names(got), names(want)) {
		t.Errorf("%s: %v, want %v", what, names(got), names(want))
	}
}

func eventsHaveWhatWasAppended(t *testing.T, log Log) {
	log.Append(t, "a", Event{"Ordered", `{"total": 7, "name": "Žofie"}`}, Event{"Paid", `[1, null]`})
	log.Append(t, "b", Event{"Ordered", `"text"`})
	events := newReader(t, log, progress.Progress{}).all(10)
	if len(events) != 3 {
		t.Fatalf("%d events, want 3", len(events))
	}
	for i, want := range []struct {
		stream, kind, data string
		version            int64
	}{{"a", "Ordered", `{"total": 7, "name": "Žofie"}`, 1}, {"a", "Paid", `[1, null]`, 2}, {"b", "Ordered", `"text"`, 1}} {
		e := events[i]
		if e.StreamID != want.stream || e.Type != want.kind || e.Version != want.version {
			t.Errorf("event %d: %s %d of %q, want %s %d of %q", i, e.Type, e.Version, e.StreamID, want.kind, want.version, want.stream)
		}
		var got, wanted any
		if err := errors.Join(json.Unmarshal(e.Data, &got), json.Unmarshal([]byte(want.data), &wanted)); err != nil || fmt.Sprint(got) != fmt.Sprint(wanted) {
			t.Errorf("event %d: data %s, want %s (%v)", i, e.Data, want.data, err)
		}
		if e.Hash != segment.PG1(want.stream) {
			t.Errorf("event %d: hash %d, want that of its stream", i, e.Hash)
		}
		if !json.Valid(e.Metadata) || e.ID == "" || e.RecordedAt.IsZero() || e.Position <= 0 || e.Unreadable != nil {
			t.Errorf("event %d: metadata %q, id %q, recorded at %s, position %d, unreadable %v", i, e.Metadata, e.ID, e.RecordedAt, e.Position, e.Unreadable)
		}
	}
}

// Readers of all segments of a layout, who start again at times from what they have stored, are given
// every event once, in the order of its stream.
func eachEventOnce(t *testing.T, log Log) {
	random := rand.New(rand.NewPCG(1, 2))
	layout, err := segment.Layout(3)
	if err != nil {
		t.Fatal(err)
	}
	given := map[int64]int{}
	last := map[string]int64{}
	var readers []*reader
	stored := make([]progress.Progress, len(layout))
	for _, s := range layout {
		r := newReader(t, log, progress.Progress{})
		r.segments = []segment.Segment{s}
		readers = append(readers, r)
	}
	step := func(i, limit int) (more bool) {
		r := readers[i]
		page := r.read(limit)
		events := lacking(page.Events, r.coverage, r.segments)
		if len(events) > 1 && random.IntN(2) == 0 { // takes a part of the page
			events = events[:1+random.IntN(len(events)-1)]
			r.coverage, more = page.After(r.coverage, events[len(events)-1]), true
		} else {
			r.coverage, more = page.After(r.coverage, nil), page.More
		}
		for _, e := range events {
			given[e.Position]++
			if e.Version <= last[e.StreamID] {
				t.Errorf("version %d of %s after %d", e.Version, e.StreamID, last[e.StreamID])
			}
			last[e.StreamID] = e.Version
		}
		if stored[i] = r.coverage.Progress(); random.IntN(5) == 0 {
			r.source = log.Source(t)
			r.resume(stored[i])
		}
		return more
	}
	const streams, rounds = 5, 8
	for range rounds {
		appendSome(t, log, streams, 2)
		step(random.IntN(len(readers)), 1+random.IntN(7))
	}
	for i := range readers {
		for step(i, 4) {
		}
	}
	if len(given) != streams*rounds*2 {
		t.Errorf("%d events were given of %d", len(given), streams*rounds*2)
	}
	for position, times := range given {
		if times != 1 {
			t.Errorf("the event at position %d was given %d times", position, times)
		}
	}
}

// A coverage after some events of a page covers these and no others.
func partsOfAPage(t *testing.T, log Log) {
	appendSome(t, log, 3, 4)
	r := newReader(t, log, progress.Progress{})
	first := r.read(5)
	if !first.More || len(first.Events) == 0 || len(first.Events) > 5 {
		t.Fatalf("%d events of 12, more: %v", len(first.Events), first.More)
	}
	all := newReader(t, log, progress.Progress{}).all(100)
	c := r.coverage
	for i, e := range first.Events {
		copied := *e
		c = first.After(c, &copied)
		for j, other := range all {
			if c.Covers(other) != (j <= i) {
				t.Errorf("after event %d of the page, event %d is covered: %v", i, j, c.Covers(other))
			}
		}
	}
	if got, want := c.Progress(), first.After(r.coverage, nil).Progress(); got != want {
		t.Errorf("progress %v after all events of the page, %v after the page", got, want)
	}
	if r.coverage.Covers(all[0]) {
		t.Error("a coverage has changed")
	}
	r.coverage = c
	same(t, "events after the page", r.all(100), all[len(first.Events):])
}

// Progress that was stored at any event is read on from there, by a reader that knows nothing else.
func storedProgress(t *testing.T, log Log) {
	appendSome(t, log, 2, 3)
	page := newReader(t, log, progress.Progress{}).read(100)
	r := newReader(t, log, progress.Progress{})
	for i, e := range page.Events {
		c := page.After(r.coverage, e)
		again := newReader(t, log, c.Progress())
		if got := again.coverage.Progress(); got != c.Progress() {
			t.Errorf("progress %v is read as %v", c.Progress(), got)
		}
		for j, other := range page.Events {
			if again.coverage.Covers(other) != (j <= i) {
				t.Errorf("stored after event %d, event %d is covered: %v", i, j, again.coverage.Covers(other))
			}
		}
		same(t, fmt.Sprintf("events after event %d", i), again.all(2), page.Events[i+1:])
	}
}

// A page has what any of the coverages lacks.
func severalCoverages(t *testing.T, log Log) {
	appendSome(t, log, 4, 3)
	layout, err := segment.Layout(2)
	if err != nil {
		t.Fatal(err)
	}
	source := log.Source(t)
	ahead := newReader(t, log, progress.Progress{})
	ahead.source, ahead.segments = source, layout[:1]
	ahead.all(100)
	appendSome(t, log, 4, 1)
	behind, err := source.Parse(progress.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	from := []eventsource.Coverage{ahead.coverage, behind}
	given := [2][]*eventsource.Event{}
	for more := true; more; {
		page, err := source.Read(bounded(t), from, layout, 3)
		if err != nil {
			t.Fatal(err)
		}
		for i := range from {
			given[i] = append(given[i], lacking(page.Events, from[i], layout[i:i+1])...)
			from[i] = page.After(from[i], nil)
		}
		more = page.More
	}
	all := newReader(t, log, progress.Progress{}).all(100)
	same(t, "the coverage that was ahead", given[0], lacking(all[12:], ahead.coverage, layout[:1]))
	same(t, "the coverage that had nothing", given[1], lacking(all, behind, layout[1:]))
}

func startPositions(t *testing.T, log Log) {
	appendSome(t, log, 2, 3)
	source := log.Source(t)
	all := newReader(t, log, progress.Progress{}).all(100)
	from := func(what string, at progress.StartPosition, want int) {
		t.Helper()
		p, err := source.Start(bounded(t), at)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		same(t, what, newReader(t, log, p).all(100), all[want:])
	}
	from("Earliest", progress.StartPosition{Type: progress.Earliest}, 0)
	from("Latest", progress.StartPosition{Type: progress.Latest}, len(all))
	from("position 0", progress.StartPosition{Type: progress.AtPosition, Position: "0"}, 0)
	for i, e := range all {
		from(fmt.Sprint("the position of event ", i), progress.StartPosition{Type: progress.AtPosition, Position: fmt.Sprint(e.Position)}, i)
	}
	from("before all times", progress.StartPosition{Type: progress.AtTimestamp, Timestamp: all[0].RecordedAt.Add(-time.Hour)}, 0)
	sameTime := slices.IndexFunc(all, func(e *eventsource.Event) bool { return !e.RecordedAt.Before(all[3].RecordedAt) })
	from("the time of an event", progress.StartPosition{Type: progress.AtTimestamp, Timestamp: all[3].RecordedAt}, sameTime)

	latest, err := source.Start(bounded(t), progress.StartPosition{Type: progress.Latest})
	if err != nil {
		t.Fatal(err)
	}
	log.Append(t, "another", Event{"Happened", "{}"})
	if events := newReader(t, log, latest).all(100); len(events) != 1 || events[0].StreamID != "another" {
		t.Errorf("events after Latest: %v", names(events))
	}
}

func refusedStartPositions(t *testing.T, log Log) {
	appendSome(t, log, 1, 2)
	source := log.Source(t)
	for _, at := range []progress.StartPosition{{Type: progress.AtPosition, Position: "x"}, {Type: progress.AtPosition, Position: "-1"}, {Type: progress.AtPosition, Position: "1000000"}, {Type: "Somewhere"}} {
		var refused *eventsource.StartPositionError
		if p, err := source.Start(bounded(t), at); !errors.As(err, &refused) {
			t.Errorf("%s %q: %v, %v", at.Type, at.Position, p, err)
		}
	}
}

// Union, Intersect, Contains and Distance agree with Covers.
func algebra(t *testing.T, log Log) {
	appendSome(t, log, 3, 3)
	source := log.Source(t)
	page := newReader(t, log, progress.Progress{}).read(100)
	empty, err := source.Parse(progress.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	all := []eventsource.Coverage{empty}
	for _, e := range page.Events {
		all = append(all, page.After(empty, e))
	}
	covers := func(p progress.Progress) (covered []bool) {
		c, err := source.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			covered = append(covered, c.Covers(e))
		}
		return covered
	}
	for i, a := range all {
		for j, b := range all {
			x, y := a.Progress(), b.Progress()
			union, err := source.Union(x, y)
			if err != nil {
				t.Fatal(err)
			}
			both, err := source.Intersect(x, y)
			if err != nil {
				t.Fatal(err)
			}
			contains, err := source.Contains(x, y)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := covers(union), covers(all[max(i, j)].Progress()); !slices.Equal(got, want) {
				t.Errorf("the union of %d and %d covers %v, want %v", i, j, got, want)
			}
			if got, want := covers(both), covers(all[min(i, j)].Progress()); !slices.Equal(got, want) {
				t.Errorf("what %d and %d have in common covers %v, want %v", i, j, got, want)
			}
			if contains != (i >= j) {
				t.Errorf("%d contains %d: %v", i, j, contains)
			}
			ahead, err := source.Distance(x, y)
			if err != nil {
				t.Fatal(err)
			}
			if missing := int64(j - i); missing > 0 && ahead < missing || missing <= 0 && ahead != 0 {
				t.Errorf("%d is ahead of %d by %d, and covers %d events more", j, i, ahead, missing)
			}
		}
	}
}

func head(t *testing.T, log Log) {
	source := log.Source(t)
	if head, err := source.Head(bounded(t)); err != nil || head.Position() != 0 {
		t.Errorf("the head of an empty log is %d, %v", head, err)
	}
	appendSome(t, log, 2, 2)
	events := newReader(t, log, progress.Progress{}).all(100)
	if head, err := source.Head(bounded(t)); err != nil || head.Position() < events[len(events)-1].Position {
		t.Errorf("the head is %d, %v, and the newest event is at %d", head, err, events[len(events)-1].Position)
	}
}

// Events of a transaction that is open while others commit are given when it has ended: to whoever
// has read meanwhile, has stored it and has started again, or began at the head.
func openTransactions(t *testing.T, log Log) {
	if log.Begin == nil {
		return // events are there as soon as they are appended
	}
	appendSome(t, log, 1, 1)
	commit := log.Begin(t, "open", Event{"Late", "{}"})
	appendSome(t, log, 2, 2)
	r := newReader(t, log, progress.Progress{})
	if n := len(r.all(2)); n != 5 {
		t.Errorf("%d events are given while a transaction is open, want 5", n)
	}
	latest, err := r.source.Start(bounded(t), progress.StartPosition{Type: progress.Latest})
	if err != nil {
		t.Fatal(err)
	}
	began, restarted := newReader(t, log, latest), newReader(t, log, r.coverage.Progress())
	if n := len(began.all(2)); n != 0 {
		t.Errorf("%d events are given to whoever begins at the head", n)
	}
	appendSome(t, log, 2, 1)
	commit()
	for what, r := range map[string]*reader{"who has read": r, "who has started again": restarted, "who began at the head": began} {
		events := r.all(2)
		late := 0
		for _, e := range events {
			if e.StreamID == "open" {
				late++
			}
		}
		if late != 1 || len(events) != 3 {
			t.Errorf("%s is given %v, want the late event and two others", what, names(events))
		}
		if more := r.all(2); len(more) > 0 {
			t.Errorf("%s is given %v again", what, names(more))
		}
	}
}

// Several goroutines may read from one source.
func readersAtOnce(t *testing.T, log Log) {
	appendSome(t, log, 4, 10)
	source := log.Source(t)
	var readers sync.WaitGroup
	for limit := range 4 {
		c, err := source.Parse(progress.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			n := 0
			for more := true; more; {
				page, err := source.Read(bounded(t), []eventsource.Coverage{c}, nil, limit+3)
				if err != nil {
					t.Error(err)
					return
				}
				n += len(lacking(page.Events, c, []segment.Segment{segment.Root}))
				c, more = page.After(c, nil), page.More
			}
			if n != 40 {
				t.Errorf("a reader was given %d events of 40", n)
			}
		})
	}
	readers.Wait()
}

func invalidProgress(t *testing.T, log Log) {
	source := log.Source(t)
	for _, p := range []progress.Progress{{Position: -1}, {Position: 3, State: "no format of any source"}, {Position: 0, State: "x"}} {
		if c, err := source.Parse(p); err == nil {
			t.Errorf("progress %d %q is read as %v", p.Position, p.State, c)
		}
	}
}
