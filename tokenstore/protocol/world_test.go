package protocol_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// workers of the small world. It has a few events of two keys, and a group of one segment or two.
const workers = 2

// hashOf is the hash of the event's key.
func hashOf(position int64) uint32 { return uint32(position) & 1 }

// line is an algebra in which a progress is a position.
type line struct{}

func (line) Union(a, b progress.Progress) (progress.Progress, error) {
	return progress.Progress{Position: max(a.Position, b.Position)}, nil
}

func (line) Intersect(a, b progress.Progress) (progress.Progress, error) {
	return progress.Progress{Position: min(a.Position, b.Position)}, nil
}

func (line) Contains(a, b progress.Progress) (bool, error) { return a.Position >= b.Position, nil }

func (line) Distance(from, to progress.Progress) (int64, error) {
	return max(to.Position-from.Position, 0), nil
}

// state is the whole world: the store with the projection in it, what each worker believes, and what is on its way.
type state struct {
	tokens    []tokenstore.Token // by segment
	bounds    []tokenstore.Boundary
	resetting bool
	replaying bool

	applied uint8    // events in the projection
	ever    uint8    // events that were in it at some time
	highest [2]int64 // epoch that the segment of each id has had

	holdings []holding
	writes   []write
	left     budget
}

// budget bounds the world: how many events there are, and how often the rest may happen.
type budget struct {
	events, claims, reshapes, resets, failures int
	shared                                     bool // batches of two segments in one transaction
}

// all are the events, a bit for each position from 1.
func (s *state) all() uint8 { return 1<<(s.left.events+1) - 2 }

// holding is a segment that a worker believes to have.
type holding struct {
	protocol.Holding
	worker int
	known  bool // it has read the boundaries
	bounds []tokenstore.Boundary
}

// write is a transaction on its way: to the server, or its answer back.
type write struct {
	worker  int
	advance tokenstore.Advance
	events  uint8
	replays uint8 // of these, those that the handler was told are replays
	done    bool
	outcome protocol.Outcome
	lost    bool   // nobody waits for the answer
	with    *write // the other segment's part of a shared transaction; never changed in place
}

// parts are the writes to one token each that the transaction is made of.
func (w write) parts() []write {
	if w.with == nil {
		return []write{w}
	}
	return []write{w, *w.with}
}

// start is a group of these segments of which nobody has claimed any yet.
func start(left budget, layout ...segment.Segment) *state {
	s := &state{left: left}
	for _, whole := range layout {
		s.tokens = append(s.tokens, tokenstore.Token{Key: tokenstore.Key{Group: "g", Segment: whole.ID}, Mask: whole.Mask, Parts: []progress.Part{{Segment: whole}},
			Generation: 1, Epoch: 1, Version: 1})
		s.highest[whole.ID] = 1
	}
	return s
}

// clone copies what steps change. Parts and boundaries are never changed in place.
func (s *state) clone() *state {
	c := *s
	c.tokens, c.holdings, c.writes = slices.Clone(s.tokens), slices.Clone(s.holdings), slices.Clone(s.writes)
	return &c
}

// key tells states apart: epochs and versions count from the lowest that anybody has in mind, and which worker is which does
// not matter.
func (s *state) key() string { return min(s.keyOf(0), s.keyOf(1)) }

// keyOf is the key with the workers' names swapped, or not.
func (s *state) keyOf(swap int) string {
	epoch, version := s.bases()
	b := make([]byte, 0, 256)
	put := func(values ...int64) {
		for _, v := range values {
			b = binary.AppendVarint(b, v)
		}
	}
	parts := func(all []progress.Part) {
		put(int64(len(all)))
		for _, p := range all {
			put(int64(p.Segment.ID), int64(p.Segment.Mask), p.Progress.Position)
		}
	}
	bounds := func(all []tokenstore.Boundary) {
		put(int64(len(all)))
		for _, p := range all {
			put(int64(p.Segment.ID), int64(p.Segment.Mask), p.Progress.Position)
		}
	}
	flag := func(v bool) {
		if v {
			b = append(b, 1)
			return
		}
		b = append(b, 0)
	}
	put(int64(len(s.tokens)))
	for _, t := range s.tokens {
		owner := t.Owner
		if owner != 0 {
			owner = 1 + (owner - 1) ^ int64(swap)
		}
		put(int64(t.Segment), int64(t.Mask), t.Epoch-epoch, t.Version-version, owner)
		parts(t.Parts)
	}
	bounds(s.bounds)
	flag(s.resetting)
	flag(s.replaying)
	put(int64(s.applied), int64(s.ever), max(s.highest[0]-epoch, -1), max(s.highest[1]-epoch, -1), int64(s.left.claims), int64(s.left.reshapes), int64(s.left.resets), int64(s.left.failures))
	put(int64(len(s.holdings)))
	for i := range s.holdings {
		h := &s.holdings[i]
		if swap == 1 && len(s.holdings) > 1 {
			h = &s.holdings[s.swapped(i)]
		}
		put(int64(h.worker^swap), int64(h.Token.Segment), int64(h.Token.Mask), h.Token.Epoch-epoch, h.Token.Version-version)
		parts(h.Token.Parts)
		flag(h.Busy())
		flag(h.Leaving())
		flag(h.known)
		bounds(h.bounds)
	}
	put(int64(len(s.writes)))
	for _, w := range slices.Concat(collect(s.writes)...) {
		flag(w.with != nil)
		put(int64(w.worker^swap), int64(w.advance.Segment), w.advance.Epoch-epoch, w.advance.Version-version, int64(w.events), int64(w.replays), int64(w.outcome))
		parts(w.advance.Parts)
		flag(w.done)
		flag(w.lost)
		flag(w.advance.Release)
	}
	return string(b)
}

// bases are the lowest epoch and version that anybody has in mind.
func (s *state) bases() (epoch, version int64) {
	epoch, version = s.tokens[0].Epoch, s.tokens[0].Version
	see := func(e, v int64) { epoch, version = min(epoch, e), min(version, v) }
	for _, t := range s.tokens {
		see(t.Epoch, t.Version)
	}
	for i := range s.holdings {
		see(s.holdings[i].Token.Epoch, s.holdings[i].Token.Version)
	}
	for _, w := range slices.Concat(collect(s.writes)...) {
		see(w.advance.Epoch, w.advance.Version)
	}
	return epoch, version
}

// collect are the parts of each write.
func collect(writes []write) [][]write {
	all := make([][]write, len(writes))
	for i, w := range writes {
		all[i] = w.parts()
	}
	return all
}

// swapped is where the holding stands that comes i-th when the workers have each other's names.
func (s *state) swapped(i int) int {
	ones := 0
	for j := range s.holdings {
		ones += s.holdings[j].worker
	}
	if i < ones {
		return len(s.holdings) - ones + i
	}
	return i - ones
}

// step is something that can happen: a kind of thing to one of the tokens, holdings or writes.
type step struct {
	kind  string
	at    int
	who   int // worker
	after *state
	err   error // what it breaks
}

// describe says what happens to a state.
func (p step) describe(before *state) string {
	switch {
	case strings.HasPrefix(p.kind, "claim"):
		return fmt.Sprintf("worker %d: %s %s", p.who, p.kind, before.tokens[p.at].Range())
	case strings.HasPrefix(p.kind, "owner"):
		h := &before.holdings[p.at]
		return fmt.Sprintf("%s: worker %d with %s", p.kind, h.worker, h.Token.Range())
	case strings.HasPrefix(p.kind, "write"):
		w := before.writes[p.at]
		return fmt.Sprintf("%s: of worker %d to segment %d at version %d, events %04b", p.kind, w.worker, w.advance.Segment, w.advance.Version, w.events)
	}
	return p.kind
}

// steps are all that can happen next.
func (s *state) steps() []step {
	var all []step
	add := func(kind string, at, who int, change func(*state) error) {
		next := s.clone()
		err := change(next)
		if errors.Is(err, errNot) {
			return
		}
		if err == nil {
			err = next.check(s)
		}
		all = append(all, step{kind, at, who, next, err})
	}
	for w := range workers {
		for i := range s.tokens {
			add("claim", i, w, func(n *state) error { return n.claim(w, i, true) })
			add("claim, the answer is lost", i, w, func(n *state) error { return n.claim(w, i, false) })
		}
	}
	for i := range s.holdings {
		add("owner reads the boundaries", i, 0, func(n *state) error { return n.learn(i) })
		add("owner sends an event", i, 0, func(n *state) error { return n.send(i, 1) })
		add("owner sends two events", i, 0, func(n *state) error { return n.send(i, 2) })
		add("owner sends an event together with one of its other segment", i, 0, func(n *state) error { return n.sendBoth(i) })
		add("owner is to release", i, 0, func(n *state) error { return n.leave(i) })
		add("owner dies", i, 0, func(n *state) error { return n.die(i) })
	}
	for i := range s.writes {
		add("write is carried out", i, 0, func(n *state) error { return n.execute(i) })
		add("write fails", i, 0, func(n *state) error { return n.fail(i) })
		add("write is answered", i, 0, func(n *state) error { return n.answer(i) })
		add("write: its connection is lost", i, 0, func(n *state) error { return n.lose(i) })
		add("write is taken for failed", i, 0, func(n *state) error { return n.misjudge(i) })
	}
	for kind, change := range map[string]func(*state) error{
		"split": (*state).split, "merge": (*state).merge, "a reset begins": (*state).beginReset, "the reset is given up": (*state).endReset,
		"the reset": (*state).reset, "the replay is complete": (*state).complete, "the replay is abandoned": (*state).abandon,
	} {
		add(kind, 0, 0, change)
	}
	return all
}

// errNot says that a step is not possible now.
var errNot = errors.New("not now")

func (s *state) spend(what *int) error {
	if *what == 0 {
		return errNot
	}
	*what--
	return nil
}

// claim may happen at any time: whoever thinks that the owner is dead may be wrong.
func (s *state) claim(worker, i int, heard bool) error {
	if err := s.spend(&s.left.claims); err != nil {
		return err
	}
	t := s.tokens[i]
	if slices.ContainsFunc(s.holdings, func(h holding) bool { return h.worker == worker && h.Token.Key == t.Key }) {
		return errNot // a worker that has it does not claim it
	}
	if t.Least = 0; s.resetting {
		t.Least = math.MaxInt64
	}
	claimed, err := protocol.Claimed(t, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch}, int64(worker+1), 1)
	if err != nil {
		return errNot
	}
	s.tokens[i] = claimed
	if heard {
		s.hold(holding{Holding: protocol.Hold(claimed), worker: worker})
	}
	return nil
}

func (s *state) hold(h holding) {
	s.holdings = append(s.holdings, h)
	slices.SortFunc(s.holdings, func(a, b holding) int { return 2*(a.worker-b.worker) + int(a.Token.Segment) - int(b.Token.Segment) })
}

func (s *state) learn(i int) error {
	if s.holdings[i].known {
		return errNot
	}
	s.holdings[i].known, s.holdings[i].bounds = true, s.bounds
	return nil
}

// send has a worker handle the next events that its parts lack, as far as it knows, and send the batch.
func (s *state) send(i, count int) error {
	h := &s.holdings[i]
	if !h.known || !h.Begin() {
		return errNot
	}
	w := write{worker: h.worker}
	var last int64
	for p := int64(1); p <= int64(s.left.events) && count > 0; p++ {
		for _, part := range h.Token.Parts {
			if part.Segment.Contains(hashOf(p)) && part.Progress.Position < p {
				w.events |= 1 << p
				if again(h.bounds, p) {
					w.replays |= 1 << p
				}
				last = p
				count--
			}
		}
	}
	if count > 0 {
		return errNot // there are fewer
	}
	parts := make([]progress.Part, len(h.Token.Parts))
	for j, part := range h.Token.Parts {
		parts[j] = progress.Part{Segment: part.Segment, Progress: progress.Progress{Position: max(part.Progress.Position, last)}}
	}
	w.advance = h.Advance(protocol.Joined(h.Token.Range(), parts), false)
	s.writes = append(s.writes, w)
	return nil
}

// sendBoth has a worker send a batch of one event of each of its two segments, in one transaction.
func (s *state) sendBoth(i int) error {
	other := i + 1
	if !s.left.shared || other == len(s.holdings) || s.holdings[other].worker != s.holdings[i].worker {
		return errNot
	}
	if err := s.send(i, 1); err != nil {
		return err
	}
	if err := s.send(other, 1); err != nil {
		return err
	}
	last := len(s.writes) - 1
	with := s.writes[last]
	s.writes = s.writes[:last]
	s.writes[last-1].with = &with
	return nil
}

func again(bounds []tokenstore.Boundary, position int64) bool {
	return slices.ContainsFunc(bounds, func(b tokenstore.Boundary) bool {
		return b.Segment.Contains(hashOf(position)) && position <= b.Progress.Position
	})
}

func (s *state) leave(i int) error {
	h := &s.holdings[i]
	if h.Leaving() {
		return errNot
	}
	if h.Leave() {
		return s.release(i)
	}
	return nil
}

func (s *state) release(i int) error {
	h := &s.holdings[i]
	if slices.ContainsFunc(s.writes, func(w write) bool {
		return !w.lost && w.worker == h.worker && w.advance.Key == h.Token.Key && w.advance.Epoch == h.Token.Epoch
	}) {
		return errors.New("a segment is released before its batch has ended")
	}
	s.writes = append(s.writes, write{worker: h.worker, advance: h.Advance(h.Token.Parts, true)})
	return nil
}

// die ends a worker's holding without a word; what it has sent may still arrive.
func (s *state) die(i int) error {
	h := s.holdings[i]
	for j := range s.writes {
		if s.mine(h, s.writes[j]) && s.writes[j].with == nil { // another segment may wait for it, too
			s.writes[j].lost = true
		}
	}
	s.holdings = slices.Delete(s.holdings, i, i+1)
	s.forget()
	return nil
}

// forget drops answers that nobody waits for.
func (s *state) forget() {
	s.writes = slices.DeleteFunc(s.writes, func(w write) bool { return w.done && w.lost })
}

func (s *state) mine(h holding, w write) bool {
	return h.worker == w.worker && h.Token.Key == w.advance.Key && h.Token.Epoch == w.advance.Epoch
}

// execute is the server's part: the fence, and the effects with it.
func (s *state) execute(i int) error {
	w := &s.writes[i]
	if w.done {
		return errNot
	}
	w.done, w.outcome = true, protocol.Fenced
	moved := slices.Clone(s.tokens) // all of them or none
	var events, replays uint8
	for _, part := range w.parts() {
		at := slices.IndexFunc(moved, func(t tokenstore.Token) bool { return t.Key == part.advance.Key })
		if at < 0 {
			s.forget()
			return nil
		}
		owner := moved[at].Owner
		var err error
		if moved[at], err = protocol.Advanced(moved[at], part.advance); err != nil {
			s.forget()
			return nil
		}
		if owner != int64(w.worker+1) {
			return fmt.Errorf("worker %d commits to a segment of worker %d", w.worker, owner-1)
		}
		events, replays = events|part.events, replays|part.replays
	}
	w.outcome, s.tokens = protocol.Committed, moved
	defer s.forget()
	return s.apply(events, replays)
}

// apply has the projection take events.
func (s *state) apply(events, replays uint8) error {
	for p := int64(1); p <= int64(s.left.events); p++ {
		bit := uint8(1) << p
		if events&bit == 0 {
			continue
		}
		if s.applied&bit != 0 {
			return fmt.Errorf("event %d is applied twice", p)
		}
		for q := int64(1); q < p; q++ {
			if hashOf(q) == hashOf(p) && s.applied&(1<<q) == 0 {
				return fmt.Errorf("event %d is applied before event %d of its key", p, q)
			}
		}
		if told := replays&bit != 0; told != (s.ever&bit != 0) {
			return fmt.Errorf("event %d is told to be a replay: %t, and was handled before: %t", p, told, !told)
		}
		s.applied |= bit
		s.ever |= bit
	}
	return nil
}

// fail ends a write that has not been carried out; the worker is told so.
func (s *state) fail(i int) error {
	w := &s.writes[i]
	if w.done {
		return errNot
	}
	if err := s.spend(&s.left.failures); err != nil {
		return err
	}
	w.done, w.outcome = true, protocol.RolledBack
	s.forget()
	return nil
}

func (s *state) answer(i int) error {
	w := s.writes[i]
	if !w.done || w.lost {
		return errNot
	}
	s.writes = slices.Delete(s.writes, i, i+1)
	return s.settle(w, w.outcome)
}

// lose cuts the connection of whoever waits for a write, which may be carried out all the same.
func (s *state) lose(i int) error {
	w := &s.writes[i]
	if w.lost {
		return errNot
	}
	w.lost = true
	lost := *w
	s.forget()
	return s.settle(lost, protocol.Unknown)
}

// misjudge has the owner of a write take it for failed, as when a handler's time is over while its commit is on the way: it believes
// its token to be as it was, and may send the same events again. The write may be carried out all the same.
func (s *state) misjudge(i int) error {
	w := &s.writes[i]
	if err := s.spend(&s.left.failures); err != nil || w.lost || w.advance.Release {
		return errNot
	}
	w.lost = true
	lost := *w
	s.forget()
	return s.settle(lost, protocol.RolledBack)
}

// settle has the owner take note of how a write ended. A fence of several tokens does not say which has moved on: each is believed to
// be as it was, and tried alone.
func (s *state) settle(w write, o protocol.Outcome) error {
	if o == protocol.Fenced && w.with != nil {
		o = protocol.RolledBack
	}
	for _, part := range w.parts() {
		if err := s.settleOne(part, o); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) settleOne(w write, o protocol.Outcome) error {
	i := slices.IndexFunc(s.holdings, func(h holding) bool { return s.mine(h, w) })
	if i < 0 {
		return nil
	}
	h := &s.holdings[i]
	h.Settle(w.advance, o)
	if w.advance.Release {
		h.Lose() // whatever has become of it, the token tells
	}
	release := h.End()
	if h.Gone() {
		s.holdings = slices.Delete(s.holdings, i, i+1)
		return nil
	}
	if release {
		return s.release(i)
	}
	return nil
}

func (s *state) split() error {
	if err := s.spend(&s.left.reshapes); err != nil || len(s.tokens) != 1 {
		return errNot
	}
	low, high, err := protocol.Halves(s.tokens[0])
	s.tokens = []tokenstore.Token{low, high}
	return err
}

func (s *state) merge() error {
	if err := s.spend(&s.left.reshapes); err != nil || len(s.tokens) != 2 {
		return errNot
	}
	s.tokens = []tokenstore.Token{protocol.Whole(s.tokens[0], s.tokens[1])}
	return nil
}

func (s *state) beginReset() error {
	if err := s.spend(&s.left.resets); err != nil || s.resetting || s.replaying {
		return errNot
	}
	s.resetting = true
	for i, t := range s.tokens {
		s.tokens[i] = protocol.Disowned(t)
	}
	return nil
}

func (s *state) endReset() error {
	if !s.resetting {
		return errNot
	}
	s.resetting = false
	return nil
}

// reset is one transaction: the projection is emptied and the tokens go back.
func (s *state) reset() error {
	if !s.resetting {
		return errNot
	}
	r, err := protocol.Reset(line{}, s.tokens, s.bounds, progress.Earliest, progress.Progress{})
	if err != nil {
		return err
	}
	s.tokens, s.bounds = r.Tokens, r.Boundaries
	s.resetting, s.replaying, s.applied = false, true, 0
	return nil
}

func (s *state) complete() error {
	if !s.replaying {
		return errNot
	}
	_, _, complete, err := protocol.Replayed(line{}, s.tokens, s.bounds)
	if err != nil {
		return err
	}
	if !complete {
		return errNot
	}
	s.replaying, s.bounds = false, nil
	return nil
}

// abandon leaves the projection as it is; what it lacks counts as applied from now on.
func (s *state) abandon() error {
	if !s.replaying {
		return errNot
	}
	moved, _, err := protocol.Abandoning(line{}, s.tokens, s.bounds)
	if err != nil {
		return err
	}
	for _, t := range moved {
		i := slices.IndexFunc(s.tokens, func(old tokenstore.Token) bool { return old.Key == t.Key })
		s.tokens[i] = t
	}
	s.replaying, s.bounds, s.applied = false, nil, s.ever
	return nil
}
