// Package eventsource says what Sluice needs of a source of events, and what it gets.
//
// What must always hold, and every Source guarantees: an event that is not covered by a coverage is in one of the pages
// read from there, once; the coverage after a page covers exactly what it covered before and what the page gave. Events of
// one stream come in their order. Nothing of this rests on time.
package eventsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// Event is one immutable fact in a stream.
type Event struct {
	Position   int64 // global; that of a stream's events rises, but in tables where writers take it before they know the event before
	StreamID   string
	Version    int64 // number within the stream, from 1
	ID         string
	Type       string
	Data       json.RawMessage
	Metadata   json.RawMessage
	RecordedAt time.Time
	Hash       uint32 // of the sequence key: decides which segment it belongs to. A source gives that of segment.PerStream
	// Mark is what the source's coverages need to know of the event beside its position. In PostgreSQL
	// it is the transaction that wrote the event, if the source orders by transactions. Otherwise it
	// is 0.
	Mark uint64
	// Unreadable says what cannot be read of the event; nil for nearly all. Handlers never get such
	// an event.
	Unreadable *UnreadableError
	// Replay is set where the event is handled again, by the replay named; nil where it is handled for the first time.
	Replay *Replay
}

// RecordedAt of events whose time is infinite, which no time.Time is: the first time that there is,
// and the last that most others can write.
var (
	BeginningOfTime time.Time
	EndOfTime       = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
)

// Fields are what sequence keys are made of.
func (e *Event) Fields() segment.Fields {
	return segment.Fields{StreamID: e.StreamID, ID: e.ID, Data: e.Data, Metadata: e.Metadata}
}

// Size is the memory in bytes that the event's texts take, not counting the Event itself.
func (e *Event) Size() int {
	return len(e.StreamID) + len(e.ID) + len(e.Type) + len(e.Data) + len(e.Metadata)
}

// Replay is what handlers are told about the one that has them handle events again.
type Replay struct {
	ID      string
	Context map[string]string // as it was asked for
}

// Coverage says which events a part of a segment has been given. It is immutable.
//
// Only its progress, once it is stored, outlives a crash of the source's server. Whoever loses the connection to it starts
// again from what is stored, and forgets coverages and pages in memory.
type Coverage interface {
	// Covers reports whether the event has been given. It needs the event's position and mark.
	Covers(e *Event) bool
	// Position up to which, roughly, events are covered: for ordering and display.
	Position() int64
	// Distance is how far to, a coverage of the same source, is ahead of this one: what
	// progress.Algebra says of their progress. It is called often, under locks, so it must be cheap.
	Distance(to Coverage) int64
	// Progress is the coverage in the format in which a token stores it.
	Progress() progress.Progress
}

// Page is what one read gave.
type Page struct {
	// Events are in the order in which they are to be handled: by position, but where that is not the order of a stream. All those that some of the
	// coverages asked for lack, and maybe some that they have.
	Events []*Event
	// More says that the page ended at its limit, or at one of the source's own on its size: reading on at once is worth it.
	More bool
	// Spacing is how far apart two neighbours among the page's events are, as Coverage.Distance counts
	// it; 0 if it is not known, as with fewer than two events. Readers tell by it how many events a
	// distance is.
	Spacing float64
	// After returns the coverage c with the events of this page added, in their order, up to and
	// including last, which is one of them or a copy. c is one of those that the page was read
	// from, or was returned by an earlier call with an event before: so a page can be handled in
	// several batches. If last is the page's last event or nil, all that the page covers is added,
	// even if it has no events. To read on before a page has been handled, read from what After
	// returns.
	//
	// It takes an event rather than an index: readers of a page keep the events of their own
	// segments only, and their indexes in the page would take memory for each.
	After func(c Coverage, last *Event) Coverage
}

// Source is an ordered log of events that several readers read independently.
type Source interface {
	// Start returns the progress of a token that has seen all before the place named that had been written when it was asked,
	// and nothing else. A *StartPositionError says that there is no such position.
	Start(ctx context.Context, at progress.StartPosition) (progress.Progress, error)
	// Algebra computes with progress in this source's format.
	progress.Algebra
	// Parse reads a token's progress. An error says that it is not in this source's format.
	Parse(p progress.Progress) (Coverage, error)
	// Read returns the next events that any of the coverages lacks, at most limit, oldest position first. Only events of
	// the segments are needed, an empty list means all; a page may hold others. A page may end before the limit, but not before
	// its first event.
	Read(ctx context.Context, from []Coverage, segments []segment.Segment, limit int) (Page, error)
	// Head returns a coverage that has come as far as any event that there is: how far other coverages
	// are behind all events is their distance to it. It need not say which events it covers, so it is
	// neither read from nor stored.
	Head(ctx context.Context) (Coverage, error)
}

// StartPositionError says what is wrong with a place.
type StartPositionError struct{ Problem string }

func (e *StartPositionError) Error() string { return e.Problem }

// ErrStale is wrapped where coverages in memory may speak of what the server has forgotten: a
// connection was lost, or the server was started again. Start again from stored progress. Every
// other error of a read leaves coverages as they are: the read is to be repeated.
var ErrStale = errors.New("what was read but not stored has to be read again")

// ChangedError says what was changed in the database while events were read from it, by which
// events could be lost or given twice, and what to do. Nothing more is read by this source; a new
// one looks at the database anew.
type ChangedError struct{ Problem string }

func (e *ChangedError) Error() string {
	return "the source has changed while events were read: " + e.Problem
}

// UnreadableError says why an event cannot be read: what is in a column is not what the source is
// declared to have there.
type UnreadableError struct {
	Position int64
	Field    string // the first one of the declaration that cannot be, such as data
	Column   string
	Err      error
	Missing  []string // all of these fields
}

// Fields of an event by which it is decided what becomes of it, as a declaration names them.
const (
	FieldStream   = "columns.stream"
	FieldType     = "columns.type"
	FieldData     = "data"
	FieldMetadata = "metadata"
)

// Lacks reports whether a field cannot be read. None of nothing is lacking.
func (e *UnreadableError) Lacks(field string) bool {
	return e != nil && slices.Contains(e.Missing, field)
}

// HasKey reports whether it is known which sequence the event belongs to. Where it is not, it may
// be any.
func (e *UnreadableError) HasKey(by segment.Sequencing) bool {
	switch by.Type {
	case segment.Property:
		return !e.Lacks(FieldData) && !e.Lacks(FieldStream)
	case segment.Metadata:
		return !e.Lacks(FieldMetadata) && !e.Lacks(FieldStream)
	case segment.Stream:
		return !e.Lacks(FieldStream)
	default: // no field decides
		return true
	}
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("the event at position %d cannot be read: %s, column %s: %v", e.Position, e.Field, e.Column, e.Err)
}

func (e *UnreadableError) Unwrap() error { return e.Err }

// DatabaseError is an error of the database that events are read from, where that is not the
// store's. It says nothing about the store.
type DatabaseError struct{ Err error }

func (e *DatabaseError) Error() string { return "the database of spec.source: " + e.Err.Error() }
func (e *DatabaseError) Unwrap() error { return e.Err }

// InvalidError says what in the database is not as the source is declared, and what to change. Nothing was read.
type InvalidError struct{ Problem string }

func (e *InvalidError) Error() string { return "spec.source: " + e.Problem }
