// Package memory is an event log in memory, with its source: for tests that run whole workers
// without a database, also under testing/synctest.
//
// Events are appended one after the other, so an event is visible as soon as its position is taken,
// and a position says all about what has been read.
package memory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// Log is an event log. Its positions are 1, 2, 3 and so on.
type Log struct {
	now func() time.Time

	mu       sync.Mutex
	events   []*eventsource.Event
	versions map[string]int64
	onAppend map[int]func()
	last     int // number of an onAppend
}

// New returns an empty log. now is its clock.
func New(now func() time.Time) *Log {
	return &Log{now: now, versions: map[string]int64{}, onAppend: map[int]func(){}}
}

// Append adds an event to a stream, and returns its position.
func (l *Log) Append(stream, eventType string, data json.RawMessage) int64 {
	l.mu.Lock()
	position := int64(len(l.events) + 1)
	l.versions[stream]++
	l.events = append(l.events, &eventsource.Event{Position: position, StreamID: stream, Version: l.versions[stream], ID: strconv.FormatInt(position, 10),
		Type: eventType, Data: data, Metadata: json.RawMessage("{}"), RecordedAt: l.now(), Hash: segment.PG1(stream)})
	var calls []func()
	for _, n := range slices.Sorted(maps.Keys(l.onAppend)) {
		calls = append(calls, l.onAppend[n])
	}
	l.mu.Unlock()
	for _, call := range calls {
		call()
	}
	return position
}

// OnAppend has a function called after each event, until cancel is called.
func (l *Log) OnAppend(call func()) (cancel func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	n := l.last
	l.onAppend[n] = call
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.onAppend, n)
	}
}

// all returns the events so far.
func (l *Log) all() []*eventsource.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[:len(l.events):len(l.events)]
}

// Source reads a Log.
type Source struct{ log *Log }

var (
	_ eventsource.Source    = Source{}
	_ eventsource.Checker   = Source{}
	_ eventsource.Diagnoser = Source{}
)

// Source returns the log's source.
func (l *Log) Source() Source { return Source{l} }

// coverage has all events up to a position.
type coverage int64

// Covers implements eventsource.Coverage.
func (c coverage) Covers(e *eventsource.Event) bool { return e.Position <= int64(c) }

// Position implements eventsource.Coverage.
func (c coverage) Position() int64 { return int64(c) }

// Distance implements eventsource.Coverage.
func (c coverage) Distance(to eventsource.Coverage) int64 { return max(to.Position()-int64(c), 0) }

// Progress implements eventsource.Coverage.
func (c coverage) Progress() progress.Progress { return progress.Progress{Position: int64(c)} }

// Start implements eventsource.Source.
func (s Source) Start(_ context.Context, at progress.StartPosition) (progress.Progress, error) {
	events := s.log.all()
	switch at.Type {
	case progress.Earliest:
		return progress.Progress{}, nil
	case progress.Latest:
		return progress.Progress{Position: int64(len(events))}, nil
	case progress.AtPosition:
		first, err := strconv.ParseInt(at.Position, 10, 64)
		if err != nil || first < 0 || first > int64(len(events))+1 {
			return progress.Progress{}, &eventsource.StartPositionError{Problem: fmt.Sprintf("position %q is none: want a whole number from 0 to %d", at.Position, len(events)+1)}
		}
		return progress.Progress{Position: max(first-1, 0)}, nil
	case progress.AtTimestamp:
		before := 0
		for before < len(events) && events[before].RecordedAt.Before(at.Timestamp) {
			before++
		}
		return progress.Progress{Position: int64(before)}, nil
	}
	return progress.Progress{}, &eventsource.StartPositionError{Problem: fmt.Sprintf("the start position %q is not known", at.Type)}
}

// Parse implements eventsource.Source.
func (s Source) Parse(p progress.Progress) (eventsource.Coverage, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	return coverage(p.Position), nil
}

func check(all ...progress.Progress) error {
	for _, p := range all {
		if p.State != "" || p.Position < 0 {
			return fmt.Errorf("the progress %d %q is not that of a log in memory", p.Position, p.State)
		}
	}
	return nil
}

// Union implements progress.Algebra.
func (s Source) Union(a, b progress.Progress) (progress.Progress, error) {
	return progress.Progress{Position: max(a.Position, b.Position)}, check(a, b)
}

// Intersect implements progress.Algebra.
func (s Source) Intersect(a, b progress.Progress) (progress.Progress, error) {
	return progress.Progress{Position: min(a.Position, b.Position)}, check(a, b)
}

// Contains implements progress.Algebra.
func (s Source) Contains(a, b progress.Progress) (bool, error) {
	return a.Position >= b.Position, check(a, b)
}

// Distance implements progress.Algebra.
func (s Source) Distance(from, to progress.Progress) (int64, error) {
	return max(to.Position-from.Position, 0), check(from, to)
}

// Read implements eventsource.Source. A page ends behind as many of the log's events as the limit
// says, whether or not they are of the segments.
func (s Source) Read(_ context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (eventsource.Page, error) {
	events := s.log.all()
	low := int64(len(events))
	for _, c := range from {
		low = min(low, c.Position())
	}
	end := min(low+int64(limit), int64(len(events)))
	var page []*eventsource.Event
	for _, e := range events[low:end] {
		if wanted(e, segments) {
			page = append(page, e)
		}
	}
	after := func(c eventsource.Coverage, last *eventsource.Event) eventsource.Coverage {
		to := end
		if last != nil && last.Position != page[len(page)-1].Position {
			to = last.Position
		}
		return coverage(max(c.Position(), to))
	}
	return eventsource.Page{Events: page, More: end < int64(len(events)), Spacing: eventsource.Spacing(page), After: after}, nil
}

func wanted(e *eventsource.Event, segments []segment.Segment) bool {
	for _, s := range segments {
		if s.Contains(e.Hash) {
			return true
		}
	}
	return len(segments) == 0
}

// Head implements eventsource.Source.
func (s Source) Head(context.Context) (eventsource.Coverage, error) {
	return coverage(len(s.log.all())), nil
}

// Check implements eventsource.Checker.
func (Source) Check(context.Context) error { return nil }

// OpenWriters implements eventsource.Diagnoser: events are there as soon as they are appended.
func (s Source) OpenWriters(context.Context) ([]eventsource.OpenWriter, time.Time, error) {
	return nil, s.log.now(), nil
}

// NeedContents does nothing: pages always have the data and the metadata of events.
func (Source) NeedContents() {}
