package postgres

import (
	"strings"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

// upTo covers what c covers up to a position.
func (c *gapped) upTo(through int64) *gapped {
	return &gapped{table: c.table, set: c.set.upTo(through)}
}

func (s *Source) combineGapped(a, b progress.Progress, with func(x, y ranges) ranges) (progress.Progress, error) {
	x, err := s.parseGapped(a)
	if err != nil {
		return progress.Progress{}, err
	}
	y, err := s.parseGapped(b)
	if err != nil {
		return progress.Progress{}, err
	}
	return (&gapped{table: x.table, set: with(x.set, y.set)}).Progress(), nil
}

func (s *Source) containsGapped(a, b progress.Progress) (bool, error) {
	x, err := s.parseGapped(a)
	if err != nil {
		return false, err
	}
	y, err := s.parseGapped(b)
	if err != nil {
		return false, err
	}
	return x.set.contains(y.set), nil
}

// parseGapped reads progress in this source's table.
func (s *Source) parseGapped(p progress.Progress) (*gapped, error) {
	if isPlaced(p.State) {
		return nil, errPlaced
	}
	if p.State != "" && !isGapped(p.State) {
		return nil, &eventsource.InvalidError{Problem: "the group's tokens are progress by spec.source.table.columns.transaction, which is not declared any more: put it back, or declare a group with another name"}
	}
	c, err := parseGapped(p)
	if err != nil {
		return nil, err
	}
	if len(c.set) == 0 {
		c.table = s.events.name() // nothing is nothing in any table
	}
	return c, s.own(c.table)
}

// isGapped reports whether a text is progress in a table without a column of transactions.
func isGapped(text string) bool {
	_, rest, _ := strings.Cut(text, " ")
	return strings.HasPrefix(" "+rest, gapsWord)
}
