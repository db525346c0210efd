package postgres

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sluice-project/sluice/eventsource"
)

// ReadSQL is the statement of a page.
func (s *Source) ReadSQL() string {
	k, err := s.lookAtTable(context.Background())
	if err != nil {
		panic(err)
	}
	return k.page
}

// EndOfRecord is tested alone: a server is rarely at such a place.
func EndOfRecord(place int64) int64 { return endOfRecord(place, 8192, 16<<20) }

// KeepPlan is what precedes it where pages follow one another.
var KeepPlan = keepPlan

// Steps of a coverage, or its ranges, which gaps divide.
func Steps(c eventsource.Coverage) int {
	if s, ok := c.(*separateCoverage); ok {
		c = s.Coverage
	}
	if g, ok := c.(*gapped); ok {
		return len(g.set)
	}
	return len(c.(*coverage).steps)
}

// WithWindow makes reads look at fewer positions at once.
func (s *Source) WithWindow(positions int64) *Source {
	t := *s
	t.window = positions
	return &t
}

// WithWindow makes reads look at fewer positions at once.
func (s *Separate) WithWindow(positions int64) *Separate {
	return &Separate{s.Source.WithWindow(positions), s.checked}
}

// Round takes a round of proof, and returns the sequence's last number and the transactions that held its lock then.
func (s *Source) Round(ctx context.Context) (mark int64, ids []string, err error) {
	err = s.steadily(ctx, func(k *known) error {
		_, err := s.takeRound(ctx, k, nil)
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	return s.gaps.mark(), slices.Sorted(maps.Keys(s.gaps.fence.last)), nil
}

// ProveAgain has the next read take a round of proof, if there are gaps.
func (s *Source) ProveAgain() {
	s.gaps.mu.Lock()
	defer s.gaps.mu.Unlock()
	s.gaps.round = time.Unix(1, 0)
}

// WaitingSQL looks for the next event after a position.
func (s *Source) WaitingSQL() string {
	k, err := s.lookAtTable(context.Background())
	if err != nil {
		panic(err)
	}
	return k.waiting
}
