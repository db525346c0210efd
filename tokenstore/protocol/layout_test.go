package protocol

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

func tokensOf(group string, segments ...segment.Segment) (tokens []tokenstore.Token) {
	for _, s := range segments {
		tokens = append(tokens, tokenstore.Token{Key: tokenstore.Key{Group: group, Segment: s.ID}, Mask: s.Mask})
	}
	return tokens
}

func TestLayoutsThatDoNotCoverTheHashSpaceOnceAreFound(t *testing.T) {
	four, err := segment.Layout(4)
	if err != nil {
		t.Fatal(err)
	}
	tokens := tokensOf("whole", four...)
	tokens = append(tokens, tokensOf("overlapping", append(four[:4:4], segment.Segment{ID: 4, Mask: 7})...)...)
	tokens = append(tokens, tokensOf("missing", four[0], four[1], four[3])...)
	wrong := CheckLayouts(tokens)
	if len(wrong) != 2 {
		t.Fatalf("wrong: %v", wrong)
	}
	for group, want := range map[string]struct {
		covered float64
		text    string
	}{"overlapping": {7.0 / 8, "is covered twice: by segment 0/3 and by segment 4/7"}, "missing": {3.0 / 4, "slice 2 is not covered"}} {
		if e := wrong[group]; e == nil || e.Covered != want.covered || !strings.Contains(e.Error(), want.text) {
			t.Errorf("%s: %v", group, e)
		}
	}
}

// TestEveryLayoutOfTheProtocolIsWhole splits and merges at random, and then takes a segment away.
func TestEveryLayoutOfTheProtocolIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := rapid.IntRange(1, 64).Draw(t, "from"), rapid.IntRange(1, 64).Draw(t, "to")
		layout, err := segment.Layout(from)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			step, due, err := segment.Next(layout, to)
			if err != nil {
				t.Fatal(err)
			}
			if !due {
				break
			}
			if layout, err = step.Apply(layout); err != nil {
				t.Fatal(err)
			}
		}
		if wrong := CheckLayouts(tokensOf("g", layout...)); len(wrong) > 0 {
			t.Fatalf("%v: %v", layout, wrong)
		}
		if len(layout) == 1 {
			return
		}
		gone := rapid.IntRange(0, len(layout)-1).Draw(t, "gone")
		if wrong := CheckLayouts(tokensOf("g", append(layout[:gone:gone], layout[gone+1:]...)...)); len(wrong) != 1 {
			t.Fatalf("%v without number %d is taken for whole", layout, gone)
		}
	})
}
