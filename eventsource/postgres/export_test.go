package postgres

import "github.com/sluice-project/sluice/eventsource"

// ReadSQL is the statement of a page.
func (s *Source) ReadSQL() string { return s.readSQL }

// Steps of a coverage, or its ranges, which gaps divide.
func Steps(c eventsource.Coverage) int {
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
