package planner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// The splits and merges of one step of the planner are bounded, so that plans are written in between: halves have no owner before. So
// many are done at least, and more for about as long as the look before them took, within these bounds. A worker that plans
// has its lease to renew.
const (
	stepsAtOnce  = 64
	stepsAtLeast = 400 * time.Millisecond
	stepsAtMost  = time.Second
)

// reshape splits and merges towards the number of segments that each group wants, each in a transaction of its own, and
// returns how many it did. looked is how long the look before took. The plan that follows announces them: it has halves to give to
// somebody, or wholes whose halves are gone. Whoever comes after a crash goes on from the layout that there is.
func (p *Planner) reshape(ctx context.Context, groups []tokenstore.Group, tokens []tokenstore.Token, broken map[string]*protocol.LayoutError, looked time.Duration) (int, error) {
	done, began, within := 0, time.Now(), min(max(looked, stepsAtLeast), stepsAtMost)
	for _, group := range groups {
		if broken[group.Name] != nil {
			continue
		}
		steps, err := segment.Steps(layoutOf(group.Name, tokens), group.Segments)
		if err != nil {
			return done, fmt.Errorf("group %s: %w", group.Name, err)
		}
		for step := range steps {
			if done >= stepsAtOnce && time.Since(began) > within {
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
