package planner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// The splits and merges of one step of the planner are bounded, so that plans are written in between: halves have no owner before. So
// many are done at least, and more as long as it takes no longer than this.
const (
	stepsAtOnce = 64
	stepsWithin = 400 * time.Millisecond
)

// reshape splits and merges towards the number of segments that each group wants, each in a transaction of its own, and
// returns how many it did. Whoever comes after a crash goes on from the layout that there is.
func (p *Planner) reshape(ctx context.Context, groups []tokenstore.Group, tokens []tokenstore.Token) (int, error) {
	done, began := 0, time.Now()
	for _, group := range groups {
		steps, err := segment.Steps(layoutOf(group.Name, tokens), group.Segments)
		if err != nil {
			return done, fmt.Errorf("group %s: %w", group.Name, err)
		}
		for step := range steps {
			if done >= stepsAtOnce && time.Since(began) > stepsWithin {
				return done, nil
			}
			if err := p.carryOut(ctx, group.Name, step); errors.Is(err, tokenstore.ErrLayoutChanged) {
				return done + 1, nil // somebody else did something: look again
			} else if err != nil {
				return done, err
			}
			done++
		}
	}
	return done, nil
}

func (p *Planner) carryOut(ctx context.Context, group string, step segment.Step) error {
	if step.Kind == segment.Split {
		return p.Store.Split(ctx, group, step.Whole)
	}
	return p.Store.Merge(ctx, group, step.Low)
}

func layoutOf(group string, tokens []tokenstore.Token) []segment.Segment {
	var layout []segment.Segment
	for _, t := range tokens {
		if t.Group == group {
			layout = append(layout, t.Range())
		}
	}
	return layout
}
