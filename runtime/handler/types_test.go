package handler

import (
	"fmt"
	"testing"
)

// A handler wants the types that it names, however many these are, and all where it names none.
func TestWhichTypesAHandlerWants(t *testing.T) {
	for _, n := range []int{0, 1, fewTypes, fewTypes + 1, 64} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("Type", i))
		}
		for name, h := range map[string]Handler{"each": Each(nil, names...), "set": Set(nil, names...), "queue": Queue(nil, names...)} {
			for _, wanted := range names {
				if !h.Wants(wanted) {
					t.Errorf("%s of %d types does not want %s", name, n, wanted)
				}
			}
			for _, other := range []string{"", "Type", fmt.Sprint("Type", n)} {
				if got := h.Wants(other); got != (n == 0) {
					t.Errorf("%s of %d types: it wants %q: %t", name, n, other, got)
				}
			}
		}
	}
}

func BenchmarkWants(b *testing.B) {
	for _, n := range []int{1, fewTypes, fewTypes + 1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var names []string
			for i := range n {
				names = append(names, fmt.Sprint("SomethingHappened", i))
			}
			h, last := Each(nil, names...), names[n-1]
			for b.Loop() {
				h.Wants(last)
			}
		})
	}
}
