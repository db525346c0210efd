package postgres

import (
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

// union covers what either covers.
func (c *coverage) union(other *coverage) *coverage {
	for _, s := range other.steps {
		c = c.with(s)
	}
	return c
}

// meet covers what both cover. Between two steps of either, nothing changes.
func (c *coverage) meet(other *coverage) *coverage {
	var ends []int64
	for _, s := range slices.Concat(c.steps, other.steps) {
		ends = append(ends, s.through)
	}
	m := &coverage{table: c.table}
	for _, end := range ends {
		if both := c.at(end).Meet(other.at(end)); both.xmax > 0 {
			m = m.with(step{end, both})
		}
	}
	return m
}

// contains reports whether c covers all that other covers.
func (c *coverage) contains(other *coverage) bool {
	return !slices.ContainsFunc(other.steps, func(s step) bool { return !c.at(s.through).Contains(s.snapshot) })
}

// upTo covers what c covers up to a position.
func (c *coverage) upTo(through int64) *coverage {
	cut := &coverage{table: c.table}
	for _, s := range c.steps {
		cut = cut.with(step{min(s.through, through), s.snapshot})
	}
	return cut
}

// Union implements progress.Algebra.
func (s *Source) Union(a, b progress.Progress) (progress.Progress, error) {
	if s.gaps != nil {
		return s.combineGapped(a, b, ranges.union)
	}
	return s.combine(a, b, (*coverage).union)
}

// Intersect implements progress.Algebra.
func (s *Source) Intersect(a, b progress.Progress) (progress.Progress, error) {
	if s.gaps != nil {
		return s.combineGapped(a, b, ranges.meet)
	}
	return s.combine(a, b, (*coverage).meet)
}

// Contains implements progress.Algebra.
func (s *Source) Contains(a, b progress.Progress) (bool, error) {
	if s.gaps != nil {
		return s.containsGapped(a, b)
	}
	x, err := s.parse(a)
	if err != nil {
		return false, err
	}
	y, err := s.parse(b)
	if err != nil {
		return false, err
	}
	return x.contains(y), nil
}

// Distance implements progress.Algebra.
func (s *Source) Distance(from, to progress.Progress) (int64, error) {
	x, err := s.Parse(from)
	if err != nil {
		return 0, err
	}
	y, err := s.Parse(to)
	if err != nil {
		return 0, err
	}
	return x.Distance(y), nil
}

func (s *Source) combine(a, b progress.Progress, with func(x, y *coverage) *coverage) (progress.Progress, error) {
	x, err := s.parse(a)
	if err != nil {
		return progress.Progress{}, err
	}
	y, err := s.parse(b)
	if err != nil {
		return progress.Progress{}, err
	}
	return with(x, y).Progress(), nil
}

// parse reads progress in this source's table.
func (s *Source) parse(p progress.Progress) (*coverage, error) {
	if isPlaced(p.State) {
		return nil, errPlaced
	}
	if isGapped(p.State) {
		return nil, &eventsource.InvalidError{Problem: "the group's tokens are progress of the time when spec.source.table.columns.transaction was not declared: take it out again, or declare a group with another name"}
	}
	c, err := parseProgress(p)
	if err != nil {
		return nil, err
	}
	if len(c.steps) == 0 {
		c.table = s.events.name() // nothing is nothing in any table
	}
	return c, s.own(c.table)
}

// own returns an error unless progress is in this source's table: elsewhere the same positions are other events.
func (s *Source) own(table string) error {
	if table == s.events.name() {
		return nil
	}
	return &eventsource.InvalidError{Problem: fmt.Sprintf("the group's tokens are progress in %s, and spec.source is %s, where the same positions are other events: put the source back, or declare a group with another name",
		described(table), described(s.events.name()))}
}

func described(table string) string {
	if table == "" {
		return "Sluice's own event table"
	}
	return "the positions " + table
}
