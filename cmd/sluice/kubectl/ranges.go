package kubectl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/runtime/worker"
)

// of returns a group's segments in the pod.
func (p podSight) of(group string) []worker.Holding {
	return slices.DeleteFunc(slices.Clone(p.holdings), func(h worker.Holding) bool { return h.Group != group })
}

// ranges writes segments as in 0-3,7 of 8, where 8 of that size make the whole. Sizes differ where the number of segments
// is no power of two: 0-3 of 8, 12 of 16. Of many runs the first are written.
func ranges(held []worker.Holding) string {
	byMask := map[uint32][]uint32{}
	var masks []uint32
	for _, h := range held {
		if byMask[h.Mask] == nil {
			masks = append(masks, h.Mask)
		}
		byMask[h.Mask] = append(byMask[h.Mask], h.Segment)
	}
	slices.Sort(masks)
	var parts []string
	for _, mask := range masks {
		parts = append(parts, fmt.Sprintf("%s of %d", runs(byMask[mask]), mask+1))
	}
	return strings.Join(parts, ", ")
}

// runs writes numbers as ranges.
func runs(ids []uint32) string {
	slices.Sort(ids)
	var parts []string
	for from := 0; from < len(ids); {
		to := from
		for to+1 < len(ids) && ids[to+1] == ids[to]+1 {
			to++
		}
		if from == to {
			parts = append(parts, fmt.Sprint(ids[from]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", ids[from], ids[to]))
		}
		from = to + 1
	}
	if more := len(parts) - mostRuns; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(parts[:mostRuns], ","), more)
	}
	return strings.Join(parts, ",")
}

// mostRuns of each size are shown of what a pod owns.
const mostRuns = 6
