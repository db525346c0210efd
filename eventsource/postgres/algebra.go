package postgres

import (
	"slices"

	"github.com/sluice-project/sluice/tokenstore"
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
	m := &coverage{}
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
	cut := &coverage{}
	for _, s := range c.steps {
		cut = cut.with(step{min(s.through, through), s.snapshot})
	}
	return cut
}

// Union implements tokenstore.Notation.
func (s *Source) Union(a, b tokenstore.Progress) (tokenstore.Progress, error) {
	return combine(a, b, (*coverage).union)
}

// Meet implements tokenstore.Notation.
func (s *Source) Meet(a, b tokenstore.Progress) (tokenstore.Progress, error) {
	return combine(a, b, (*coverage).meet)
}

// Contains implements tokenstore.Notation.
func (s *Source) Contains(a, b tokenstore.Progress) (bool, error) {
	x, err := parseProgress(a)
	if err != nil {
		return false, err
	}
	y, err := parseProgress(b)
	if err != nil {
		return false, err
	}
	return x.contains(y), nil
}

func combine(a, b tokenstore.Progress, with func(x, y *coverage) *coverage) (tokenstore.Progress, error) {
	x, err := parseProgress(a)
	if err != nil {
		return tokenstore.Progress{}, err
	}
	y, err := parseProgress(b)
	if err != nil {
		return tokenstore.Progress{}, err
	}
	return with(x, y).Progress(), nil
}
