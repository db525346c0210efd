package feed

import (
	"bytes"
	"strings"
	"unsafe"

	"github.com/sluice-project/sluice/eventsource"
)

// Delivery is what a page held for one segment.
type Delivery struct {
	// Events of the segment, by position; may be empty: then only the coverage has moved.
	Events   []eventsource.Event
	before   Parts
	after    func(c eventsource.Coverage, position int64) eventsource.Coverage // the page's
	expected int                                                               // events, roughly

	// What is kept in memory because of it.
	texts *texts
	own   int64 // bytes that are its alone
}

// texts are what events point into: those of a page, which are in memory as long as one of the deliveries that share them.
type texts struct {
	bytes   int64
	sharers int
}

// eventBytes is what an event takes apart from its texts.
const eventBytes = int64(unsafe.Sizeof(eventsource.Event{}))

// Until returns the segment's parts after the delivery's events up to and including the position.
func (d *Delivery) Until(position int64) Parts {
	after := make(Parts, len(d.before))
	for i, part := range d.before {
		after[i] = Part{part.Segment, d.after(part.Coverage, position)}
	}
	return after
}

// All returns the segment's parts after the whole page.
func (d *Delivery) All() Parts { return d.Until(maxPosition) }

const maxPosition = 1<<63 - 1

// retained is how many bytes it keeps in memory, those that it shares included.
func (d *Delivery) retained() int64 {
	if d.texts == nil {
		return d.own
	}
	return d.own + d.texts.bytes
}

// copyTexts gives the delivery texts of its own, so that it does not keep a whole page in memory for a few events.
func (d *Delivery) copyTexts() {
	var text strings.Builder
	var json []byte
	for i := range d.Events {
		e := &d.Events[i]
		text.WriteString(e.StreamID)
		text.WriteString(e.ID)
		text.WriteString(e.Type)
		json = append(append(json, e.Data...), e.Metadata...)
	}
	strings, json := strings.Clone(text.String()), bytes.Clone(json) // without what they could grow by
	for i := range d.Events {
		e := &d.Events[i]
		e.StreamID, strings = strings[:len(e.StreamID)], strings[len(e.StreamID):]
		e.ID, strings = strings[:len(e.ID)], strings[len(e.ID):]
		e.Type, strings = strings[:len(e.Type)], strings[len(e.Type):]
		e.Data, json = json[:len(e.Data):len(e.Data)], json[len(e.Data):]
		e.Metadata, json = json[:len(e.Metadata):len(e.Metadata)], json[len(e.Metadata):]
	}
	d.texts = textsOf(d.Events)
}

// split returns the delivery without its first events, which have been handled. It keeps the same in memory.
func (d *Delivery) split(events int) *Delivery {
	rest := *d
	rest.Events, rest.before = d.Events[events:], d.Until(d.Events[events-1].Position)
	return &rest
}
