package postgres

import "sync/atomic"

// contents says whether pages are read with all that there is of events. A source without one always reads that.
type contents struct{ needed atomic.Bool }

// WithoutContents returns the source for whoever needs to know of events no more than their positions, streams, types and times, as where statements in the
// database look events up by their positions: data, metadata, version and id are empty, and nobody prints, sends and keeps them. [Source.NeedContents] changes that.
func (s *Source) WithoutContents() *Source {
	bare := *s
	bare.contents = &contents{}
	return &bare
}

// NeedContents has all reads that begin from now on return all that there is of events.
func (s *Source) NeedContents() {
	if s.contents != nil {
		s.contents.needed.Store(true)
	}
}

// pageSQL is the statement that reads a page.
func (s *Source) pageSQL(k *known) string {
	if s.bare() {
		return k.bare
	}
	return k.page
}

// bare reports whether pages have no contents.
func (s *Source) bare() bool { return s.contents != nil && !s.contents.needed.Load() }
