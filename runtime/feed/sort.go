package feed

import (
	"slices"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// sorted is a page that was divided among members.
type sorted struct {
	deliveries []*Delivery // by member, what it lacks
	typical    int64       // bytes of an event
}

// sortOut divides a page among members. It needs no lock, as nobody changes the members' coverage while they are read for.
func sortOut(members []*Member, page eventsource.Page) sorted {
	deliveries := make([]*Delivery, len(members))
	texts := &shared{bytes: textBytes(page.Events)}
	var indexes []*index
	for i, m := range members {
		at := slices.IndexFunc(indexes, func(x *index) bool { return x.by == m.by })
		if at < 0 {
			at = len(indexes)
			indexes = append(indexes, newIndex(m.by, page.Events))
		}
		deliveries[i] = &Delivery{before: m.parts, after: page.After, expected: expected(m, len(page.Events)), shares: []*shared{texts, indexes[at].memory}}
		indexes[at].add(m, deliveries[i])
	}
	for _, x := range indexes {
		for _, event := range x.events {
			x.give(event)
		}
	}
	for _, d := range deliveries {
		if d.own = int64(cap(d.Events)) * pointerBytes; len(d.Events) == 0 {
			d.shares = nil
		}
	}
	return sorted{deliveries, typicalBytes(page.Events, texts.bytes)}
}

// place is where an event goes.
type place struct {
	part     *Part
	delivery *Delivery
}

// index finds where events go in the groups of one sequencing: the parts that a hash belongs to, one look-up for each mask that
// occurs; or everybody, where the sequencing is to broadcast.
type index struct {
	by     segment.Sequencing
	events []*eventsource.Event // the page's, with the sequencing's hashes
	memory *shared              // that these take
	masks  []uint32
	places map[segment.Segment][]place
	all    []*Delivery
}

func newIndex(by segment.Sequencing, events []*eventsource.Event) *index {
	x := &index{by: by, events: events, memory: &shared{bytes: int64(len(events)) * eventBytes}, places: map[segment.Segment][]place{}}
	if by != segment.PerStream { // else the source has computed the hash
		own := make([]eventsource.Event, len(events))
		x.events = make([]*eventsource.Event, len(events))
		for i, event := range events {
			own[i] = *event
			own[i].Hash = by.Of(event.Fields())
			x.events[i] = &own[i]
		}
	}
	return x
}

func (x *index) add(m *Member, d *Delivery) {
	if x.by.Type == segment.Broadcast {
		x.all = append(x.all, d)
		return
	}
	for i := range m.parts {
		part := &m.parts[i]
		x.places[part.Segment] = append(x.places[part.Segment], place{part, d})
		if !slices.Contains(x.masks, part.Segment.Mask) {
			x.masks = append(x.masks, part.Segment.Mask)
		}
	}
}

// give adds an event to the deliveries that it belongs to.
func (x *index) give(event *eventsource.Event) {
	if event.Unreadable != nil && !event.Unreadable.HasKey(x.by) {
		x.giveAll(event)
	}
	for _, mask := range x.masks {
		for _, at := range x.places[segment.Segment{ID: event.Hash & mask, Mask: mask}] {
			if !at.part.Coverage.Covers(event) {
				at.delivery.add(event)
			}
		}
	}
	for _, d := range x.all {
		if slices.ContainsFunc(d.before, func(p Part) bool { return !p.Coverage.Covers(event) }) {
			d.add(event)
		}
	}
}

// giveAll adds an event of an unknown sequence to all deliveries: every segment may be the one that
// has to wait for it.
func (x *index) giveAll(event *eventsource.Event) {
	for segment, places := range x.places {
		if segment.Contains(event.Hash) {
			continue // it is added as others are
		}
		for _, at := range places {
			if !at.part.Coverage.Covers(event) {
				at.delivery.add(event)
			}
		}
	}
}

// expected is how many of a page's events a member will get, where its hashes come as often as others.
func expected(m *Member, events int) int {
	if m.by.Type == segment.Broadcast {
		return events
	}
	share := events * m.whole.Share() / segment.MaxSlices
	return min(share+share/8+8, events)
}

func (d *Delivery) add(event *eventsource.Event) {
	if d.Events == nil {
		d.Events = make([]*eventsource.Event, 0, d.expected)
	}
	d.Events = append(d.Events, event)
}
