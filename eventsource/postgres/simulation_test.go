package postgres

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/eventsource"
)

// simulation is a log without a server: transactions, positions and snapshots as PostgreSQL gives them out, and readers that use the
// code under test for everything but the execution of the statement.
type simulation struct {
	choose func(n int) int // a number from 0 to n-1

	nextXID, completed uint64
	running            []*transaction
	head               int64
	log                []row
	versions           map[string]int64 // committed
	writing            map[string]*transaction
	members            []*member
	readers            []*simulatedReader
	window             int64
	ordered            bool // positions are taken at the insert; else transactions may reserve them before

	late, splits, pages int // pages with an event below the coverage's position, with several steps, and all
}

type transaction struct {
	xid      uint64
	rows     []row
	reserved []int64
}

type row struct {
	eventsource.Event
}

// member has a coverage of its own, and what it was given.
type member struct {
	coverage  eventsource.Coverage
	half      int // 0 and 1 take the streams of their half, 2 takes all
	from      Snapshot
	latest    bool
	delivered map[int64]int
	versions  map[string]int64
}

// simulatedReader reads for some members at once; a page may lie while others write.
type simulatedReader struct {
	members []*member
	page    *eventsource.Page
}

func newSimulation(choose func(int) int) *simulation {
	s := &simulation{choose: choose, nextXID: 3, completed: 2, versions: map[string]int64{}, writing: map[string]*transaction{}}
	s.window = int64(1 + choose(60))
	s.ordered = choose(4) > 0
	return s
}

func (s *simulation) snapshot() Snapshot {
	snap := Snapshot{xmax: s.completed + 1}
	for _, t := range s.running {
		if t.xid != 0 && t.xid < snap.xmax {
			snap.xip = append(snap.xip, t.xid)
		}
	}
	slices.Sort(snap.xip)
	snap.xmin = snap.xmax
	if len(snap.xip) > 0 {
		snap.xmin = snap.xip[0]
	}
	return snap
}

func (s *simulation) write(t *transaction) {
	if t.xid == 0 {
		t.xid = s.nextXID
		s.nextXID++
	}
}

func (s *simulation) append(t *transaction, events int) {
	stream := fmt.Sprint("s", s.choose(6))
	if other := s.writing[stream]; other != nil && other != t {
		return // would wait for the other
	}
	s.write(t)
	s.writing[stream] = t
	version := s.versions[stream]
	for _, r := range t.rows {
		if r.StreamID == stream {
			version = r.Version
		}
	}
	for range events {
		version++
		var position int64
		if n := len(t.reserved); n > 0 {
			position, t.reserved = t.reserved[0], t.reserved[1:]
		} else {
			s.head++
			position = s.head
		}
		t.rows = append(t.rows, row{Event: eventsource.Event{Position: position, StreamID: stream, Version: version, Mark: t.xid}})
	}
}

func (s *simulation) end(i int, commit bool) {
	t := s.running[i]
	s.running = slices.Delete(s.running, i, i+1)
	if t.xid > s.completed {
		s.completed = t.xid
	}
	for _, r := range t.rows {
		if commit {
			s.versions[r.StreamID] = max(s.versions[r.StreamID], r.Version)
			s.log = append(s.log, r)
		}
		if s.writing[r.StreamID] == t {
			delete(s.writing, r.StreamID)
		}
	}
}

// read is what the statement does: the same three arms, the same limit.
func (s *simulation) read(from []*coverage, half, limit int) eventsource.Page {
	bands, tail := lacking(from)
	snapshot, windowEnd := s.snapshot(), tail+s.window
	var found []*eventsource.Event
	for _, r := range s.log { // all are visible in the snapshot
		if half != 2 && int(r.StreamID[1])%2 != half {
			continue
		}
		wanted := r.Position > tail && r.Position <= windowEnd
		for _, b := range bands {
			if r.Position > b.above && r.Position <= b.through {
				wanted = wanted || r.Mark >= b.snapshot.xmax || slices.Contains(b.snapshot.xip, r.Mark)
			}
		}
		if wanted {
			found = append(found, &r.Event)
		}
	}
	slices.SortFunc(found, func(a, b *eventsource.Event) int { return cmp.Compare(a.Position, b.Position) })
	found = found[:min(limit, len(found))]
	last := int64(0)
	if len(found) > 0 {
		last = found[len(found)-1].Position
	}
	r := reached(from, snapshot, len(found) == limit, last, windowEnd, s.head)
	return eventsource.Page{Events: found, More: r.more, After: r.after}
}

func (s *simulation) readFor(r *simulatedReader, limit int) {
	var from []*coverage
	half := r.members[0].half
	for _, m := range r.members {
		from = append(from, m.coverage.(*coverage))
		if m.half != half {
			half = 2
		}
	}
	page := s.read(from, half, limit)
	r.page = &page
	s.pages++
}

// apply gives each member of a reader its part of the page, up to a position of its own.
func (s *simulation) apply(r *simulatedReader, whole bool) error {
	for _, m := range r.members {
		cuts := 1
		if !whole {
			cuts = 1 + s.choose(2)
		}
		done := int64(0)
		for range cuts {
			upTo := int64(1 << 60)
			if n := len(r.page.Events); n > 0 && !whole && s.choose(2) == 0 {
				upTo = r.page.Events[s.choose(n)].Position
			}
			if upTo < done {
				continue
			}
			done = upTo
			if err := s.applyTo(m, r.page, upTo); err != nil {
				return err
			}
		}
	}
	r.page = nil
	return nil
}

func (s *simulation) applyTo(m *member, page *eventsource.Page, upTo int64) error {
	for _, e := range page.Events {
		if e.Position > upTo || m.half != 2 && int(e.StreamID[1])%2 != m.half || m.coverage.Covers(e) {
			continue
		}
		if e.Position < m.coverage.Position() {
			s.late++
		}
		if m.delivered[e.Position]++; m.delivered[e.Position] > 1 {
			return fmt.Errorf("position %d given %d times", e.Position, m.delivered[e.Position])
		}
		if s.ordered && e.Version <= m.versions[e.StreamID] {
			return fmt.Errorf("stream %s: version %d after %d", e.StreamID, e.Version, m.versions[e.StreamID])
		}
		m.versions[e.StreamID] = e.Version
	}
	m.coverage = page.After(m.coverage, &eventsource.Event{Position: upTo})
	c := m.coverage.(*coverage)
	if len(c.steps) > 1 {
		s.splits++
	}
	for i := 1; i < len(c.steps); i++ {
		if c.steps[i].through <= c.steps[i-1].through || !c.steps[i-1].snapshot.Contains(c.steps[i].snapshot) {
			return fmt.Errorf("not a staircase: %v", c.steps)
		}
	}
	// From the text it is the same.
	again, err := parseProgress(c.Progress())
	if err != nil {
		return err
	}
	if again.Progress() != c.Progress() {
		return fmt.Errorf("progress %v became %v", c.Progress(), again.Progress())
	}
	m.coverage = again
	return nil
}

func (s *simulation) join() {
	m := &member{coverage: &coverage{}, half: s.choose(3), latest: s.choose(2) == 0, delivered: map[int64]int{}, versions: map[string]int64{}}
	if m.latest {
		m.from = s.snapshot()
		m.coverage = (&coverage{}).with(step{s.head, m.from})
	}
	s.members = append(s.members, m)
	if len(s.readers) == 0 || s.choose(3) == 0 {
		s.readers = append(s.readers, &simulatedReader{})
	}
	s.enter(m)
}

func (s *simulation) enter(m *member) {
	r := s.readers[s.choose(len(s.readers))]
	r.members = append(r.members, m)
	r.page = nil // it was read without the new member
}

// move lets a member leave its reader and join another.
func (s *simulation) move() {
	r := s.readers[s.choose(len(s.readers))]
	if len(r.members) == 0 {
		return
	}
	i := s.choose(len(r.members))
	m := r.members[i]
	r.members = slices.Delete(r.members, i, i+1)
	s.enter(m)
}

func (s *simulation) step() error {
	switch n := s.choose(20); {
	case n < 3 && len(s.running) < 6:
		s.running = append(s.running, &transaction{})
	case n < 10 && len(s.running) > 0:
		t := s.running[s.choose(len(s.running))]
		switch k := s.choose(8); {
		case k == 0:
			s.write(t)
		case k == 1 && !s.ordered:
			for range 1 + s.choose(4) {
				s.head++
				t.reserved = append(t.reserved, s.head)
			}
		case k == 2:
			s.append(t, 1+s.choose(25))
		default:
			s.append(t, 1+s.choose(3))
		}
	case n < 13 && len(s.running) > 0:
		s.end(s.choose(len(s.running)), s.choose(5) > 0)
	case n == 13 && len(s.members) < 5 || len(s.members) == 0:
		s.join()
	case n == 14:
		s.move()
	default:
		r := s.readers[s.choose(len(s.readers))]
		if r.page != nil {
			return s.apply(r, s.choose(2) == 0)
		}
		if len(r.members) > 0 {
			s.readFor(r, 1+s.choose(8))
		}
	}
	return nil
}

// finish ends all transactions, lets everybody read to the end, and compares.
func (s *simulation) finish() error {
	for len(s.running) > 0 {
		s.end(s.choose(len(s.running)), s.choose(5) > 0)
	}
	for _, r := range s.readers {
		for i := 0; len(r.members) > 0; i++ {
			if i > 10_000 {
				return fmt.Errorf("a reader does not come to an end")
			}
			s.readFor(r, 7)
			more := r.page.More
			if err := s.apply(r, true); err != nil {
				return err
			}
			if !more {
				break
			}
		}
	}
	for _, m := range s.members {
		for _, r := range s.log {
			want := 1
			if m.half != 2 && int(r.StreamID[1])%2 != m.half || m.latest && m.from.Visible(r.Mark) {
				want = 0
			}
			if got := m.delivered[r.Position]; got != want {
				return fmt.Errorf("position %d of transaction %d given %d times, want %d", r.Position, r.Mark, got, want)
			}
		}
	}
	return nil
}

func (s *simulation) run(steps int) error {
	for range steps {
		if err := s.step(); err != nil {
			return err
		}
	}
	return s.finish()
}

// Small cases, which shrink to a readable one when something is wrong.
func TestEveryEventIsGivenOnceToEveryMember(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulation(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "choice") })
		if err := s.run(rapid.IntRange(20, 200).Draw(t, "steps")); err != nil {
			t.Fatal(err)
		}
	})
}

// Many cases.
func TestEveryEventIsGivenOnceToEveryMemberInAMillionSteps(t *testing.T) {
	seed := rand.Uint64()
	var late, splits, pages, events int
	const steps = 400
	for i := range uint64(2_500) {
		random := rand.New(rand.NewPCG(seed, i))
		s := newSimulation(random.IntN)
		if err := s.run(steps); err != nil {
			t.Fatalf("case %d of seed %d: %v", i, seed, err)
		}
		late, splits, pages, events = late+s.late, splits+s.splits, pages+s.pages, events+len(s.log)
	}
	t.Logf("%d steps, %d events, %d pages, %d late events, %d coverages of several steps", 2_500*steps, events, pages, late, splits)
	if late < 10_000 || splits < 10_000 {
		t.Error("too few late events or coverages of several steps: this test says nothing")
	}
}
