package segment_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/segment"
)

// anyPartition draws a partition by random splits, ordered at random.
func anyPartition(t *rapid.T) []segment.Segment {
	segments := []segment.Segment{segment.Root}
	for range rapid.IntRange(0, 60).Draw(t, "splits") {
		i := rapid.IntRange(0, len(segments)-1).Draw(t, "which")
		if segments[i].Share() == 1 {
			continue
		}
		low, high := segments[i].Split()
		segments[i] = low
		segments = append(segments, high)
	}
	return rapid.Permutation(segments).Draw(t, "order")
}

// innerNodes returns all proper ancestors of the segments: what makes two partitions different trees.
func innerNodes(segments []segment.Segment) map[segment.Segment]bool {
	inner := map[segment.Segment]bool{}
	for _, s := range segments {
		for s != segment.Root {
			s = s.Parent()
			inner[s] = true
		}
	}
	return inner
}

func TestNextLeadsFromAnyPartitionToTheLayoutInTheFewestSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		current, want := anyPartition(t), rapid.IntRange(1, 80).Draw(t, "want")
		target := layout(t, want)
		// A step adds or removes one inner node, so no way is shorter than the number of nodes that differ.
		from, to, least := innerNodes(current), innerNodes(target), 0
		for s := range from {
			if !to[s] {
				least++
			}
		}
		for s := range to {
			if !from[s] {
				least++
			}
		}
		most := max(len(current), want)
		for range least {
			step, more, err := segment.Next(current, want)
			if err != nil || !more {
				t.Fatalf("%s: more %v, error %v", text(current), more, err)
			}
			if current, err = step.Apply(current); err != nil {
				t.Fatal(err)
			}
			if err := segment.Partition(current); err != nil {
				t.Fatalf("after %s: %v", step, err)
			}
			if len(current) > most {
				t.Fatalf("after %s: %d segments, more than before and after", step, len(current))
			}
		}
		if step, more, err := segment.Next(current, want); more || err != nil {
			t.Fatalf("one more step than needed: %s, error %v", step, err)
		}
		slices.SortFunc(current, func(a, b segment.Segment) int { return int(a.ID) - int(b.ID) })
		if diff := cmp.Diff(target, current); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestBetweenLayoutsEveryStepIsALayout(t *testing.T) {
	for _, way := range [][2]int{{1, 40}, {40, 1}, {12, 20}, {20, 12}} {
		current := layout(t, way[0])
		for {
			step, more, err := segment.Next(current, way[1])
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				break
			}
			if current, err = step.Apply(current); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(layout(t, len(current)), current); diff != "" {
				t.Fatalf("after %s: %s", step, diff)
			}
		}
		if len(current) != way[1] {
			t.Fatalf("from %d to %d ended at %d", way[0], way[1], len(current))
		}
	}
}

func TestStepsAreReadable(t *testing.T) {
	up, _, _ := segment.Next(layout(t, 2), 3)
	down, _, _ := segment.Next(layout(t, 3), 2)
	got := []string{up.String(), down.String()}
	want := []string{"split 0/1 into 0/3 and 2/3", "merge 0/3 and 2/3 into 0/1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestNextRefusesWhatIsNoPartitionOrOutOfRange(t *testing.T) {
	for want, try := range map[string]func() error{
		"choose 1 to 32767": func() error {
			_, _, err := segment.Next(layout(t, 2), 32768)
			return err
		},
		"present segments: slice 1 is not covered": func() error {
			_, _, err := segment.Next(layout(t, 2)[:1], 3)
			return err
		},
		"split 0/1 into 0/3 and 2/3: not all of [0/1] are there": func() error {
			step, _, _ := segment.Next(layout(t, 2), 3)
			_, err := step.Apply(layout(t, 4))
			return err
		},
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestStepsMayBeLeftOffAnywhere compares the whole way with one that is looked for anew after each step.
func TestStepsMayBeLeftOffAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		current, want := anyPartition(t), rapid.IntRange(1, 80).Draw(t, "want")
		steps, err := segment.Steps(current, want)
		if err != nil {
			t.Fatal(err)
		}
		for step := range steps {
			next, more, err := segment.Next(current, want)
			if err != nil || !more || next != step {
				t.Fatalf("at %s: %s, and of the whole way %s (error %v)", text(current), next, step, err)
			}
			if current, err = step.Apply(current); err != nil {
				t.Fatal(err)
			}
		}
		if step, more, err := segment.Next(current, want); more || err != nil {
			t.Fatalf("the way ends before %s, error %v", step, err)
		}
	})
}
