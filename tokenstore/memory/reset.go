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
	defer s.transaction()()
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
	s.changed("")
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

// resetTry is a try of a reset. Nobody waits for locks here, and handlers end.
type resetTry struct{ Store }

// TryReset implements tokenstore.Resets.
func (s Store) TryReset(context.Context) (tokenstore.ResetTry, error) { return resetTry{s}, nil }

// BlockedBy implements tokenstore.ResetTry.
func (resetTry) BlockedBy(context.Context) (string, error) { return "", nil }

// Unblock implements tokenstore.ResetTry.
func (resetTry) Unblock(context.Context) error { return nil }

// Abandon implements tokenstore.ResetTry.
func (resetTry) Abandon() error { return nil }

// Close implements tokenstore.ResetTry.
func (resetTry) Close(context.Context) {}

// MarkReset implements tokenstore.Resets.
func (s Store) MarkReset(_ context.Context, r tokenstore.Replay, worker int64) (attempts, failures int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.row(r.Number)
	if e.Phase != tokenstore.ReplayResetting {
		return 0, 0, &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "the reset has ended in the meantime"}
	}
	if e.calling != 0 {
		e.Attempts, e.failures = e.Attempts+1, e.failures+1
	}
	e.calling = worker
	return e.Attempts, e.failures, nil
}

// UnmarkReset implements tokenstore.Resets.
func (s Store) UnmarkReset(_ context.Context, r tokenstore.Replay, worker int64, attempts, failures int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.row(r.Number); e.Phase == tokenstore.ReplayResetting {
		if e.calling == worker {
			e.calling = 0
		}
		e.Attempts, e.failures = e.Attempts+attempts, e.failures+failures
	}
	return nil
}

// TerminateReset implements tokenstore.Resets.
func (s Store) TerminateReset(context.Context, tokenstore.Replay) (bool, error) { return false, nil }

// Run implements tokenstore.ResetTry. The handlers get a *Tx. They may call the store, but for what
// they reset: the lock is not held meanwhile.
func (t resetTry) Run(ctx context.Context, processor string, r tokenstore.Replay, n progress.Algebra, start progress.Progress, run tokenstore.ResetRun) error {
	if err := t.due(processor, r); err != nil {
		return err
	}
	tx := &Tx{writes: map[string]string{}}
	if err := run.Handlers(ctx, tx); err != nil {
		return err
	}
	return t.rewind(processor, r, n, start, tx)
}

// due checks that the reset has begun, is wanted, and that nobody runs another definition.
func (s Store) due(processor string, r tokenstore.Replay) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stillDue(processor, r)
}

// stillDue is due for who has the lock.
func (s Store) stillDue(processor string, r tokenstore.Replay) error {
	e := s.row(r.Number)
	switch {
	case e.Phase != tokenstore.ReplayResetting:
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "the reset has ended in the meantime"}
	case e.State != tokenstore.ReplayWanted:
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayCancelledMeanwhile, Message: "cancelled before the reset"}
	}
	return s.agreed(processor, r.Definition)
}

// rewind is the second half of a reset: the rows of the handlers, and the tokens.
func (s Store) rewind(processor string, r tokenstore.Replay, n progress.Algebra, start progress.Progress, tx *Tx) error {
	defer s.transaction()()
	if err := s.stillDue(processor, r); err != nil {
		return err
	}
	e := s.row(r.Number)
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
	s.write(tx)
	s.changed("")
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
	s.changed("")
	return nil
}

// Explain implements tokenstore.Resets.
func (s Store) Explain(_ context.Context, r tokenstore.Replay, reason, message string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.row(r.Number)
	if (e.Phase == tokenstore.ReplayPending || e.Phase == tokenstore.ReplayResetting) && (e.Reason != reason || e.Message != message) {
		e.Reason, e.Message = reason, message
		s.changed(e.processor)
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
	s.changed("")
	return nil
}

// Abandon implements tokenstore.Resets.
func (s Store) Abandon(_ context.Context, r tokenstore.Replay, n progress.Algebra) error {
	defer s.transaction()()
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
	s.changed("")
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
