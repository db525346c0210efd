package postgres

import "sync/atomic"

// payloads says whether pages are read with the events' data and metadata. A source without one always reads them.
type payloads struct {
	needed  atomic.Bool
	without string // the statement that reads pages without them
}

// WithoutPayloads returns the source for whoever needs no data and no metadata of events, as where statements in the database look events up by
// their positions: they are empty, and nobody prints, sends and keeps them. [Source.NeedPayloads] changes that.
func (s *Source) WithoutPayloads() *Source {
	bare := *s
	bare.payloads = &payloads{without: s.events.withoutPayloads().in(s.events.page())}
	return &bare
}

// NeedPayloads has all reads that begin from now on return data and metadata.
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
