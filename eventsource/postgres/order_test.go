package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// Nothing is lost, nothing is given twice, and streams stay in order: to readers of all sorts, while writers of all sorts write.
func TestReadersGetEveryEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	for name, make := range subjects {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time somebody holds a transaction open
			readersGetEveryEvent(t, make(t))
		})
	}
}

func readersGetEveryEvent(t *testing.T, on *subject) {
	source := on.reads()
	w := &writers{t: t, on: on}
	quarters, eighths := layout(t, 4), layout(t, 8)

	var done atomic.Bool
	var groups []*readerGroup
	add := func(name string, limit int, restarts bool, segments ...segment.Segment) {
		groups = append(groups, newReaderGroup(t, name, source, &done, limit, restarts, segments))
	}
	add("all, pages of 7", 7, false, segment.Root)
	add("all, pages of 300, restarts", 300, true, segment.Root)
	for i, s := range quarters {
		add("a quarter", 20, i%2 == 0, s)
	}
	add("shared by eight", 50, true, eighths...)
	groups = append(groups, newReaderGroup(t, "all, narrow window", on.narrow(500), &done, 100, false, []segment.Segment{segment.Root}))

	var wg sync.WaitGroup
	for _, g := range groups {
		g.waits = on.waits
		wg.Go(func() {
			if err := g.run(); err != nil {
				t.Errorf("%s: %v", g.name, err)
			}
		})
	}
	early := func() bool { return !on.early || inversions(committed(t, on)) >= leastInversions }
	for rounds := 0; rounds < 8 && (!w.enough() || !enoughRead(groups) || !early()); rounds++ { // a busy machine takes longer
		w.run(14, max(on.during, longRun()))
	}
	if on.written != nil {
		on.written()
	}
	done.Store(true)
	wg.Wait()

	truth := committed(t, on)
	if n := inversions(truth); on.early && n < leastInversions {
		t.Errorf("%d times a stream's event has a lower position than the one before: this run says nothing", n)
	}
	t.Logf("%d events; %d commits, %d rollbacks, %d savepoints, %d in two phases, %d imports, %d copied, %d deadlocks, %d died", len(truth),
		w.committed.Load(), w.rolledBack.Load(), w.savepoints.Load(), w.prepared.Load(), w.bulk.Load(), w.copied.Load(), w.deadlocks.Load(), w.died.Load())
	for _, g := range groups {
		for _, m := range g.members {
			lost, twice, invented, disordered := m.compare(truth)
			t.Logf("%-28s %5s: %6d given in %5d pages, %5d late, %4d times several steps, %3d restarts; lost %d, twice %d, out of order %d, never committed %d",
				g.name, m.segment, len(m.given), g.pages, m.late.Load(), m.stairs.Load(), g.restarts, lost, twice, disordered, invented)
			if on.unordered {
				disordered = 0
			}
			if lost+twice+invented+disordered > 0 {
				t.Errorf("%s: segment %s went wrong", g.name, m.segment)
			}
		}
	}
	late, stairs := found(groups)
	for what, n := range map[string]int{"events": len(truth) / leastEvents, "late events": int(late), "coverages of several steps": int(stairs), "rollbacks": int(w.rolledBack.Load()),
		"savepoints": int(w.savepoints.Load()), "two-phase commits": int(w.prepared.Load()), "imports": int(w.bulk.Load()), "copies": int(w.copied.Load()), "writers that die": int(w.died.Load())} {
		if n == 0 {
			t.Errorf("too few %s: this run says nothing", what)
		}
	}
}

// longRun is for how long is written where that is asked for, as each night, and 0 otherwise.
func longRun() time.Duration {
	d, err := time.ParseDuration(os.Getenv("SLUICE_ORDER_DURATION"))
	if err != nil {
		return 0
	}
	return d
}

// leastEvents is how many a run has to have, to say anything.
const leastEvents = 3000

// leastInversions is how many events have to have a lower position than the one before them, where positions are taken early.
const leastInversions = 20

// enough reports whether the writers have done what a run is for.
func (w *writers) enough() bool {
	w.t.Helper()
	for _, n := range []int64{w.died.Load(), w.rolledBack.Load(), w.savepoints.Load(), w.prepared.Load(), w.bulk.Load(), w.copied.Load()} {
		if n == 0 {
			return false
		}
	}
	if w.on.enough != nil && !w.on.enough() {
		return false
	}
	truth := committed(w.t, w.on)
	return len(truth) >= leastEvents && (!w.on.early || inversions(truth) >= leastInversions)
}

// enoughRead reports whether the readers have met what a run is for.
func enoughRead(groups []*readerGroup) bool {
	late, stairs := found(groups)
	return late > 0 && stairs > 0
}

// found counts the events that were late for some reader, and the coverages of several steps.
func found(groups []*readerGroup) (late, stairs int64) {
	for _, g := range groups {
		for _, m := range g.members {
			late, stairs = late+m.late.Load(), stairs+m.stairs.Load()
		}
	}
	return late, stairs
}

func layout(t testing.TB, n int) []segment.Segment {
	t.Helper()
	segments, err := segment.Layout(n)
	if err != nil {
		t.Fatal(err)
	}
	return segments
}

// place of an event in its stream.
type place struct {
	stream  string
	version int64
}

func committed(t testing.TB, on *subject) map[int64]place {
	t.Helper()
	rows, err := on.db.Query(context.WithoutCancel(t.Context()), on.truth)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[int64]place{}
	for rows.Next() {
		var position int64
		var p place
		if err := rows.Scan(&position, &p.stream, &p.version); err != nil {
			t.Fatal(err)
		}
		all[position] = p
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return all
}

// inversions is how many events have a lower position than the one before them in their stream.
func inversions(truth map[int64]place) (count int) {
	at := map[place]int64{}
	for position, p := range truth {
		at[p] = position
	}
	for p, position := range at {
		if position < at[place{p.stream, p.version - 1}] {
			count++
		}
	}
	return count
}

// readerGroup reads for several members at once, each time for some of them: they join and leave.
type readerGroup struct {
	name     string
	source   eventsource.Source
	done     *atomic.Bool // the writers have ended
	limit    int
	random   *rand.Rand
	members  []*segmentReader
	crashes  bool
	pages    int
	restarts int
	waits    func(error) bool // whether an error of a read passes
}

// segmentReader is a member with its own progress.
type segmentReader struct {
	segment  segment.Segment
	stored   progress.Progress
	coverage eventsource.Coverage
	given    []*eventsource.Event
	late     atomic.Int64 // events below the coverage's position
	stairs   atomic.Int64 // coverages of several steps
}

func newReaderGroup(t testing.TB, name string, source eventsource.Source, done *atomic.Bool, limit int, crashes bool, segments []segment.Segment) *readerGroup {
	g := &readerGroup{name: name, source: source, done: done, limit: limit, crashes: crashes, random: rand.New(rand.NewPCG(uint64(limit), rand.Uint64()))}
	for _, s := range segments {
		start, err := source.Start(t.Context(), progress.StartPosition{Type: progress.Earliest})
		if err != nil {
			t.Fatal(err)
		}
		m := &segmentReader{segment: s, stored: start}
		if err := m.restart(source); err != nil {
			t.Fatal(err)
		}
		g.members = append(g.members, m)
	}
	return g
}

func (m *segmentReader) restart(source eventsource.Source) (err error) {
	m.coverage, err = source.Parse(m.stored)
	return err
}

func (g *readerGroup) run() error {
	last := false
	for {
		if !last && g.done.Load() {
			last = true
			for _, m := range g.members { // whoever begins anew looks at all gaps at once; else they are looked at ever more rarely
				if err := m.restart(g.source); err != nil {
					return err
				}
			}
		}
		members := g.some()
		if last {
			members = g.members
		}
		page, err := g.read(members)
		if err != nil && g.waits != nil && g.waits(err) {
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		if g.crashes && !last && g.random.IntN(30) == 0 { // after the read, before anything was stored
			g.restarts++
			for _, m := range members {
				if err := m.restart(g.source); err != nil {
					return err
				}
			}
			continue
		}
		for _, m := range members {
			m.take(page, g.random, last)
		}
		if last && !page.More {
			return nil
		}
		if len(page.Events) == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// some of the members, at least one.
func (g *readerGroup) some() []*segmentReader {
	some := slices.Clone(g.members)
	g.random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some[:1+g.random.IntN(len(some))]
}

func (g *readerGroup) read(members []*segmentReader) (eventsource.Page, error) {
	g.pages++
	var from []eventsource.Coverage
	var segments []segment.Segment
	for _, m := range members {
		from, segments = append(from, m.coverage), append(segments, m.segment)
	}
	return g.source.Read(context.Background(), from, segments, g.limit)
}

// take gives the member its share of the page: all of it, or at times only what stands up to some event.
func (m *segmentReader) take(page eventsource.Page, random *rand.Rand, whole bool) {
	n := len(page.Events)
	if n > 0 && !whole && random.IntN(4) == 0 {
		n = 1 + random.IntN(n)
	}
	var last *eventsource.Event
	for _, e := range page.Events[:n] {
		last = e
		if !m.segment.Contains(e.Hash) || m.coverage.Covers(e) {
			continue
		}
		if e.Position < m.coverage.Position() {
			m.late.Add(1)
		}
		m.given = append(m.given, e)
	}
	m.coverage = page.After(m.coverage, last)
	m.stored = m.coverage.Progress()
	if postgres.Steps(m.coverage) > 1 {
		m.stairs.Add(1)
	}
}

// compare says how often what was given differs from what was committed.
func (m *segmentReader) compare(truth map[int64]place) (lost, twice, invented, disordered int) {
	times := map[int64]int{}
	last := map[string]int64{}
	for _, e := range m.given {
		times[e.Position]++
		if truth[e.Position] != (place{e.StreamID, e.Version}) {
			invented++
		}
		if e.Version != last[e.StreamID]+1 {
			disordered++
		}
		last[e.StreamID] = e.Version
	}
	for position, p := range truth {
		if !m.segment.Contains(segment.PG1(p.stream)) {
			continue
		}
		switch n := times[position]; {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	return lost, twice, invented, disordered
}

// A writer that ends with 50,000 late rows is drained in pages of 500, while others write.
func TestALargeLateWriterIsDrainedInPages(t *testing.T) {
	for _, name := range []string{"own table", "outbox"} {
		t.Run(name, func(t *testing.T) { aLargeLateWriterIsDrained(t, subjects[name](t)) })
	}
}

func aLargeLateWriterIsDrained(t *testing.T, on *subject) {
	db, source := on.db, on.reads()
	append := func(i int) {
		if err := on.append(t.Context(), fmt.Sprint("s", i%20), 1); err != nil {
			t.Error(err)
		}
	}
	append(0)
	late, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Rollback(context.WithoutCancel(t.Context()))
	// Half of the rows before others', half behind.
	for i := range 2 {
		if _, err := late.Exec(t.Context(), on.insert+`
			SELECT 'late-' || n % 100, $1 + 1 + (n - 1) / 100, 'Imported', '{}' FROM generate_series(1, 25000) n`, i*250); err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			append(i)
		}
	}
	var done atomic.Bool
	groups := []*readerGroup{
		newReaderGroup(t, "all", source, &done, 500, false, []segment.Segment{segment.Root}),
		newReaderGroup(t, "eighth", source, &done, 500, false, layout(t, 8)[3:4]),
	}
	for _, g := range groups { // reaches the head, above all late rows
		page, err := g.read(g.members)
		if err != nil {
			t.Fatal(err)
		}
		g.members[0].take(page, g.random, true)
		if p := g.members[0].coverage.Position(); p < 50_000 {
			t.Fatalf("%s is at %d only", g.name, p)
		}
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var writer, readers sync.WaitGroup
	writer.Go(func() {
		for i := 0; !done.Load(); i++ {
			append(i)
		}
	})
	start := time.Now()
	for _, g := range groups {
		readers.Go(func() {
			for page := (eventsource.Page{More: true}); page.More; {
				var err error
				if page, err = g.read(g.members); err != nil {
					t.Error(err)
					return
				}
				g.members[0].take(page, g.random, true)
			}
		})
	}
	readers.Wait()
	elapsed := time.Since(start)
	done.Store(true)
	writer.Wait()
	for _, g := range groups { // what was written since
		if err := g.run(); err != nil {
			t.Fatal(err)
		}
	}
	truth := committed(t, on)
	for _, g := range groups {
		m := g.members[0]
		lost, twice, invented, disordered := m.compare(truth)
		t.Logf("%s: %d of %d events in %d pages within %v, %d late, %d times several steps; lost %d, twice %d, out of order %d, never committed %d",
			g.name, len(m.given), len(truth), g.pages, elapsed.Round(time.Millisecond), m.late.Load(), m.stairs.Load(), lost, twice, disordered, invented)
		if lost+twice+invented+disordered > 0 {
			t.Errorf("%s went wrong", g.name)
		}
	}
	if groups[0].members[0].stairs.Load() < 90 || groups[0].members[0].late.Load() < 50_000 {
		t.Error("the late rows were not drained in pages: this run says nothing")
	}
}
