package history

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-project/sluice/segment"
)

// History is what was committed to a store.
type History struct {
	// Writes of one token are in their order, and those of one transaction stand together.
	Writes []Write
	// Applied are in the order in which they were applied, as far as that matters: those of one key
	// are.
	Applied []Applied
	// Events are those of the log that are to be handled.
	Events []Event
}

// Op is what a write does.
type Op string

// The operations.
const (
	Insert Op = "I"
	Update Op = "U"
	Delete Op = "D"
)

// Write is a write to a token.
type Write struct {
	Tx         string // the transaction that made it
	Op         Op
	Group      string
	Segment    segment.Segment
	Position   int64
	Generation int64
	Epoch      int64
	Version    int64
	Owner      int64
	WasOwner   int64 // before the write
}

// Applied is an event that was applied to a projection.
type Applied struct {
	Tx       string // the transaction that did so
	Group    string
	Key      string
	Position int64
	Replay   bool // the handler was told that it is one
}

// Event is an event of the log.
type Event struct {
	Position int64
	Key      string
}

// Want is what the history must tell of, at the least: else what the checks find means nothing.
type Want struct {
	Events    int // applied
	Takeovers int // claims of tokens that another worker owned
	Splits    int
	Merges    int
	Resets    int // of one token each
	Shared    int // transactions that applied events of several segments
	// Replayed groups are to have applied each event under their last generation: their last
	// replay, of all that there is, is complete.
	Replayed []string
}

// Found is what the history tells of.
type Found struct{ Batches, Events, Replays, Epochs, Takeovers, Splits, Merges, Resets, Shared int }

// shown is how many instances of one broken promise are told of.
const shown = 5

// Check holds the history against what Sluice promises, once nothing happens any more. The error
// tells of each promise that was broken, or of what is missing for the checks to mean anything.
func (h History) Check(want Want) (Found, error) {
	x := indexed(h, want.Replayed)
	var broken []error
	for _, c := range checks {
		found := c.find(x)
		for _, wrong := range found[:min(len(found), shown)] {
			broken = append(broken, fmt.Errorf("%s; but %s", c.promise, wrong))
		}
	}
	if err := alwaysPartitions(h.Writes); err != nil {
		broken = append(broken, err)
	}
	found := x.count()
	return found, errors.Join(append(broken, want.vacuous(found)...)...)
}

// check finds what must not be. Each text says what is wrong.
type check struct {
	promise string
	find    func(*index) []string
}

var checks = []check{
	{"each event is applied once in a generation", (*index).appliedTwice},
	{"what is applied moves its token in the same transaction", (*index).appliedWithoutToken},
	{"who applies owns the token", (*index).appliedWithoutOwner},
	{"one worker writes in an epoch", (*index).sharedEpochs},
	{"epochs, versions and generations never go back", (*index).goneBack},
	{"whoever takes a token takes a new epoch", (*index).takenInAnEpoch},
	{"a token moves forward within a generation", (*index).movedBack},
	{"events of one key are applied in their order", (*index).outOfOrder},
	{"an event is told to be a replay if it was applied under an earlier generation, and only then", (*index).wronglyTold},
	{"only events are applied", (*index).invented},
	{"no event is skipped", (*index).skipped},
	{"a complete replay applies every event", (*index).notReplayed},
}

// index is a history, made ready for the checks.
type index struct {
	History
	replayed []string
	batches  []batch
	tokens   [][]Write         // without deletions, by token
	events   map[Event]bool    // of the log
	applied  map[applied][]int // batches, by event
}

// batch is an application with the write to its token in the same transaction, which has the
// segment that the key belongs to.
type batch struct {
	Applied
	token *Write // nil if there is none
}

type applied struct {
	group    string
	position int64
}

type token struct {
	group string
	id    uint32
}

// generation is the one under which the event was applied; 0 if its token did not move.
func (b batch) generation() int64 {
	if b.token == nil {
		return 0
	}
	return b.token.Generation
}

func indexed(h History, replayed []string) *index {
	x := &index{History: h, replayed: replayed, events: map[Event]bool{}, applied: map[applied][]int{}}
	for _, e := range h.Events {
		x.events[e] = true
	}
	moves := map[string][]*Write{}
	order := map[token]int{}
	for i := range h.Writes {
		w := &h.Writes[i]
		if w.Op == Update {
			moves[w.Tx] = append(moves[w.Tx], w)
		}
		if w.Op == Delete {
			continue
		}
		of := token{w.Group, w.Segment.ID}
		at, there := order[of]
		if !there {
			at = len(x.tokens)
			order[of] = at
			x.tokens = append(x.tokens, nil)
		}
		x.tokens[at] = append(x.tokens[at], *w)
	}
	for i, a := range h.Applied {
		b := batch{Applied: a}
		hash := segment.PG1(a.Key)
		for _, w := range moves[a.Tx] {
			if w.Group == a.Group && w.Segment.Contains(hash) {
				b.token = w
			}
		}
		x.batches = append(x.batches, b)
		event := applied{a.Group, a.Position}
		x.applied[event] = append(x.applied[event], i)
	}
	return x
}

// inOrder returns the applied events in the order of their groups and positions.
func (x *index) inOrder() []applied {
	return slices.SortedFunc(maps.Keys(x.applied), func(a, b applied) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.position, b.position))
	})
}

func (x *index) appliedTwice() (wrong []string) {
	for _, event := range x.inOrder() {
		times := map[int64]int{}
		for _, i := range x.applied[event] {
			times[x.batches[i].generation()]++
		}
		for _, generation := range slices.Sorted(maps.Keys(times)) {
			if n := times[generation]; n > 1 {
				wrong = append(wrong, fmt.Sprintf("group %s, generation %d: event %d was applied %d times", event.group, generation, event.position, n))
			}
		}
	}
	return wrong
}

func (x *index) appliedWithoutToken() (wrong []string) {
	for _, b := range x.batches {
		if b.token == nil {
			wrong = append(wrong, fmt.Sprintf("group %s: event %d of %s was applied without a move of its token", b.Group, b.Position, b.Key))
		}
	}
	return wrong
}

func (x *index) appliedWithoutOwner() (wrong []string) {
	for _, b := range x.batches {
		if b.token != nil && b.token.WasOwner == 0 {
			wrong = append(wrong, fmt.Sprintf("group %s: event %d was applied under epoch %d of segment %d, which nobody owned", b.Group, b.Position, b.token.Epoch, b.token.Segment.ID))
		}
	}
	return wrong
}

func (x *index) sharedEpochs() (wrong []string) {
	for _, writes := range x.tokens {
		owners := map[int64][]int64{}
		for _, w := range writes {
			if w.Owner != 0 && !slices.Contains(owners[w.Epoch], w.Owner) {
				owners[w.Epoch] = append(owners[w.Epoch], w.Owner)
			}
		}
		for _, epoch := range slices.Sorted(maps.Keys(owners)) {
			if len(owners[epoch]) > 1 {
				wrong = append(wrong, fmt.Sprintf("group %s, segment %d: the workers %d had epoch %d", writes[0].Group, writes[0].Segment.ID, owners[epoch], epoch))
			}
		}
	}
	return wrong
}

// pairs tells of writes to a token that follow another one and are wrong after it.
func (x *index) pairs(isWrong func(before, w Write) bool, text func(before, w Write) string) (wrong []string) {
	for _, writes := range x.tokens {
		for i := 1; i < len(writes); i++ {
			if before, w := writes[i-1], writes[i]; isWrong(before, w) {
				wrong = append(wrong, fmt.Sprintf("group %s, segment %d: %s", w.Group, w.Segment.ID, text(before, w)))
			}
		}
	}
	return wrong
}

func (x *index) goneBack() []string {
	return x.pairs(func(before, w Write) bool {
		return w.Version <= before.Version || w.Epoch < before.Epoch || w.Generation < before.Generation && w.Op == Update
	}, func(before, w Write) string {
		return fmt.Sprintf("epoch %d version %d generation %d came after epoch %d version %d generation %d", w.Epoch, w.Version, w.Generation, before.Epoch, before.Version, before.Generation)
	})
}

func (x *index) takenInAnEpoch() []string {
	return x.pairs(func(before, w Write) bool {
		return w.Op == Update && w.Owner != 0 && w.Owner != w.WasOwner && w.Epoch <= before.Epoch
	}, func(_, w Write) string {
		return fmt.Sprintf("worker %d came after worker %d under epoch %d", w.Owner, w.WasOwner, w.Epoch)
	})
}

func (x *index) movedBack() []string {
	return x.pairs(func(before, w Write) bool {
		same := w.Generation == before.Generation && w.Segment == before.Segment && w.Epoch == before.Epoch
		return w.Op == Update && same && w.Position < before.Position
	}, func(before, w Write) string {
		return fmt.Sprintf("position %d came after %d", w.Position, before.Position)
	})
}

func (x *index) outOfOrder() (wrong []string) {
	type sequence struct {
		group, key string
		generation int64
	}
	last := map[sequence]int64{}
	for _, b := range x.batches {
		of := sequence{b.Group, b.Key, b.generation()}
		if before, there := last[of]; there && b.Position <= before {
			wrong = append(wrong, fmt.Sprintf("group %s, generation %d: event %d of %s came after event %d", b.Group, of.generation, b.Position, b.Key, before))
		}
		last[of] = b.Position
	}
	return wrong
}

func (x *index) wronglyTold() (wrong []string) {
	for _, b := range x.batches {
		if b.token == nil {
			continue
		}
		before := slices.ContainsFunc(x.applied[applied{b.Group, b.Position}], func(i int) bool {
			other := x.batches[i]
			return other.token != nil && other.generation() < b.generation()
		})
		if b.Replay != before {
			wrong = append(wrong, fmt.Sprintf("group %s, generation %d: event %d was told to be a replay: %t", b.Group, b.generation(), b.Position, b.Replay))
		}
	}
	return wrong
}

func (x *index) invented() (wrong []string) {
	for _, a := range x.Applied {
		if !x.events[Event{a.Position, a.Key}] {
			wrong = append(wrong, fmt.Sprintf("group %s: there is no event %d of %s", a.Group, a.Position, a.Key))
		}
	}
	return wrong
}

func (x *index) skipped() (wrong []string) {
	groups := map[string]bool{}
	for _, a := range x.Applied {
		groups[a.Group] = true
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		for _, e := range x.Events {
			if len(x.applied[applied{group, e.Position}]) == 0 {
				wrong = append(wrong, fmt.Sprintf("group %s: event %d was never applied", group, e.Position))
			}
		}
	}
	return wrong
}

func (x *index) notReplayed() (wrong []string) {
	last := map[string]int64{}
	for _, w := range x.Writes {
		if slices.Contains(x.replayed, w.Group) {
			last[w.Group] = max(last[w.Group], w.Generation)
		}
	}
	for _, group := range slices.Sorted(maps.Keys(last)) {
		for _, e := range x.Events {
			if !slices.ContainsFunc(x.applied[applied{group, e.Position}], func(i int) bool { return x.batches[i].generation() == last[group] }) {
				wrong = append(wrong, fmt.Sprintf("group %s: event %d was not applied under generation %d", group, e.Position, last[group]))
			}
		}
	}
	return wrong
}

// count tells what happened.
func (x *index) count() Found {
	type inEpoch struct {
		token
		epoch int64
	}
	batches, epochs := map[string]bool{}, map[inEpoch]bool{}
	f := Found{Events: len(x.Applied)}
	for _, a := range x.Applied {
		batches[a.Tx] = true
		if a.Replay {
			f.Replays++
		}
	}
	for _, w := range x.Writes {
		if w.Owner != 0 {
			epochs[inEpoch{token{w.Group, w.Segment.ID}, w.Epoch}] = true
		}
		if w.Op == Update && w.Owner != 0 && w.WasOwner != 0 && w.Owner != w.WasOwner {
			f.Takeovers++
		}
		if w.Op == Delete {
			f.Merges++
		}
	}
	f.Batches, f.Epochs, f.Shared = len(batches), len(epochs), x.shared()
	f.Splits = len(x.pairs(func(before, w Write) bool { return w.Segment.Mask > before.Segment.Mask }, nothing))
	f.Resets = len(x.pairs(func(before, w Write) bool { return w.Op == Update && w.Generation > before.Generation }, nothing))
	return f
}

func nothing(Write, Write) string { return "" }

// shared is how many transactions applied events of several segments of a group.
func (x *index) shared() int {
	type part struct{ tx, group string }
	segments := map[part]map[segment.Segment]bool{}
	for _, b := range x.batches {
		if b.token == nil {
			continue
		}
		of := part{b.Tx, b.Group}
		if segments[of] == nil {
			segments[of] = map[segment.Segment]bool{}
		}
		segments[of][b.token.Segment] = true
	}
	n := 0
	for _, of := range segments {
		if len(of) > 1 {
			n++
		}
	}
	return n
}

func (w Want) vacuous(f Found) []error {
	var missing []error
	for _, n := range []struct {
		what          string
		least, actual int
	}{
		{"events", max(w.Events, 1), f.Events},
		{"takeovers", w.Takeovers, f.Takeovers},
		{"splits", w.Splits, f.Splits},
		{"merges", w.Merges, f.Merges},
		{"resets", w.Resets, f.Resets},
		{"transactions of several segments", w.Shared, f.Shared},
		{"replayed events", min(len(w.Replayed), 1), f.Replays},
	} {
		if n.actual < n.least {
			missing = append(missing, fmt.Errorf("vacuous: %d %s happened, of at least %d", n.actual, n.what, n.least))
		}
	}
	return missing
}

// alwaysPartitions checks that after each transaction the segments of each group covered the hash
// space exactly once.
func alwaysPartitions(writes []Write) error {
	layouts := map[string]map[uint32]uint32{}
	changed := map[string]bool{}
	for i, w := range writes {
		if layouts[w.Group] == nil {
			layouts[w.Group] = map[uint32]uint32{}
		}
		before, there := layouts[w.Group][w.Segment.ID]
		if w.Op == Delete {
			delete(layouts[w.Group], w.Segment.ID)
		} else {
			layouts[w.Group][w.Segment.ID] = w.Segment.Mask
		}
		if w.Op == Delete || !there || before != w.Segment.Mask {
			changed[w.Group] = true
		}
		if i+1 < len(writes) && writes[i+1].Tx == w.Tx {
			continue
		}
		for group := range changed {
			var layout []segment.Segment
			for id, mask := range layouts[group] {
				layout = append(layout, segment.Segment{ID: id, Mask: mask})
			}
			if err := segment.Partition(layout); err != nil && len(layout) > 0 {
				return fmt.Errorf("the segments of group %s always cover the hash space exactly once; but after transaction %s: %w", group, w.Tx, err)
			}
		}
		clear(changed)
	}
	return nil
}
