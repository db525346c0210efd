package postgres

import "github.com/sluice-project/sluice/eventsource"

// ReadSQL is the statement of a page.
func (s *Source) ReadSQL() string { return s.readSQL }

// Steps of a coverage.
func Steps(c eventsource.Coverage) int { return len(c.(*coverage).steps) }

// WithWindow makes reads look at fewer positions at once.
func (s *Source) WithWindow(positions int64) *Source {
	t := *s
	t.window = positions
	return &t
}
