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

// orderModel is a table whose writers take positions before they know the event before: one by one, or in blocks that they keep for long. The readers' code is the
// real one.
type orderModel struct {
	random   *rand.Rand
	wrong    orderMistake
	reserved bool
	last     int64 // position given out
	visible  map[int64]modelEvent
	open     []*modelTxn
	blocks   [][]int64 // that writers keep, where positions are reserved
	deletes  bool

	cover []*gapped
	given []map[int64]int
	order []map[int]int // by reader, the number of the last event given of a stream
	pages int
	found string
	seen  map[string]int // what the run had
}

type modelEvent struct{ stream, number int }

// modelTxn has taken positions, some of which have events.
type modelTxn struct {
	taken  []int64
	events map[int64]modelEvent
}

type orderMistake int

const (
	ordered       orderMistake = iota
	byPositions                // events are given by position
	waitsInPage                // an event waits only for one that is in the page
	heldIsCovered              // what waits counts as looked at
)

func newOrderModel(seed uint64, wrong orderMistake) *orderModel {
	m := &orderModel{random: rand.New(rand.NewPCG(seed, 11)), wrong: wrong, visible: map[int64]modelEvent{}, reserved: seed%2 == 0, deletes: seed%3 == 0, blocks: make([][]int64, 4), seen: map[string]int{}}
	for range 3 {
		m.cover, m.given, m.order = append(m.cover, &gapped{table: "t"}), append(m.given, map[int64]int{}), append(m.order, map[int]int{})
	}
	return m
}

func (m *orderModel) step() {
	switch n := m.random.IntN(20); {
	case n == 0 && m.deletes:
		if all := slices.Sorted(maps.Keys(m.visible)); len(all) > 0 {
			delete(m.visible, all[m.random.IntN(len(all))])
		}
	case n < 3:
		if len(m.open) < 4 {
			m.open = append(m.open, &modelTxn{events: map[int64]modelEvent{}})
		}
	case n < 12:
		if len(m.open) > 0 {
			m.write(m.random.IntN(len(m.open)))
		}
	default:
		m.read(1+m.random.IntN(9), m.random.IntN(4) > 0)
	}
}

// write has a transaction take a position, insert an event at one that it has, or end.
func (m *orderModel) write(i int) {
	txn := m.open[i]
	switch n := m.random.IntN(10); {
	case n == 0:
		m.end(i, m.random.IntN(4) > 0)
	case n < 5 || len(txn.taken) == 0:
		txn.taken = append(txn.taken, m.take())
	default:
		// Another's open transaction with an event of the stream holds the key that the next one needs.
		stream, number := m.random.IntN(3), 1
		for _, other := range m.open {
			for _, e := range other.events {
				if other != txn && e.stream == stream {
					return
				}
			}
		}
		for _, events := range []map[int64]modelEvent{m.visible, txn.events} {
			for _, e := range events {
				if e.stream == stream {
					number = max(number, e.number+1)
				}
			}
		}
		for i := range m.order { // numbers of deleted events are not used again
			number = max(number, m.order[i][stream]+1)
		}
		at := m.random.IntN(len(txn.taken))
		txn.events[txn.taken[at]] = modelEvent{stream, number}
		txn.taken = slices.Delete(txn.taken, at, at+1)
	}
}

func (m *orderModel) take() int64 {
	if !m.reserved {
		m.last++
		return m.last
	}
	block := m.random.IntN(len(m.blocks))
	if len(m.blocks[block]) == 0 {
		for range 10 {
			m.last++
			m.blocks[block] = append(m.blocks[block], m.last)
		}
	}
	p := m.blocks[block][0]
	m.blocks[block] = m.blocks[block][1:]
	return p
}

func (m *orderModel) end(i int, commit bool) {
	if commit {
		maps.Copy(m.visible, m.open[i].events)
	}
	m.open = slices.Delete(m.open, i, i+1)
}

// settled are the positions that no transaction has any more.
func (m *orderModel) settled() ranges {
	if m.reserved {
		return nil
	}
	var open []int64
	for _, txn := range m.open {
		open = append(append(open, txn.taken...), slices.Collect(maps.Keys(txn.events))...)
	}
	return positionsOf(open).rest().upTo(m.last)
}

// before is the position of the stream's event with the next lower number.
func (m *orderModel) before(e modelEvent) (position int64) {
	highest := 0
	for p, other := range m.visible {
		if other.stream == e.stream && other.number < e.number && other.number > highest {
			position, highest = p, other.number
		}
	}
	return position
}

// read has some readers read a page, and take all of it or its beginning.
func (m *orderModel) read(limit int, whole bool) (more bool) {
	full, another := m.readFor(m.random.Perm(len(m.cover))[:1+m.random.IntN(len(m.cover))], limit, whole, m.hand)
	return full || another
}

func (m *orderModel) readFor(readers []int, limit int, whole bool, hand func(int, answer)) (full, another bool) {
	var from []*gapped
	for _, i := range readers {
		from = append(from, m.cover[i])
	}
	settled := m.settled()
	for range m.random.IntN(3) { // others go on before the statement begins
		if len(m.open) > 0 {
			m.write(m.random.IntN(len(m.open)))
		}
	}
	q := ask(from, proved{settled: settled}, whole || !m.reserved, time.Unix(1, 0), limit)
	looked := q.gaps.union(upward(q.tail + 1))
	var rows []link
	for _, p := range slices.Sorted(maps.Keys(m.visible)) {
		if looked.has(p) {
			rows = append(rows, m.link(p, looked))
		}
	}
	if full = len(rows) >= limit; full {
		rows = rows[:limit]
	}
	a := q.answered(rows, full)
	if q.stuck(a, full) {
		m.found = "it is stuck"
		return false, false
	}
	if m.wrong == heldIsCovered {
		a.added = a.added.union(positions(a.held))
	}
	m.note(q, a)
	for _, i := range readers {
		hand(i, a)
	}
	return full, q.another(a)
}

func (m *orderModel) link(p int64, looked ranges) link {
	l := link{p, m.before(m.visible[p])}
	if m.wrong == byPositions || m.wrong == waitsInPage && !looked.has(l.before) {
		l.before = 0
	}
	return l
}

func (m *orderModel) note(q question, a answer) {
	m.pages++
	for what, there := range map[string]bool{"events that wait": len(a.held) > 0, "events given before lower ones": !a.plain, "events not asked for": len(q.held) > 0, "pages of events that wait": len(a.at) == 0 && len(a.held) > 0} {
		if there {
			m.seen[what]++
		}
	}
}

func (m *orderModel) hand(i int, a answer) {
	n := len(a.at)
	if n > 0 && m.random.IntN(3) == 0 {
		n = 1 + m.random.IntN(n)
	}
	m.handUpTo(i, a, n)
	if m.random.IntN(5) == 0 {
		m.restart(i)
	}
}

func (m *orderModel) handUpTo(i int, a answer, n int) {
	upTo := int64(maxPosition)
	if n < len(a.at) {
		upTo = a.at[n-1]
	}
	for _, p := range a.at[:n] {
		if m.cover[i].Covers(&eventsource.Event{Position: p}) {
			continue
		}
		m.given[i][p]++
		e := m.visible[p]
		if m.order[i][e.stream] >= e.number {
			m.found = fmt.Sprintf("reader %d: number %d of stream %d after %d", i, e.number, e.stream, m.order[i][e.stream])
		}
		m.order[i][e.stream] = e.number
	}
	m.cover[i] = a.after(m.cover[i], &eventsource.Event{Position: upTo}).(*gapped)
}

func (m *orderModel) restart(i int) {
	c, err := parseGapped(m.cover[i].Progress())
	if err != nil {
		m.found = err.Error()
		return
	}
	m.cover[i], c.table = c, "t"
}

// finish has a reader begin anew and read on until there is no more: all gaps until a page is not full, and then only what is due.
func (m *orderModel) finish(i int) {
	m.restart(i)
	for more, whole := true, true; more && m.found == ""; {
		full, another := m.readFor([]int{i}, 8, whole, func(i int, a answer) { m.handUpTo(i, a, len(a.at)) })
		more, whole = full || another, whole && full
	}
}

// run goes on for some steps, then until all has been read, and returns what went wrong.
func (m *orderModel) run(steps int) string {
	for range steps {
		m.step()
	}
	for len(m.open) > 0 {
		m.end(0, true)
	}
	for i := range m.cover {
		m.finish(i)
		for p := range m.visible {
			if n := m.given[i][p]; n != 1 && m.found == "" {
				m.found = fmt.Sprintf("reader %d: the event at %d was given %d times", i, p, n)
			}
		}
		if m.found == "" && len(m.cover[i].held) > 0 {
			m.found = fmt.Sprintf("reader %d: events still wait: %v", i, m.cover[i].held)
		}
	}
	return m.found
}

// Wherever writers take positions, and however pages end, each event is given once, and after the one before it in its stream.
func TestEventsAreGivenInTheOrderOfTheirNumbers(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(1000) {
		m := newOrderModel(seed, ordered)
		if found := m.run(400); found != "" {
			t.Fatalf("seed %d: %s", seed, found)
		}
		for what, n := range m.seen {
			seen[what] += n
		}
	}
	t.Log(seen)
	for _, what := range []string{"events that wait", "events given before lower ones", "events not asked for", "pages of events that wait"} {
		if seen[what] < 100 {
			t.Errorf("%d times %s: this says too little", seen[what], what)
		}
	}
}

// The model finds each rule that is broken.
func TestTheModelOfOrderFindsWhatIsWrong(t *testing.T) {
	for name, wrong := range map[string]orderMistake{"by position": byPositions, "no waiting for what is beyond the page": waitsInPage, "what waits is covered": heldIsCovered} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(1000) {
				if found := newOrderModel(seed, wrong).run(400); found != "" {
					t.Logf("seed %d: %s", seed, found)
					return
				}
			}
			t.Error("it was not found")
		})
	}
}
