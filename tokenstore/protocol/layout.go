package protocol

import (
	"fmt"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// LayoutError says that the segments of a group's tokens do not cover the hash space exactly once.
// No protocol step leads there: somebody has written to the tokens. Nobody may handle events by
// such tokens, as some would be handled twice and out of order, or by nobody.
type LayoutError struct {
	Group   string
	Cause   error
	Covered float64 // share of the hash space that is covered exactly once
}

func (e *LayoutError) Error() string {
	return fmt.Sprintf("the segments of group %s do not cover the hash space exactly once: %v", e.Group, e.Cause)
}

func (e *LayoutError) Unwrap() error { return e.Cause }

// CheckLayouts returns what is wrong with the layouts of groups, by group; all of a group's tokens
// have to be among those given.
func CheckLayouts(tokens []tokenstore.Token) map[string]*LayoutError {
	layouts := map[string][]segment.Segment{}
	for _, t := range tokens {
		layouts[t.Group] = append(layouts[t.Group], t.Range())
	}
	wrong := map[string]*LayoutError{}
	for group, layout := range layouts {
		if err := segment.Partition(layout); err != nil {
			wrong[group] = &LayoutError{group, err, covered(layout)}
		}
	}
	return wrong
}

// covered is the share of the hash space that is covered exactly once.
func covered(layout []segment.Segment) float64 {
	var times [segment.MaxSlices]uint8
	for _, s := range layout {
		if s.Valid() != nil {
			continue
		}
		for slice := s.ID; slice < segment.MaxSlices; slice += s.Mask + 1 {
			times[slice] = min(times[slice]+1, 2)
		}
	}
	once := 0
	for _, n := range times {
		if n == 1 {
			once++
		}
	}
	return float64(once) / segment.MaxSlices
}
