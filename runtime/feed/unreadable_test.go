package feed

import (
	"errors"
	"testing"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/segment"
)

// TestAnEventWithoutAKeyGoesToEverySegmentThatMayHaveIt hands out an event of which some field
// cannot be read: to its own segment where its key is known, and otherwise to all, once.
func TestAnEventWithoutAKeyGoesToEverySegmentThatMayHaveIt(t *testing.T) {
	layout, err := segment.Layout(4)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		by      segment.Sequencing
		missing string
		want    int
	}{
		"no stream":                 {segment.PerStream, eventsource.FieldStream, 4},
		"no stream, other hash":     {byStream, eventsource.FieldStream, 4},
		"no data":                   {segment.PerStream, eventsource.FieldData, 1},
		"no data, by a property":    {byCustomer, eventsource.FieldData, 4},
		"no type, by a property":    {byCustomer, eventsource.FieldType, 1},
		"no data, broadcast":        {broadcast, eventsource.FieldData, 4},
		"no metadata, by a propery": {byCustomer, eventsource.FieldMetadata, 1},
		"no metadata, by metadata":  {segment.Sequencing{Type: segment.Metadata, Metadata: "tenant", Hash: segment.HashPG1}, eventsource.FieldMetadata, 4},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(20)
			bad := *l.events[6]
			bad.Unreadable = &eventsource.UnreadableError{Position: bad.Position, Field: c.missing, Err: errors.New("no"), Missing: []string{c.missing}}
			l.events[6] = &bad
			f := newFeed(l)
			var members []*Member
			for _, s := range layout {
				members = append(members, add(t, f, "g", s, c.by, 0))
			}
			readFor(members...)
			gave, others := 0, map[int64]int{}
			for _, m := range members {
				last := int64(0)
				for _, e := range got(m) {
					if e.Position <= last {
						t.Errorf("position %d after %d", e.Position, last)
					}
					if last = e.Position; e.Unreadable != nil {
						gave++
					} else {
						others[e.Position]++
					}
				}
			}
			want := 1
			if c.by.Type == segment.Broadcast {
				want = 4
			}
			for p, n := range others {
				if n != want {
					t.Errorf("the event at %d was given %d times", p, n)
				}
			}
			if gave != c.want || len(others) != 19 {
				t.Errorf("it was given %d times, want %d; %d others", gave, c.want, len(others))
			}
		})
	}
}

// TestWhatWasNotTakenIsReadAgain takes some events, has one repaired that could not be read, and
// gets the rest: also where a read is under way.
func TestWhatWasNotTakenIsReadAgain(t *testing.T) {
	for _, during := range []bool{false, true} {
		l := newLine(20)
		broken := *l.events[6]
		broken.Unreadable = &eventsource.UnreadableError{Position: 7}
		whole := l.events[6]
		l.events[6] = &broken
		f := newFeed(l)
		m := add(t, f, "g", segment.Root, segment.PerStream, 0)
		readFor(m)
		m.Take(0, 6)
		l.events[6] = whole
		l.events = append(l.events, newLine(25).events[20:]...)
		if during {
			l.before = func(int64) { m.ReadAgain() }
			readFor(m)
			l.before = nil
		} else {
			m.ReadAgain()
		}
		if n := len(got(m)); n != 0 {
			t.Errorf("%d events are left", n)
		}
		readFor(m)
		events := got(m)
		if len(events) != 19 || events[0].Position != 7 || events[0].Unreadable != nil {
			t.Errorf("then %d events, want 19 from position 7 on", len(events))
		}
		if counted(f) != f.budget.used {
			t.Errorf("%d bytes are counted, and %d are there", f.budget.used, counted(f))
		}
	}
}
