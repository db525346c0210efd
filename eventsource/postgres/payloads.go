package postgres

import "sync/atomic"

// payloads says whether pages are read with all that there is of events. A source without one always reads that.
type payloads struct {
	needed  atomic.Bool
	without string // the statement that reads pages with less
}

// WithoutPayloads returns the source for whoever needs to know of events no more than their positions, streams, types and times, as where statements in the
// database look events up by their positions: data, metadata, version and id are empty, and nobody prints, sends and keeps them. [Source.NeedPayloads] changes that.
func (s *Source) WithoutPayloads() *Source {
	bare := *s
	bare.payloads = &payloads{without: s.events.withoutContents().in(s.events.page())}
	return &bare
}

// NeedPayloads has all reads that begin from now on return all that there is of events.
func (s *Source) NeedPayloads() {
	if s.payloads != nil {
		s.payloads.needed.Store(true)
	}
}

// pageSQL is the statement that reads a page.
func (s *Source) pageSQL() string {
	if s.payloads != nil && !s.payloads.needed.Load() {
		return s.payloads.without
	}
	return s.readSQL
}
