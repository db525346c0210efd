package simulation_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-project/sluice/test/history"
	"github.com/sluice-project/sluice/tokenstore"
	store "github.com/sluice-project/sluice/tokenstore/memory"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// record is what happened in a run: as text for people, and as a history for the checks.
type record struct {
	mu      sync.Mutex
	began   time.Time
	lines   []string
	calls   []string // of all pods; they are compared and not printed
	history history.History
	commits int
	resets  map[string]int // by replay and group
	wrong   []string
	effects map[string]int // how often something happened that a run is vacuous without
}

func newRecord() *record {
	return &record{began: time.Now(), resets: map[string]int{}, effects: map[string]int{}}
}

// add adds a line.
func (r *record) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.say(format, args...)
}

// say is add for those who hold the lock.
func (r *record) say(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf("%13.6fs  ", time.Since(r.began).Seconds())+fmt.Sprintf(format, args...))
}

// happened counts something that a run is vacuous without.
func (r *record) happened(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.effects[what]++
}

// layouts is how often a token was made or deleted.
func (r *record) layouts() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.history.Writes {
		if w.Op != history.Update {
			n++
		}
	}
	return n
}

// has reports whether something has happened.
func (r *record) has(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.effects[what] > 0
}

// called records a call of a pod.
func (r *record) called(pod, name, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf("%015d %s %s %s", time.Since(r.began), pod, name, detail))
}

// Write adds what a pod logs.
func (r *record) Write(p []byte) (int, error) {
	r.add("%s", strings.TrimSpace(string(p)))
	return len(p), nil
}

// text is the history for people.
func (r *record) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// committed records a transaction.
func (r *record) committed(c store.Commit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commits++
	tx := strconv.Itoa(r.commits)
	for _, change := range c.Changes {
		w := writeOf(tx, change)
		r.history.Writes = append(r.history.Writes, w)
		r.say("tx %s: %s %s/%s epoch %d version %d generation %d owner %d, at %d", tx, w.Op, w.Group, w.Segment, w.Epoch, w.Version, w.Generation, w.Owner, w.Position)
	}
	for _, row := range slices.Sorted(maps.Keys(c.Appends)) {
		group, stream, _ := strings.Cut(row, "/")
		r.say("tx %s: %s handled %s of %s", tx, group, strings.TrimSpace(c.Appends[row]), stream)
		for _, text := range strings.Fields(c.Appends[row]) {
			a := history.Applied{Tx: tx, Group: group, Key: stream}
			if _, err := fmt.Sscanf(text, appliedFormat, &a.Position, &a.Replay); err != nil {
				r.wrong = append(r.wrong, fmt.Sprintf("the row %s has %q", row, text))
			}
			r.history.Applied = append(r.history.Applied, a)
		}
	}
	r.reset(tx, c)
}

// appliedFormat is how the handlers write an event: its position, and whether it is a replay.
const appliedFormat = "%d:%t"

// reset checks that the writes of a reset handler and the move of its group's tokens commit
// together, and once for each replay. An abandoned replay begins a generation, too, but moves no
// token back.
func (r *record) reset(tx string, c store.Commit) {
	kept, rewound := map[string]bool{}, map[string]bool{}
	for _, change := range c.Changes {
		switch before, after := change.Before, change.After; {
		case before == nil || after == nil || after.Mask != before.Mask: // split or merged
		case after.Generation == before.Generation:
			kept[after.Group] = true
		case protocol.Lowest(after.Parts).Position < protocol.Lowest(before.Parts).Position:
			rewound[after.Group] = true
		}
	}
	for _, row := range slices.Sorted(maps.Keys(c.Puts)) {
		group, _, _ := strings.Cut(row, "/")
		r.say("tx %s: reset of %s", tx, row)
		r.effects["reset"]++
		if r.resets[row]++; r.resets[row] > 1 {
			r.wrong = append(r.wrong, fmt.Sprintf("transaction %s resets the rows of %s again", tx, row))
		}
		if kept[group] {
			r.wrong = append(r.wrong, fmt.Sprintf("transaction %s resets the rows of %s, but not all tokens", tx, row))
		}
		delete(rewound, group)
	}
	for group := range rewound {
		r.wrong = append(r.wrong, fmt.Sprintf("transaction %s moves tokens of %s back, but resets no rows", tx, group))
	}
}

func writeOf(tx string, c store.Change) history.Write {
	of := func(op history.Op, t *tokenstore.Token) history.Write {
		return history.Write{Tx: tx, Op: op, Group: t.Group, Segment: t.Range(), Position: protocol.Lowest(t.Parts).Position,
			Generation: t.Generation, Epoch: t.Epoch, Version: t.Version, Owner: t.Owner, WasOwner: t.Owner}
	}
	switch {
	case c.Before == nil:
		return of(history.Insert, c.After)
	case c.After == nil:
		return of(history.Delete, c.Before)
	}
	w := of(history.Update, c.After)
	w.WasOwner = c.Before.Owner
	return w
}

// difference tells where two runs differ first; empty if they do not. In which order pods do
// something at the same nanosecond does not count.
func difference(a, b *record) string {
	for _, r := range []*record{a, b} {
		slices.Sort(r.calls) // they begin with the time
		slices.Sort(r.lines)
	}
	for _, part := range []struct {
		what string
		a, b []string
	}{{"calls", a.calls, b.calls}, {"history", a.lines, b.lines}} {
		for i := range max(len(part.a), len(part.b)) {
			if i < len(part.a) && i < len(part.b) && part.a[i] == part.b[i] {
				continue
			}
			from := max(i-5, 0)
			return fmt.Sprintf("the %s differ from number %d on:\n%s\nand\n%s", part.what, i, excerpt(part.a, from), excerpt(part.b, from))
		}
	}
	return ""
}

func excerpt(lines []string, from int) string {
	return strings.Join(lines[min(from, len(lines)):min(from+12, len(lines))], "\n")
}

// sortedCounts prints counts.
func sortedCounts(counts map[string]int) string {
	var all []string
	for _, name := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Compare(a, b) }) {
		all = append(all, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(all, ", ")
}
