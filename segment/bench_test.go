package segment_test

import (
	"testing"

	"github.com/sluice-project/sluice/segment"
)

// BenchmarkSteps goes from one segment to the largest number of them and back.
func BenchmarkSteps(b *testing.B) {
	most, err := segment.Layout(segment.MaxSegments)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, way := range []struct {
			from []segment.Segment
			to   int
		}{{[]segment.Segment{segment.Root}, segment.MaxSegments}, {most, 1}} {
			steps, err := segment.Steps(way.from, way.to)
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for range steps {
				n++
			}
			if n != segment.MaxSegments-1 {
				b.Fatal(n)
			}
		}
	}
}
