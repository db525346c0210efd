package segment_test

import (
	"testing"

	"github.com/sluice-project/sluice/segment"
)

// BenchmarkNext is one step somewhere between one segment and the largest number of them.
func BenchmarkNext(b *testing.B) {
	layout, err := segment.Layout(20_000)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		step, due, err := segment.Next(layout, segment.MaxSegments)
		if err != nil || !due {
			b.Fatal(due, err)
		}
		if _, err := step.Apply(layout); err != nil {
			b.Fatal(err)
		}
	}
}
