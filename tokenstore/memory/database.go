// Package memory keeps tokens and workers in memory: for tests that need millions of runs, and as the model that the PostgreSQL
// stores are compared with, step by step. It has the same claims, epochs, versions, leases and session locks, and passes the same
// conformance suite (tokenstoretest); what operations make of tokens is package protocol, which the others use too.
//
// A Database is one database: its Store, its Directory and the rows of projections change together, in transactions which run
// one after the other. Nothing outlives the process.
package memory

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Database is the state that a Store and a Directory share.
type Database struct {
	now func() time.Time

	mu           sync.Mutex
	rows         map[string]string // of projections
	groups       map[string]*group
	failures     map[tokenstore.Key]tokenstore.Failure
	ledger       []*entry
	lastReplay   int64 // number that was given to a replay last: none is given again
	processors   map[string]*processor
	workers      map[int64]*workerRow
	sessions     map[int64]*Session // that are open, by incarnation
	last         int64              // incarnation given last
	coordination coordination
	observer     observer
}

// New returns an empty database. now is its clock, which alone judges leases.
func New(now func() time.Time) *Database {
	return &Database{now: now, rows: map[string]string{}, groups: map[string]*group{}, failures: map[tokenstore.Key]tokenstore.Failure{},
		processors: map[string]*processor{}, workers: map[int64]*workerRow{}, sessions: map[int64]*Session{}, coordination: newCoordination()}
}

// Rows returns a copy of what transactions have written.
func (d *Database) Rows() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.rows)
}

// group is a processing group with its tokens.
type group struct {
	tokenstore.Group
	owner      tokenstore.Owner
	retired    bool
	resetting  bool
	least      int64 // the oldest definition that may claim
	floor      int64 // tokens made anew start above it
	replay     int64 // number of the one that is resetting or running
	boundaries []tokenstore.Boundary
	tokens     map[uint32]tokenstore.Token
}

// of returns the group as another owner, or the same one, has it. What the former owner's workers
// are writing is fenced.
func (g *group) of(owner tokenstore.Owner) *group {
	next := *g
	next.owner, next.retired = owner, false
	if owner.Processor != g.owner.Processor {
		next.least = 0 // numbers of definitions are a processor's own
	}
	if !owner.Has(g.owner) {
		next.tokens = map[uint32]tokenstore.Token{}
		for _, t := range g.tokens {
			t.Epoch, t.Version, t.Owner = t.Epoch+1, t.Version+1, 0
			next.put(t)
		}
	}
	return &next
}

// find returns the token of a segment that the group has as such.
func (g *group) find(s segment.Segment) (tokenstore.Token, bool) {
	t, there := g.tokens[s.ID]
	return t, there && t.Mask == s.Mask
}

// put keeps a token; its parts stay the caller's.
func (g *group) put(t tokenstore.Token) {
	t.Parts = slices.Clone(t.Parts)
	g.tokens[t.Segment] = t
}
