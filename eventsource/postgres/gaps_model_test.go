package postgres

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
)

// gapsModel is a server with a sequence, its writers, and readers: each step of each of them happens for itself, in any order. Only what
// the fence rests on is as it is in PostgreSQL: the lock comes before the number and goes after the end is visible, and a statement sees
// what had ended when it began. The readers' code is the real one.
type gapsModel struct {
	random  *rand.Rand
	wrong   mistake
	last    int64
	writers []*modelWriter
	born    int
	visible map[int64]bool

	fence  fence
	proved proved
	mark   int64 // of a round that has begun; -1 if none
	early  holders
	reads  []*modelRead
	given  []map[int64]int // by reader
	stored []string
	cover  []*gapped
	found  string // what went wrong
}

type modelWriter struct {
	id                     string
	locked, prepared, done bool
	commits                bool
	steps                  int // that it has done
	inserted               []int64
	open                   []int64 // taken and not inserted
}

// modelRead is a read that has begun, for some readers.
type modelRead struct {
	readers []int
	q       question
}

// mistake is a rule that is broken on purpose.
type mistake int

const (
	none            mistake = iota
	holdersFirst            // the holders are looked up before the mark is read
	noSecondLook            // what is settled is taken from after the statement
	noPrepared              // a prepared transaction is not known by its new id
	alwaysStill             // holders count as still
	locksGoFirst            // a lock is released before the end is visible
	tailIsSettled           // all positions below a visible one are settled
	pageBeyondLimit         // a full page vouches for what it has not looked at
)

func newGapsModel(seed uint64, wrong mistake) *gapsModel {
	m := &gapsModel{random: rand.New(rand.NewPCG(seed, 7)), wrong: wrong, visible: map[int64]bool{}, mark: -1}
	for range 3 {
		m.cover, m.given, m.stored = append(m.cover, &gapped{table: "t"}), append(m.given, map[int64]int{}), append(m.stored, "")
	}
	return m
}

func (m *gapsModel) step() {
	switch m.random.IntN(10) {
	case 0:
		if len(m.writers) < 5 {
			m.born++
			m.writers = append(m.writers, &modelWriter{id: fmt.Sprint(m.born)})
		}
	case 1, 2, 3, 4:
		if len(m.writers) > 0 {
			m.write(m.writers[m.random.IntN(len(m.writers))])
		}
	case 5, 6:
		m.round()
	case 7:
		m.begin()
	default:
		m.page()
	}
}

// write has a writer do its next step.
func (m *gapsModel) write(w *modelWriter) {
	w.steps++
	switch n := m.random.IntN(12); {
	case w.done: // its end is visible: the lock goes
		if m.wrong == locksGoFirst {
			m.show(w)
		}
		m.writers = slices.DeleteFunc(m.writers, func(other *modelWriter) bool { return other == w })
	case !w.locked:
		w.locked = true
	case n == 0 || w.prepared:
		w.done, w.commits = true, m.random.IntN(3) > 0
		if m.wrong != locksGoFirst {
			m.show(w)
		}
	case n == 1:
		w.prepared, w.id = true, "-1/"+w.id
	case n < 6 || len(w.open) == 0:
		m.last++
		w.open = append(w.open, m.last)
	default: // any of those that it has taken
		i := m.random.IntN(len(w.open))
		w.inserted = append(w.inserted, w.open[i])
		w.open = slices.Delete(w.open, i, i+1)
	}
}

// show makes a writer's events visible, if it commits.
func (m *gapsModel) show(w *modelWriter) {
	for _, p := range w.inserted {
		if w.commits {
			m.visible[p] = true
		}
	}
}

func (m *gapsModel) holders() holders {
	now := holders{}
	for _, w := range m.writers {
		if !w.locked || m.wrong == locksGoFirst && w.done {
			continue
		}
		h := stillness{prepared: w.prepared && m.wrong != noPrepared}
		switch {
		case w.prepared:
			h.since = "prepared"
		case m.random.IntN(3) > 0: // others are at something
			h.since = fmt.Sprint(w.steps)
		}
		if m.wrong == alwaysStill {
			h.since = "still"
		}
		now[w.id] = h
	}
	return now
}

// round does the first or the second half of a round of proof.
func (m *gapsModel) round() {
	if m.mark < 0 {
		m.mark, m.early = m.last, m.holders()
		return
	}
	now := m.holders()
	if m.wrong == holdersFirst {
		now, m.mark = m.early, m.last
	}
	if before, back := m.fence.note(m.mark, now); back {
		m.found = fmt.Sprintf("the mark went back from %d to %d", before, m.mark)
	}
	m.proved, m.mark = proved{settled: m.fence.settled()}, -1
	if m.wrong == tailIsSettled && len(m.visible) > 0 {
		m.proved.settled = through(slices.Max(slices.Collect(maps.Keys(m.visible))))
	}
}

// begin has readers ask for a page, or start again from what is stored.
func (m *gapsModel) begin() {
	if len(m.reads) > 0 && m.random.IntN(2) > 0 {
		return
	}
	var readers []int
	var from []*gapped
	for i := range m.cover {
		busy := slices.ContainsFunc(m.reads, func(r *modelRead) bool { return slices.Contains(r.readers, i) })
		if !busy && m.random.IntN(3) > 0 {
			readers, from = append(readers, i), append(from, m.cover[i])
		}
	}
	if len(from) > 0 {
		m.reads = append(m.reads, &modelRead{readers, ask(from, m.proved, m.random.IntN(4) > 0, time.Unix(1, 0), 8)})
	}
}

// page runs the statement of a read that has begun, and hands its events out.
func (m *gapsModel) page() {
	if len(m.reads) == 0 {
		return
	}
	r := m.reads[0]
	m.reads = m.reads[1:]
	looked := r.q.gaps.union(upward(r.q.tail + 1))
	var rows []int64
	for _, p := range slices.Sorted(maps.Keys(m.visible)) {
		if looked.has(p) {
			rows = append(rows, p)
		}
	}
	if m.wrong == noSecondLook { // others go on, and what is settled then is believed
		for range 30 {
			if len(m.writers) > 0 {
				m.write(m.writers[m.random.IntN(len(m.writers))])
			}
			m.round()
		}
		r.q.proved = m.proved
	}
	limit := 1 + m.random.IntN(8)
	full := len(rows) >= limit
	if full {
		rows = rows[:limit]
	}
	found := make([]link, len(rows))
	for i, p := range rows {
		found[i] = link{position: p}
	}
	a := r.q.answered(found, full && m.wrong != pageBeyondLimit)
	for _, i := range r.readers {
		position := int64(maxPosition)
		if len(rows) > 0 && m.random.IntN(3) == 0 {
			position = rows[m.random.IntN(len(rows))]
		}
		for _, p := range rows {
			if p <= position && !m.cover[i].Covers(&eventsource.Event{Position: p}) {
				m.given[i][p]++
			}
		}
		m.cover[i] = a.after(m.cover[i], &eventsource.Event{Position: position}).(*gapped)
		if m.random.IntN(4) == 0 {
			var err error
			if m.cover[i], err = parseGapped(m.cover[i].Progress()); err != nil {
				m.found = err.Error()
				return
			}
			m.cover[i].table = "t"
		}
	}
}

// run goes on for some steps, then until all have ended and been read, and returns what went wrong.
func (m *gapsModel) run(steps int) string {
	for range steps {
		m.step()
	}
	for len(m.writers) > 0 {
		m.write(m.writers[0])
		m.writers = append(m.writers[min(1, len(m.writers)):], m.writers[:min(1, len(m.writers))]...)
	}
	for range 60 {
		m.round()
		m.begin()
		for len(m.reads) > 0 {
			m.page()
		}
	}
	lost, twice := 0, 0
	for i := range m.cover {
		for p := range m.visible {
			switch m.given[i][p] {
			case 0:
				lost++
			case 1:
			default:
				twice++
			}
		}
		if m.found == "" && m.wrong == none && len(m.cover[i].set) > 1 {
			m.found = fmt.Sprintf("reader %d has gaps left: %v", i, m.cover[i].set)
		}
	}
	if lost+twice > 0 {
		return fmt.Sprintf("lost %d, twice %d", lost, twice)
	}
	return m.found
}

// Whatever writers do between any two steps of a proof, no event is lost and none is given twice, and all gaps that nobody can fill are closed.
func TestGapsAreClosedOnlyWhenNobodyCanFillThem(t *testing.T) {
	for seed := range uint64(4000) {
		if found := newGapsModel(seed, none).run(300); found != "" {
			t.Fatalf("seed %d: %s", seed, found)
		}
	}
}

// The model finds each rule that is broken.
func TestTheModelOfGapsFindsWhatIsWrong(t *testing.T) {
	for name, wrong := range map[string]mistake{"holders before the mark": holdersFirst, "no look after the proof": noSecondLook, "prepared transactions by their new id": noPrepared,
		"holders taken for still": alwaysStill, "holders let go before their end is visible": locksGoFirst, "no proof": tailIsSettled, "a full page vouches for all": pageBeyondLimit} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4000) {
				if found := newGapsModel(seed, wrong).run(300); found != "" {
					t.Logf("seed %d: %s", seed, found)
					return
				}
			}
			t.Error("it was not found")
		})
	}
}
