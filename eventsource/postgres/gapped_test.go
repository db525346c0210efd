package postgres

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

func gapsSource() *Source {
	return Open(nil, "sluice", definition.Source{Type: definition.SourceTable, Table: &definition.Table{Name: "public.outbox", Columns: definition.TableColumns{Position: "id"}}})
}

// Progress computes as coverages do: union, meet, containment and prefix cover what their names say, and texts are read back.
func TestProgressWithGapsCoversWhatItsNamesSay(t *testing.T) {
	source := gapsSource()
	rapid.Check(t, func(t *rapid.T) {
		of := func(set ranges) progress.Progress {
			return (&gapped{table: source.events.name(), set: set}).Progress()
		}
		read := func(p progress.Progress, err error) eventsource.Coverage {
			if err != nil {
				t.Fatal(err)
			}
			c, err := source.Parse(p)
			if err != nil {
				t.Fatal(err)
			}
			if c.Progress() != p {
				t.Fatalf("%v is read as %v", p, c.Progress())
			}
			return c
		}
		a, b := of(setOf(t, "a")), of(setOf(t, "b"))
		through := rapid.Int64Range(0, lastPosition).Draw(t, "up to")
		inA, inB := read(a, nil), read(b, nil)
		union, meet, prefix := read(source.Union(a, b)), read(source.Intersect(a, b)), read(source.below(a, through))
		contains, err := source.Contains(a, b)
		if err != nil {
			t.Fatal(err)
		}
		contained := true
		for p := int64(1); p <= lastPosition; p++ {
			e := &eventsource.Event{Position: p}
			x, y := inA.Covers(e), inB.Covers(e)
			contained = contained && (x || !y)
			if union.Covers(e) != (x || y) || meet.Covers(e) != (x && y) || prefix.Covers(e) != (x && p <= through) {
				t.Fatalf("%v and %v are wrong at %d", a, b, p)
			}
		}
		if contains != contained {
			t.Fatalf("%v contains %v: %t", a, b, contains)
		}
	})
}

// Runs of any length are read back.
func TestRunsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var set ranges
		next := int64(1)
		for range rapid.IntRange(0, 20).Draw(t, "ranges") {
			from := next + rapid.Int64Range(0, 1<<rapid.IntRange(0, 50).Draw(t, "bits")).Draw(t, "gap")
			to := from + rapid.Int64Range(0, 1<<rapid.IntRange(0, 50).Draw(t, "bits")).Draw(t, "run")
			set = set.add(span{from, to})
			next = to + 2
		}
		text := writeRuns(set)
		got, err := parseRuns(set.last(), text)
		if err != nil || !got.contains(set) || !set.contains(got) {
			t.Fatalf("%v is written %q and read %v, %v", set, text, got, err)
		}
	})
}

func TestProgressWithGapsThatIsNone(t *testing.T) {
	source := gapsSource()
	for name, c := range map[string]struct {
		progress progress.Progress
		want     string
	}{
		"of transactions":      {progress.Progress{Position: 7, State: "public.outbox.id 3:4:"}, "put it back"},
		"of another table":     {progress.Progress{Position: 7, State: "public.other.id gaps"}, "declare a group with another name"},
		"at no position":       {progress.Progress{State: "public.outbox.id gaps"}, "position 0"},
		"of runs too long":     {progress.Progress{Position: 7, State: "public.outbox.id gaps FG"}, "do not fit"},
		"of an odd run":        {progress.Progress{Position: 7, State: "public.outbox.id gaps BCD"}, "the end is missing"},
		"cut in a number":      {progress.Progress{Position: 7, State: "public.outbox.id gaps Bg"}, "the end is missing"},
		"of another alphabet":  {progress.Progress{Position: 7, State: "public.outbox.id gaps B*"}, "character 2"},
		"not in its one form":  {progress.Progress{Position: 7, State: "public.outbox.id gaps BhA"}, "not written as it would be"},
		"with a blank at last": {progress.Progress{Position: 7, State: "public.outbox.id gaps "}, "not written as it would be"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := source.Parse(c.progress); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	other := Open(nil, "sluice", definition.Source{Type: definition.SourceTable, Table: &definition.Table{Name: "public.outbox", Columns: definition.TableColumns{Position: "id", Transaction: "txid"}}})
	if _, err := other.Parse(progress.Progress{Position: 7, State: "public.outbox.id gaps BC"}); err == nil || !strings.Contains(err.Error(), "take it out again") {
		t.Errorf("a source with transactions reads it: %v", err)
	}
}
