package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// Separate is a Source in another database than the store. Tokens and events do not come from one
// backup, so each progress says which database it is progress in, and has a witness: an event that
// was there. Reading goes on from a progress only where both are still so.
//
// What must always hold beyond what Source says:
//
//   - A page is given out when all that it shows is on the disk of its server.
//   - Coverages of one database are never used in another one.
//   - Before the first page from a stored progress is read, its witness was found, and the server's
//     tables were as they have to be. The page, and every later one, comes from the same start of
//     that server.
//   - No coverage goes beyond the position of its witness.
type Separate struct {
	*Source
	checked *atomic.Pointer[origin] // the server that was found to be as it has to be; shared by copies
}

var (
	_ eventsource.Source    = (*Separate)(nil)
	_ eventsource.Checker   = (*Separate)(nil)
	_ eventsource.Diagnoser = (*Separate)(nil)
)

// OpenSeparate returns the source that a definition declares in a database other than the store's.
// The schema is that of Sluice's own table there. It asks the server for nothing yet.
func OpenSeparate(db DB, schema string, source definition.Source) *Separate {
	s := Open(db, schema, source)
	s.separate()
	return &Separate{s, &atomic.Pointer[origin]{}}
}

// separate has each page tell where it comes from.
func (s *Source) separate() {
	s.events.separate = true
	if s.events.table == nil { // the highest position that is visible, as of other tables: its event is the witness
		s.events.head = s.events.in("SELECT coalesce(max({{position}}), 0)::bigint FROM {{table}}")
	}
	if s.events.table == nil {
		s.watch.known = &known{statements: s.events.statements()}
	}
}

// Through is [Source.Through].
func (s *Separate) Through(db DB) *Separate { return &Separate{s.Source.Through(db), s.checked} }

// WithPageBytes is [Source.WithPageBytes].
func (s *Separate) WithPageBytes(bytes int64) *Separate {
	return &Separate{s.Source.WithPageBytes(bytes), s.checked}
}

// WithoutContents is [Source.WithoutContents].
func (s *Separate) WithoutContents() *Separate {
	return &Separate{s.Source.WithoutContents(), s.checked}
}

// Check implements eventsource.Checker. Reads check by themselves.
func (s *Separate) Check(ctx context.Context) error {
	if s.events.table == nil {
		return ofSource(s.Source.Check(ctx))
	}
	if _, err := s.whereNow(ctx); err != nil {
		return ofSource(err)
	}
	var encoding string
	if err := s.db.QueryRow(ctx, "SELECT current_setting('server_encoding')").Scan(&encoding); err != nil {
		return ofSource(fmt.Errorf("checking the event table: %w", err))
	}
	if err := checkEncoding(encoding); err != nil {
		return err
	}
	return ofSource(s.checkTable(ctx))
}

// ofSource has an error say which of the two databases it is of. Those that are about spec.source
// say so themselves.
func ofSource(err error) error {
	if err == nil {
		return nil
	}
	_, invalid := errors.AsType[*eventsource.InvalidError](err)
	_, changed := errors.AsType[*eventsource.ChangedError](err)
	_, place := errors.AsType[*eventsource.StartPositionError](err)
	_, said := errors.AsType[*eventsource.DatabaseError](err)
	if invalid || changed || place || said {
		return err
	}
	return &eventsource.DatabaseError{Err: err}
}

// separateCoverage is a coverage in a database.
type separateCoverage struct {
	eventsource.Coverage
	database string // empty as long as nothing has been given
	witness  witness
	server   string // where the witness was found; empty until somebody has looked
}

// Progress implements eventsource.Coverage.
func (c *separateCoverage) Progress() progress.Progress {
	return placed{c.Coverage.Progress(), c.database, c.witness}.progress()
}

// Parse implements eventsource.Source.
func (s *Separate) Parse(p progress.Progress) (eventsource.Coverage, error) {
	at, err := parsePlaced(p)
	if err != nil {
		return nil, err
	}
	inner, err := s.Source.Parse(at.inner)
	if err != nil {
		return nil, err
	}
	return &separateCoverage{Coverage: inner, database: at.database, witness: at.witness}, nil
}

// Read implements eventsource.Source.
func (s *Separate) Read(ctx context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (eventsource.Page, error) {
	page, err := s.read(ctx, from, segments, limit)
	if err != nil {
		return eventsource.Page{}, ofSource(fmt.Errorf("reading events: %w", err))
	}
	return page, nil
}

func (s *Separate) read(ctx context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (eventsource.Page, error) {
	if len(from) == 0 || limit < 1 {
		return eventsource.Page{}, fmt.Errorf("%d coverages and limit %d: both have to be at least 1", len(from), limit)
	}
	own, inner := make([]*separateCoverage, len(from)), make([]eventsource.Coverage, len(from))
	for i, c := range from {
		var ok bool
		if own[i], ok = c.(*separateCoverage); !ok {
			return eventsource.Page{}, fmt.Errorf("a coverage of type %T is of another source", c)
		}
		inner[i] = own[i].Coverage
	}
	if err := s.prepare(ctx, own); err != nil {
		return eventsource.Page{}, err
	}
	page, origin, err := s.readFrom(ctx, inner, segments, limit)
	if err != nil {
		return eventsource.Page{}, err
	}
	if err := s.vouchFor(ctx, own, origin); err != nil {
		return eventsource.Page{}, err
	}
	k, err := s.lookAtTable(ctx)
	if err != nil {
		return eventsource.Page{}, err
	}
	// What a page says of positions beyond its events rests on the newest event that it sees, or on
	// what other coverages say.
	beyond := origin.newest
	for _, c := range own {
		beyond = later(beyond, c.witness)
	}
	given, after := k.mapping.newestOf(page.Events), page.After
	page.After = func(c eventsource.Coverage, last *eventsource.Event) eventsource.Coverage {
		before := c.(*separateCoverage)
		next := &separateCoverage{Coverage: after(before.Coverage, last), database: origin.database, witness: given, server: origin.server}
		if last != nil {
			next.witness = k.mapping.newestOf([]*eventsource.Event{last})
		}
		if next.witness = later(next.witness, before.witness); next.witness.position < next.Position() {
			next.witness = beyond
		}
		return next
	}
	return page, nil
}

// later is the witness with the higher position.
func later(a, b witness) witness {
	if b.position > a.position {
		return b
	}
	return a
}

// prepare looks for the witnesses of coverages from stored progress, before the first page from
// there, and whether the server is as it has to be. Both hold for as long as the server runs.
func (s *Separate) prepare(ctx context.Context, from []*separateCoverage) error {
	var stored []*separateCoverage
	for _, c := range from {
		if c.server == "" {
			stored = append(stored, c)
		}
	}
	if len(stored) == 0 {
		return nil
	}
	at, err := s.findWitnesses(ctx, stored)
	if err != nil {
		return err
	}
	if s.isChecked(at) {
		return nil
	}
	if err := s.Check(ctx); err != nil {
		return err
	}
	s.checked.Store(&at)
	return nil
}

// isChecked reports whether the server was looked at since it was started.
func (s *Separate) isChecked(at origin) bool {
	known := s.checked.Load()
	return known != nil && known.server == at.server && known.database == at.database
}

// vouchFor returns an error unless the coverages may be added to by a page from there.
func (s *Separate) vouchFor(ctx context.Context, from []*separateCoverage, at origin) error {
	for _, c := range from {
		switch {
		case c.database != "" && c.database != at.database:
			return replaced(at.database, c.database)
		case c.server != "" && c.server != at.server:
			return ErrServerRestarted
		}
	}
	if !s.isChecked(at) { // it is not where the witnesses were found
		return ErrServerRestarted
	}
	return s.untilDurable(ctx, at)
}

// replaced says that progress is in another database.
func replaced(found, belongs string) error {
	return &eventsource.InvalidError{Problem: fmt.Sprintf("postgres: the events come from %s, and the group's tokens are progress in %s, where the same positions are other events: "+
		"connect to that database again, or declare a group with another name", describedDatabase(found), describedDatabase(belongs))}
}

func describedDatabase(database string) string {
	server, number, _ := strings.Cut(database, "/")
	return fmt.Sprintf("the database with the OID %s on the server with the system identifier %s", number, server)
}

// Start implements eventsource.Source.
func (s *Separate) Start(ctx context.Context, at progress.StartPosition) (progress.Progress, error) {
	p, err := s.start(ctx, at)
	return p, ofSource(err)
}

func (s *Separate) start(ctx context.Context, at progress.StartPosition) (progress.Progress, error) {
	before, err := s.whereNow(ctx)
	if err != nil {
		return progress.Progress{}, err
	}
	inner, err := s.Source.Start(ctx, at)
	if err != nil || inner == (progress.Progress{}) { // nothing is nothing in any database
		return inner, err
	}
	newest, err := s.newestNow(ctx)
	if err != nil {
		return progress.Progress{}, err
	}
	if s.gaps != nil { // positions that nobody can fill may be above
		c, err := s.parseGapped(inner)
		if err != nil {
			return progress.Progress{}, err
		}
		inner = c.upTo(newest.position).Progress()
	}
	after, err := s.whereNow(ctx)
	if err != nil {
		return progress.Progress{}, err
	}
	if before.server != after.server || before.database != after.database {
		return progress.Progress{}, ErrServerRestarted
	}
	if err := s.untilDurable(ctx, after); err != nil {
		return progress.Progress{}, err
	}
	return placed{inner, after.database, newest}.progress(), nil
}

// Head implements eventsource.Source.
func (s *Separate) Head(ctx context.Context) (eventsource.Coverage, error) {
	head, err := s.Source.Head(ctx)
	if err != nil {
		return nil, ofSource(err)
	}
	return &separateCoverage{Coverage: head}, nil
}

// Union implements progress.Algebra.
func (s *Separate) Union(a, b progress.Progress) (progress.Progress, error) {
	return s.combine(a, b, s.Source.Union, later)
}

// Intersect implements progress.Algebra.
func (s *Separate) Intersect(a, b progress.Progress) (progress.Progress, error) {
	return s.combine(a, b, s.Source.Intersect, func(a, b witness) witness {
		if later(a, b) == a {
			return b
		}
		return a
	})
}

// Contains implements progress.Algebra.
func (s *Separate) Contains(a, b progress.Progress) (bool, error) {
	x, y, err := parseBoth(a, b)
	if err != nil {
		return false, err
	}
	return s.Source.Contains(x.inner, y.inner)
}

// Distance implements eventsource.Coverage.
func (c *separateCoverage) Distance(to eventsource.Coverage) int64 {
	return c.Coverage.Distance(to.(*separateCoverage).Coverage)
}

// Distance implements progress.Algebra.
func (s *Separate) Distance(from, to progress.Progress) (int64, error) {
	x, y, err := parseBoth(from, to)
	if err != nil {
		return 0, err
	}
	return s.Source.Distance(x.inner, y.inner)
}

func (s *Separate) combine(a, b progress.Progress, with func(a, b progress.Progress) (progress.Progress, error), witnesses func(a, b witness) witness) (progress.Progress, error) {
	x, y, err := parseBoth(a, b)
	if err != nil {
		return progress.Progress{}, err
	}
	inner, err := with(x.inner, y.inner)
	if err != nil {
		return progress.Progress{}, err
	}
	return placed{inner, cmp.Or(x.database, y.database), witnesses(x.witness, y.witness)}.progress(), nil
}

func parseBoth(a, b progress.Progress) (x, y placed, err error) {
	if x, err = parsePlaced(a); err != nil {
		return x, y, err
	}
	if y, err = parsePlaced(b); err != nil {
		return x, y, err
	}
	if x.database != "" && y.database != "" && x.database != y.database {
		return x, y, replaced(x.database, y.database)
	}
	return x, y, nil
}

// placed is progress in a database.
type placed struct {
	inner    progress.Progress
	database string
	witness  witness
}

// Progress in a separate source is written as "@", the database, a blank, the witness if there is
// one and a blank, "|" and the progress as it would be in the store's database.
const placedMark = "@"

func (p placed) progress() progress.Progress {
	if p.inner == (progress.Progress{}) {
		return p.inner
	}
	var text strings.Builder
	text.WriteString(placedMark)
	text.WriteString(p.database)
	text.WriteByte(' ')
	if p.witness != (witness{}) {
		text.WriteString(p.witness.String())
		text.WriteByte(' ')
	}
	text.WriteByte('|')
	text.WriteString(p.inner.State)
	return progress.Progress{Position: p.inner.Position, State: text.String()}
}

// isPlaced reports whether progress is in a separate source.
func isPlaced(state string) bool { return strings.HasPrefix(state, placedMark) }

// errPlaced says that tokens are progress in a separate source, and the source is not.
var errPlaced = &eventsource.InvalidError{Problem: "the group's tokens are progress in the database that spec.source.postgres named, where the same positions are other events: put it back, or declare a group with another name"}

// parsePlaced reads what progress writes, and nothing else.
func parsePlaced(p progress.Progress) (placed, error) {
	if p == (progress.Progress{}) {
		return placed{}, nil
	}
	if !isPlaced(p.State) {
		return placed{}, &eventsource.InvalidError{Problem: "postgres: the group's tokens are progress in the store's database, where the same positions are other events: take postgres out again, or declare a group with another name"}
	}
	where, inner, _ := strings.Cut(p.State[len(placedMark):], "|")
	database, rest, _ := strings.Cut(where, " ")
	at := placed{inner: progress.Progress{Position: p.Position, State: inner}, database: database}
	if text, has := strings.CutSuffix(rest, " "); has {
		var err error
		if at.witness, err = parseWitness(text); err != nil {
			return placed{}, fmt.Errorf("progress %q: %w", p.State, err)
		}
	}
	if at.progress() != p {
		return placed{}, fmt.Errorf("progress at position %d: %q is not written as it would be", p.Position, p.State)
	}
	return at, nil
}
