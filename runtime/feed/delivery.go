package feed

import (
	"bytes"
	"strings"
	"unsafe"

	"github.com/sluice-project/sluice/eventsource"
)

// Delivery is what a page held for one segment.
type Delivery struct {
	// Events of the segment, in the order in which they are to be handled; may be empty: then only the coverage has moved. Other
	// deliveries have them too, so nobody may change them.
	Events   []*eventsource.Event
	before   Parts
	after    func(c eventsource.Coverage, last *eventsource.Event) eventsource.Coverage // the page's
	expected int                                                                        // events, roughly

	// What is kept in memory because of it.
	shares []*shared
	own    int64 // bytes that are its alone
}

// shared is a piece of memory that deliveries point into, the events of a page or their texts: it stays as long as one of them does.
type shared struct {
	bytes   int64
	sharers int
}

const (
	// eventBytes is what an event takes apart from its texts.
	eventBytes = int64(unsafe.Sizeof(eventsource.Event{}))
	// pointerBytes is what a delivery takes for an event of a page.
	pointerBytes = int64(unsafe.Sizeof(&eventsource.Event{}))
)

// Until returns the segment's parts after the delivery's events up to and including one of them.
func (d *Delivery) Until(last *eventsource.Event) Parts {
	after := make(Parts, len(d.before))
	for i, part := range d.before {
		after[i] = Part{part.Segment, d.after(part.Coverage, last)}
	}
	return after
}

// All returns the segment's parts after the whole page.
func (d *Delivery) All() Parts { return d.Until(nil) }

// retained is how many bytes it keeps in memory, with its part of what it shares.
func (d *Delivery) retained() int64 {
	bytes := d.own
	for _, s := range d.shares {
		bytes += s.bytes / int64(s.sharers)
	}
	return bytes
}

// copy gives the delivery events and texts of its own, so that it does not keep a whole page in memory for a few.
func (d *Delivery) copy() {
	var text strings.Builder
	var json []byte
	for _, e := range d.Events {
		text.WriteString(e.StreamID)
		text.WriteString(e.ID)
		text.WriteString(e.Type)
		json = append(append(json, e.Data...), e.Metadata...)
	}
	strings, json := strings.Clone(text.String()), bytes.Clone(json) // without what they could grow by
	events := make([]eventsource.Event, len(d.Events))
	for i := range d.Events {
		e := &events[i]
		*e, d.Events[i] = *d.Events[i], e
		e.StreamID, strings = strings[:len(e.StreamID)], strings[len(e.StreamID):]
		e.ID, strings = strings[:len(e.ID)], strings[len(e.ID):]
		e.Type, strings = strings[:len(e.Type)], strings[len(e.Type):]
		e.Data, json = json[:len(e.Data):len(e.Data)], json[len(e.Data):]
		e.Metadata, json = json[:len(e.Metadata):len(e.Metadata)], json[len(e.Metadata):]
	}
	d.own += textBytes(d.Events) + int64(len(events))*eventBytes
	d.shares = nil
}

// typicalBytes is what an event takes: of a page on average, or of its last ones, where these are larger.
// Texts are the bytes of all their texts.
func typicalBytes(events []*eventsource.Event, texts int64) int64 {
	last := events[len(events)-len(events)/64:]
	return max(texts/int64(max(len(events), 1)), textBytes(last)/int64(max(len(last), 1))) + eventBytes + pointerBytes
}

// textBytes is what the texts of events take.
func textBytes(events []*eventsource.Event) (bytes int64) {
	for _, e := range events {
		bytes += int64(e.Size())
	}
	return bytes
}

// split returns the delivery without its first events, which have been handled. It keeps the same in memory.
func (d *Delivery) split(events int) *Delivery {
	rest := *d
	rest.Events, rest.before = d.Events[events:], d.Until(d.Events[events-1])
	return &rest
}
