package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/protocol"
)

// Replaying implements tokenstore.Resets.
func (s Store) Replaying(_ context.Context, processor string) (map[string]*tokenstore.Replaying, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	groups := map[string]*tokenstore.Replaying{}
	for _, g := range s.of(processor, true) {
		if len(g.boundaries) > 0 {
			r := s.row(g.replay)
			bounds := slices.SortedFunc(slices.Values(g.boundaries), func(a, b tokenstore.Boundary) int { return cmp.Compare(a.Segment.ID, b.Segment.ID) })
			groups[g.Name] = &tokenstore.Replaying{Number: r.Number, ID: r.ID, Context: maps.Clone(r.Context), Boundaries: bounds}
		}
	}
	return groups, nil
}

// BeginReset implements tokenstore.Resets.
func (s Store) BeginReset(_ context.Context, processor string, r tokenstore.Replay) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.row(r.Number)
	if e.Phase != tokenstore.ReplayPending || e.State != tokenstore.ReplayWanted || !e.same(r) {
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "the replay was changed, withdrawn or begun in the meantime"}
	}
	var groups []*group
	for _, name := range r.Groups {
		g := s.groups[name]
		if g == nil || g.owner.Processor != processor || g.retired {
			return &tokenstore.NotDueError{Reason: tokenstore.ReplayGroupMissing, Message: "the processor has no group " + name}
		}
		groups = append(groups, g)
	}
	for _, g := range groups {
		if g.replay != 0 {
			return &tokenstore.NotDueError{Reason: tokenstore.ReplayWaitsForOther,
				Message: fmt.Sprintf("replay %s of group %s runs first: wait for it, or abandon it", s.row(g.replay).ID, g.Name)}
		}
	}
	if err := s.agreed(processor, r.Definition); err != nil {
		return err
	}
	e.Phase, e.Reason, e.Message = tokenstore.ReplayResetting, "", ""
	for _, g := range groups {
		g.replay, g.resetting = r.Number, true
		g.least = max(g.least, s.processors[processor].number(r.Definition))
		for _, t := range g.tokens {
			g.put(protocol.Disowned(t))
		}
	}
	return nil
}

// agreed checks that the definition is the wanted one and that every live worker runs it.
func (s Store) agreed(processor, definition string) error {
	p := s.processors[processor]
	if p == nil {
		return tokenstore.ErrNoProcessor
	}
	var others []string
	for _, w := range s.workers {
		if w.processor == processor && w.Definition != definition && s.alive(w) {
			others = append(others, w.Pod)
		}
	}
	slices.Sort(others)
	return tokenstore.Agreed(definition, p.Definition, others)
}

// Reset runs the reset handlers of a replay that BeginReset has begun, and moves the tokens of its groups to the place whose
// progress is start. It all commits or none of it. A *tokenstore.NotDueError says that the reset is not to go on. Errors of
// handlers come back as they are.
func (s Store) Reset(_ context.Context, processor string, r tokenstore.Replay, n progress.Algebra, start progress.Progress, handlers func(*Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.row(r.Number)
	switch {
	case e.Phase != tokenstore.ReplayResetting:
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "the reset has ended in the meantime"}
	case e.State != tokenstore.ReplayWanted:
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayCancelledMeanwhile, Message: "cancelled before the reset"}
	}
	if err := s.agreed(processor, r.Definition); err != nil {
		return err
	}
	tx := &Tx{writes: map[string]string{}}
	if err := handlers(tx); err != nil {
		return err
	}
	rewinds := map[*group]protocol.Rewind{}
	var total int64
	for _, name := range r.Groups {
		g := s.groups[name]
		rewind, err := protocol.Resequenced(n, g.all(), g.boundaries, cmp.Or(r.Sequencing[name], g.Sequencing), r.From.Type, start)
		if err != nil {
			return fmt.Errorf("group %s: %w", name, err)
		}
		rewinds[g] = rewind
		total += rewind.Total
	}
	for g, rewind := range rewinds {
		s.rewrite(g, rewind.Tokens...)
		g.boundaries, g.resetting, g.Sequencing = rewind.Boundaries, false, cmp.Or(r.Sequencing[g.Name], g.Sequencing)
	}
	now := s.now()
	e.Phase, e.Reason, e.Message, e.ResetAt, e.Done, e.Total = tokenstore.ReplayRunning, "", "", &now, 0, total
	maps.Copy(s.rows, tx.writes)
	return nil
}

// EndReset implements tokenstore.Resets.
func (s Store) EndReset(_ context.Context, r tokenstore.Replay, phase tokenstore.ReplayPhase, reason, message string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.row(r.Number)
	if e.Phase != tokenstore.ReplayPending && e.Phase != tokenstore.ReplayResetting {
		return nil
	}
	s.end(e, phase, reason, message)
	if phase == tokenstore.ReplayPending {
		e.EndedAt = nil
	}
	for _, g := range s.groups {
		if g.replay == r.Number {
			g.replay, g.resetting = 0, false
		}
	}
	return nil
}

// Explain implements tokenstore.Resets.
func (s Store) Explain(_ context.Context, r tokenstore.Replay, reason, message string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.row(r.Number); e.Phase == tokenstore.ReplayPending || e.Phase == tokenstore.ReplayResetting {
		e.Reason, e.Message = reason, message
	}
	return nil
}

// Record implements tokenstore.Resets.
func (s Store) Record(_ context.Context, r tokenstore.Replay, done, total int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.row(r.Number); e.Phase == tokenstore.ReplayRunning {
		e.Done, e.Total = done, total
	}
	return nil
}

// Complete implements tokenstore.Resets.
func (s Store) Complete(_ context.Context, r tokenstore.Replay) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.row(r.Number)
	if e.Phase != tokenstore.ReplayRunning {
		return nil
	}
	s.end(e, tokenstore.ReplayComplete, "", "")
	e.Done = e.Total
	for _, g := range s.replayed(r) {
		g.replay, g.boundaries, g.Incomplete = 0, nil, false
	}
	return nil
}

// Abandon implements tokenstore.Resets.
func (s Store) Abandon(_ context.Context, r tokenstore.Replay, n progress.Algebra) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.row(r.Number)
	if e.Phase != tokenstore.ReplayRunning {
		return nil
	}
	moved := map[*group][]tokenstore.Token{}
	all := true
	for _, g := range s.replayed(r) {
		tokens, done, err := protocol.Abandoning(n, g.all(), g.boundaries)
		if err != nil {
			return fmt.Errorf("ending replay %s: group %s: %w", r.ID, g.Name, err)
		}
		moved[g], all = tokens, all && done
	}
	for g, tokens := range moved {
		s.rewrite(g, tokens...)
	}
	if !all {
		e.Reason, e.Message = tokenstore.ReplayAbandoning, "it handles again first what only some segments had handled"
		return nil
	}
	for g := range moved {
		g.replay, g.boundaries, g.Incomplete = 0, nil, true
	}
	s.end(e, tokenstore.ReplayAbandoned, "", "")
	return nil
}

// replayed are the groups that are in the middle of a replay.
func (s Store) replayed(r tokenstore.Replay) []*group {
	var all []*group
	for _, g := range s.groups {
		if g.replay == r.Number {
			all = append(all, g)
		}
	}
	return all
}
