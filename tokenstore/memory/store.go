package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Store is a tokenstore.Store.
type Store struct{ *Database }

var (
	_ tokenstore.Store   = Store{}
	_ tokenstore.Replays = Store{}
	_ tokenstore.Resets  = Store{}
)

// Store returns the database's token store.
func (d *Database) Store() Store { return Store{d} }

// Tx is a transaction of a projection: what it writes is there once it has committed.
type Tx struct {
	writes  map[string]string
	appends map[string]string
}

// Put writes a row.
func (t *Tx) Put(key, value string) { t.writes[key] = value }

// Append adds text to a row, as it is when the transaction commits.
func (t *Tx) Append(key, text string) {
	if t.appends == nil {
		t.appends = map[string]string{}
	}
	t.appends[key] += text
}

// Declare implements tokenstore.Store.
func (s Store) Declare(_ context.Context, owner tokenstore.Owner, groups []tokenstore.Group, requested []tokenstore.ReplayRequest,
	start func(string) (progress.Progress, error),
) error {
	defer s.transaction()()
	names := map[string]bool{}
	for _, wanted := range groups {
		names[wanted.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		g := s.groups[name]
		if (names[name] || g.owner.Processor == owner.Processor) && !g.retired && !owner.MayTake(g.owner) {
			return &tokenstore.GroupConflictError{Group: name, Owner: g.owner, By: owner}
		}
	}
	owner.TakeOverFrom = nil // is not kept
	var declared []*group
	var made []string
	for _, wanted := range groups {
		g, created, err := s.declared(owner, wanted, requested, start)
		if err != nil {
			return err
		}
		declared = append(declared, g)
		if created {
			made = append(made, wanted.Name)
		}
	}
	for _, g := range s.groups {
		if g.owner.Processor == owner.Processor && !names[g.Name] {
			g.owner, g.retired = owner, true
		}
	}
	for _, g := range declared {
		s.groups[g.Name] = g
	}
	s.supersede(owner.Processor, made, requested)
	return nil
}

// declared is a group as it is once its owner, who may have it, declares it; nothing has changed
// yet.
func (s Store) declared(owner tokenstore.Owner, wanted tokenstore.Group, requested []tokenstore.ReplayRequest, start func(string) (progress.Progress, error)) (*group, bool, error) {
	wanted.Sequencing = cmp.Or(wanted.Sequencing, segment.PerStream.String())
	next := &group{owner: owner, Group: wanted, tokens: map[uint32]tokenstore.Token{}}
	if old := s.groups[wanted.Name]; old != nil {
		next = old.of(owner)
		next.Segments = wanted.Segments
		if len(old.tokens) > 0 {
			if refusal := s.refuse(owner.Processor, old, wanted, requested); refusal != nil {
				return nil, false, refusal
			}
			return next, false, nil
		}
		next.Sequencing, next.tokens = wanted.Sequencing, map[uint32]tokenstore.Token{}
	}
	layout, err := segment.Layout(wanted.Segments)
	if err != nil {
		return nil, false, fmt.Errorf("group %s: %w", wanted.Name, err)
	}
	at, err := start(wanted.Name)
	if err != nil {
		return nil, false, fmt.Errorf("finding where group %s starts: %w", wanted.Name, err)
	}
	for _, part := range layout {
		next.put(tokenstore.Token{Key: tokenstore.Key{Group: wanted.Name, Segment: part.ID}, Mask: part.Mask,
			Parts: []progress.Part{{Segment: part, Progress: at}}, Generation: 1, Epoch: next.floor + 1, Version: next.floor + 1})
	}
	return next, true, nil
}

// refuse says why a group that has tokens cannot be declared with its sequencing.
func (s Store) refuse(processor string, g *group, wanted tokenstore.Group, requested []tokenstore.ReplayRequest) error {
	running := ""
	var ledger []tokenstore.Replay
	for _, e := range s.ledger {
		if e.processor == processor || e.Number == g.replay {
			ledger = append(ledger, e.Replay)
		}
		if e.Number == g.replay && e.Phase == tokenstore.ReplayRunning {
			running = e.ID
		}
	}
	if refusal := tokenstore.RefuseSequencing(g.Name, g.Sequencing, wanted.Sequencing, running, requested, ledger); refusal != nil {
		return refusal
	}
	return nil
}

// Drop implements tokenstore.Store.
func (s Store) Drop(_ context.Context, owner tokenstore.Owner) error {
	defer s.transaction()()
	all := s.of(owner.Processor, true)
	if slices.ContainsFunc(all, func(g *group) bool { return !owner.Has(g.owner) }) {
		return nil
	}
	s.dropReplays(owner.Processor)
	for _, g := range all {
		for _, t := range g.tokens {
			g.floor = max(g.floor, t.Epoch, t.Version)
			delete(s.failures, t.Key)
		}
		g.retired, g.tokens = true, nil
	}
	return nil
}

// of returns the groups of a processor by name.
func (s Store) of(processor string, retired bool) []*group {
	var all []*group
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		if g := s.groups[name]; g.owner.Processor == processor && (retired || !g.retired) {
			all = append(all, g)
		}
	}
	return all
}

// Groups implements tokenstore.Store.
func (s Store) Groups(_ context.Context, processor string) ([]tokenstore.Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []tokenstore.Group
	for _, g := range s.of(processor, false) {
		all = append(all, g.Group)
	}
	return all, nil
}

// Tokens implements tokenstore.Store.
func (s Store) Tokens(_ context.Context, processor string) ([]tokenstore.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []tokenstore.Token
	for _, g := range s.of(processor, false) {
		all = append(all, g.all()...)
	}
	return all, nil
}

// all returns the group's tokens by segment, as the store gives them out.
func (g *group) all() []tokenstore.Token {
	var all []tokenstore.Token
	for _, id := range slices.Sorted(maps.Keys(g.tokens)) {
		all = append(all, g.shown(g.tokens[id]))
	}
	return all
}

func (g *group) shown(t tokenstore.Token) tokenstore.Token {
	t.Parts = slices.Clone(t.Parts)
	slices.SortFunc(t.Parts, func(a, b progress.Part) int { return int(a.Segment.ID) - int(b.Segment.ID) })
	t.Sequencing = g.Sequencing
	if t.Least = g.least; g.resetting {
		t.Least = math.MaxInt64
	}
	return t
}

// Failures implements tokenstore.Store.
func (s Store) Failures(_ context.Context, processor string) ([]tokenstore.Failure, error) {
	return s.failuresWhere(processor, func(f tokenstore.Failure) bool { return f.Attempts > 0 }), nil
}

// Attempts implements tokenstore.Store.
func (s Store) Attempts(_ context.Context, processor string) ([]tokenstore.Failure, error) {
	return s.failuresWhere(processor, func(tokenstore.Failure) bool { return true }), nil
}

func (s Store) failuresWhere(processor string, wanted func(tokenstore.Failure) bool) (all []tokenstore.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.of(processor, true) {
		for _, t := range g.all() {
			if f, failed := s.failures[t.Key]; failed && wanted(f) {
				all = append(all, f)
			}
		}
	}
	return all
}

// Claim implements tokenstore.Store.
func (s Store) Claim(_ context.Context, processor string, worker, definition int64, claims []tokenstore.Claim) ([]tokenstore.Token, error) {
	defer s.transaction()()
	var got []tokenstore.Token
	for _, g := range s.of(processor, false) {
		for _, t := range g.all() {
			i := slices.IndexFunc(claims, func(c tokenstore.Claim) bool { return c.Key == t.Key })
			if i < 0 {
				continue
			}
			claimed, err := protocol.Claimed(t, claims[i], worker, definition)
			if err != nil {
				continue
			}
			if t.Owner != worker {
				s.blame(processor, t.Owner)
			}
			g.put(claimed)
			got = append(got, g.shown(claimed))
		}
	}
	return got, nil
}

// Advance implements tokenstore.Store.
func (s Store) Advance(ctx context.Context, advances []tokenstore.Advance) error {
	return s.InTx(ctx, advances, func(tokenstore.Tx) error { return nil })
}

// Pipeline implements tokenstore.Commits. The statements are a *Tx.
func (s Store) Pipeline(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return s.InTx(ctx, advances, func(tx tokenstore.Tx) error { return queue(tx) })
}

// Queue implements tokenstore.Commits. The statements are a *Tx: nothing that is put there ends the
// transaction.
func (s Store) Queue(ctx context.Context, advances []tokenstore.Advance, queue func(tokenstore.Statements) error) error {
	return s.Pipeline(ctx, advances, queue)
}

// InTx implements tokenstore.Commits. The transaction is a *Tx.
func (s Store) InTx(_ context.Context, advances []tokenstore.Advance, work func(tokenstore.Tx) error) error {
	tx := &Tx{writes: map[string]string{}}
	if err := work(tx); err != nil {
		return err
	}
	defer s.transaction()()
	moved := make([]tokenstore.Token, len(advances))
	for i, a := range advances {
		g := s.groups[a.Group]
		if g == nil {
			return tokenstore.ErrFenced
		}
		t, there := g.tokens[a.Segment]
		if !there {
			return tokenstore.ErrFenced
		}
		var err error
		if moved[i], err = protocol.Advanced(t, a); err != nil {
			return err
		}
	}
	for i, a := range advances {
		s.groups[a.Group].put(moved[i])
		if a.Recovers {
			delete(s.failures, a.Key)
		}
	}
	s.write(tx)
	for _, a := range advances {
		if a.Release {
			s.changed("")
			break
		}
	}
	return nil
}

// write writes what a transaction has.
func (s Store) write(tx *Tx) {
	s.observer.tx = tx
	maps.Copy(s.rows, tx.writes)
	for key, text := range tx.appends {
		s.rows[key] += text
	}
}

// Fail implements tokenstore.Store.
func (s Store) Fail(_ context.Context, epoch, version int64, f tokenstore.Failure, retryIn time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.has(f.Key, epoch, version) {
		return tokenstore.ErrFenced
	}
	f.FailedAt = s.now()
	f.Tried = append([]int64{}, f.Tried...)
	f.RetryAt, f.Since, f.Calling, f.Last = f.FailedAt.Add(retryIn), f.FailedAt, false, f.Position
	if old, there := s.failures[f.Key]; there && old.Position == f.Position && old.Attempts > 0 {
		f.Since = old.Since
	}
	s.failures[f.Key] = f
	return nil
}

// Mark implements tokenstore.Store.
func (s Store) Mark(_ context.Context, epoch, version int64, m tokenstore.Failure) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.has(m.Key, epoch, version) {
		return tokenstore.ErrFenced
	}
	f, there := s.failures[m.Key]
	if !there || f.Position != m.Position {
		now := s.now()
		f = tokenstore.Failure{Key: m.Key, Position: m.Position, Tried: []int64{}, RetryAt: now, FailedAt: now, Since: now}
	}
	f.Calling, f.Last, f.EventMark, f.Type, f.Stream = m.Calling, m.Last, m.EventMark, m.Type, m.Stream
	s.failures[m.Key] = f
	return nil
}

// has reports whether a token has an epoch and a version. The caller holds the lock.
func (s Store) has(key tokenstore.Key, epoch, version int64) bool {
	g := s.groups[key.Group]
	if g == nil {
		return false
	}
	t, there := g.tokens[key.Segment]
	return there && t.Epoch == epoch && t.Version == version
}

// Split implements tokenstore.Store.
func (s Store) Split(_ context.Context, name string, whole segment.Segment) error {
	defer s.transaction()()
	g := s.groups[name]
	if g == nil {
		return tokenstore.ErrLayoutChanged
	}
	t, there := g.find(whole)
	if !there {
		return tokenstore.ErrLayoutChanged
	}
	low, high, err := protocol.Halves(t)
	if err != nil {
		return err
	}
	g.put(low)
	g.put(high)
	if f, failed := s.failures[low.Key]; failed { // of which half the event is, is not known
		f.Key = high.Key
		s.failures[high.Key] = f
	}
	return nil
}

// Merge implements tokenstore.Store.
func (s Store) Merge(_ context.Context, name string, low segment.Segment) error {
	defer s.transaction()()
	g := s.groups[name]
	if g == nil {
		return tokenstore.ErrLayoutChanged
	}
	low, high := low.Pair()
	a, there := g.find(low)
	b, also := g.find(high)
	if !there || !also || low == high {
		return tokenstore.ErrLayoutChanged
	}
	delete(g.tokens, b.Segment)
	g.put(protocol.Whole(a, b))
	if f, failed := s.failures[b.Key]; failed {
		if other, also := s.failures[a.Key]; also {
			f = protocol.FirstFailure(other, f)
		}
		f.Key = a.Key
		s.failures[a.Key] = f
		delete(s.failures, b.Key)
	}
	return nil
}

// rewrite writes tokens that have moved. What failed before is forgotten.
func (s Store) rewrite(g *group, tokens ...tokenstore.Token) {
	for _, t := range tokens {
		g.put(t)
		delete(s.failures, t.Key)
	}
}
