package postgres

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

const (
	lastPosition = 8
	lastXID      = 10
)

// history draws the snapshots that a server gives one after the other: transactions end and do not come back.
func history(t *rapid.T) []Snapshot {
	var all []Snapshot
	ended := map[uint64]bool{}
	xmax := uint64(1)
	for range rapid.IntRange(2, 6).Draw(t, "snapshots") {
		xmax = min(xmax+rapid.Uint64Range(0, 4).Draw(t, "begun"), lastXID+1)
		s := Snapshot{xmin: xmax, xmax: xmax}
		for x := uint64(1); x < xmax; x++ {
			ended[x] = ended[x] || rapid.Bool().Draw(t, "ended")
			if !ended[x] {
				s.xip = append(s.xip, x)
				s.xmin = min(s.xmin, x)
			}
		}
		all = append(all, s)
	}
	return all
}

// coverageOf draws what a reader may come to have read on a server.
func coverageOf(t *rapid.T, server []Snapshot, name string) *coverage {
	c := &coverage{}
	for range rapid.IntRange(0, 4).Draw(t, name) {
		c = c.with(step{rapid.Int64Range(1, lastPosition).Draw(t, "through"), rapid.SampledFrom(server).Draw(t, "snapshot")})
	}
	return c
}

// everyEvent calls a function with each event there could be.
func everyEvent(visit func(e *eventsource.Event)) {
	for position := int64(1); position <= lastPosition; position++ {
		for x := uint64(1); x <= lastXID; x++ {
			visit(&eventsource.Event{Position: position, Mark: x})
		}
	}
}

func TestUnionMeetAndPrefixCoverWhatTheirNamesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		server := history(t)
		a, b := coverageOf(t, server, "a"), coverageOf(t, server, "b")
		through := rapid.Int64Range(0, lastPosition).Draw(t, "up to")
		union, meet, prefix := a.union(b), a.meet(b), a.upTo(through)
		contained := true
		everyEvent(func(e *eventsource.Event) {
			inA, inB := a.Covers(e), b.Covers(e)
			contained = contained && (inA || !inB)
			if got := union.Covers(e); got != (inA || inB) {
				t.Fatalf("%d of %d: the union covers it: %t", e.Position, e.Mark, got)
			}
			if got := meet.Covers(e); got != (inA && inB) {
				t.Fatalf("%d of %d: the meet covers it: %t", e.Position, e.Mark, got)
			}
			if got := prefix.Covers(e); got != (inA && e.Position <= through) {
				t.Fatalf("%d of %d: what is covered up to %d: %t", e.Position, e.Mark, through, got)
			}
		})
		if a.contains(b) && !contained {
			t.Fatalf("%v contains %v", a.Progress(), b.Progress())
		}
		if !union.contains(a) || !union.contains(b) || !a.contains(meet) || !b.contains(meet) || !a.contains(prefix) {
			t.Fatal("a part is not contained in the whole")
		}
		for _, c := range []*coverage{union, meet, prefix} {
			if _, err := parseProgress(c.Progress()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestDistanceIsHowManyPositionsOneIsAheadAtMost(t *testing.T) {
	for name, reader := range map[string]struct {
		source *Source
		draw   func(t *rapid.T) func(name string) eventsource.Coverage
	}{
		"snapshots": {Open(nil, "sluice", definition.Source{Type: definition.SourceStore}), func(t *rapid.T) func(string) eventsource.Coverage {
			server := history(t)
			return func(name string) eventsource.Coverage { return coverageOf(t, server, name) }
		}},
		"gaps": {gapsSource(), func(t *rapid.T) func(string) eventsource.Coverage {
			return func(name string) eventsource.Coverage {
				return &gapped{table: gapsSource().events.name(), set: setOf(t, name)}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				draw := reader.draw(t)
				distance := func(from, to eventsource.Coverage) int64 {
					d, err := reader.source.Distance(from.Progress(), to.Progress())
					if err != nil || d < 0 {
						t.Fatalf("from %v to %v: %d, %v", from.Progress(), to.Progress(), d, err)
					}
					if same := from.Distance(to); same != d {
						t.Fatalf("from %v to %v: %d, but %d between the coverages", from.Progress(), to.Progress(), d, same)
					}
					return d
				}
				a, b, between := draw("a"), draw("b"), draw("between")
				ahead := map[int64]bool{}
				everyEvent(func(e *eventsource.Event) {
					if e.Position > a.Position() && b.Covers(e) {
						ahead[e.Position] = true
					}
				})
				if d := distance(a, b); d < int64(len(ahead)) || d > lastPosition || (d > 0) != (b.Position() > a.Position()) {
					t.Fatalf("from %v to %v: %d, and events at %d positions", a.Progress(), b.Progress(), d, len(ahead))
				}
				if way := distance(a, between) + distance(between, b); way < distance(a, b) {
					t.Fatalf("from %v over %v to %v it is less: %d", a.Progress(), between.Progress(), b.Progress(), way)
				}
				if contains, err := reader.source.Contains(a.Progress(), b.Progress()); err != nil || contains && distance(a, b) > 0 {
					t.Fatalf("%v contains %v, which is ahead by %d, %v", a.Progress(), b.Progress(), distance(a, b), err)
				}
			})
			other := progress.Progress{Position: 7, State: "public.other.id 3:4:"}
			for _, pair := range [][2]progress.Progress{{other, {}}, {{}, other}} {
				if d, err := reader.source.Distance(pair[0], pair[1]); err == nil {
					t.Errorf("from %v to %v, which another source has written: %d", pair[0], pair[1], d)
				}
			}
		})
	}
}
