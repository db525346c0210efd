package memory

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/sluice-project/sluice/tokenstore"
)

// entry is a row of the ledger.
type entry struct {
	tokenstore.Replay
	processor string
	calling   int64 // the worker that calls the reset handlers, or ended in the call; 0 for none
	failures  int   // of the attempts, those that count
}

// RequestReplays implements tokenstore.Replays.
func (s Store) RequestReplays(_ context.Context, processor string, requests []tokenstore.ReplayRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed(processor)
	asked := map[string]bool{}
	for _, r := range requests {
		asked[r.ID] = true
		s.request(processor, r)
	}
	s.ledger = slices.DeleteFunc(s.ledger, func(e *entry) bool {
		return e.processor == processor && e.Phase == tokenstore.ReplayPending && !asked[e.ID]
	})
	for _, e := range s.ledger {
		if e.processor != processor {
			continue
		}
		if e.Phase == tokenstore.ReplayResetting && !asked[e.ID] {
			e.State = tokenstore.ReplayToBeCancelled
		}
		if e.Phase == tokenstore.ReplayPending && e.State != tokenstore.ReplayWanted {
			s.end(e, tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile, "cancelled before the reset: nothing has happened")
		}
	}
	return nil
}

// request adds a row that the ledger lacks, or brings one up to date that has not ended.
func (s Store) request(processor string, r tokenstore.ReplayRequest) {
	i := slices.IndexFunc(s.ledger, func(e *entry) bool { return e.processor == processor && e.ID == r.ID })
	if i < 0 {
		s.add(processor, r)
		return
	}
	e := s.ledger[i]
	if e.Phase.Ended() {
		return
	}
	if e.Phase == tokenstore.ReplayPending {
		if !reflect.DeepEqual(e.From, r.From) {
			e.Reason, e.Message = "", ""
		}
		e.Groups, e.From, e.Context = slices.Clone(r.Groups), r.From, orEmpty(r.Context)
	}
	if r.Rebind {
		e.Definition = r.Definition
	}
	if r.Rebind && e.Phase != tokenstore.ReplayRunning {
		e.Sequencing = maps.Clone(r.Sequencing)
	}
	e.State, e.Unguarded = r.State, append([]string{}, r.Unguarded...)
}

func (s Store) add(processor string, r tokenstore.ReplayRequest) {
	s.lastReplay++
	r.Rebind, r.Context, r.Unguarded = false, orEmpty(r.Context), append([]string{}, r.Unguarded...)
	e := &entry{processor: processor, Replay: tokenstore.Replay{ReplayRequest: r, Number: s.lastReplay, Phase: tokenstore.ReplayPending, RequestedAt: s.now()}}
	for _, other := range s.ledger {
		if other.ID == r.ID && other.processor != processor && other.ResetAt != nil && overlap(other.Groups, r.Groups) {
			s.end(e, tokenstore.ReplaySuperseded, tokenstore.ReplayRanElsewhere, fmt.Sprintf("it has run for processor %s, which had the groups before", other.processor))
		}
	}
	s.ledger = append(s.ledger, e)
}

func (s Store) end(e *entry, phase tokenstore.ReplayPhase, reason, message string) {
	now := s.now()
	e.Phase, e.Reason, e.Message, e.EndedAt = phase, reason, message, &now
}

func orEmpty(context map[string]string) map[string]string {
	if context == nil {
		return map[string]string{}
	}
	return maps.Clone(context)
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// supersede records the requests that were there before any of their groups.
func (s Store) supersede(processor string, made []string, requests []tokenstore.ReplayRequest) {
	for _, r := range requests {
		if slices.ContainsFunc(r.Groups, func(name string) bool { return !slices.Contains(made, name) }) {
			continue
		}
		s.request(processor, r)
		for _, e := range s.ledger {
			if e.processor == processor && e.ID == r.ID && e.Phase == tokenstore.ReplayPending {
				s.end(e, tokenstore.ReplaySuperseded, tokenstore.ReplayGroupsNew, "its groups were new: they have handled nothing that could be handled again")
			}
		}
	}
}

// Replays implements tokenstore.Replays.
func (s Store) Replays(_ context.Context, processor string) ([]tokenstore.Replay, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	theirs := map[int64]bool{}
	for _, g := range s.of(processor, true) {
		theirs[g.replay] = true
	}
	var all []tokenstore.Replay
	for _, e := range s.ledger {
		if e.processor == processor || theirs[e.Number] {
			all = append(all, e.Replay)
		}
	}
	return all, nil
}

// dropReplays ends the replays of a processor whose tokens are being deleted. What has run has run.
func (s Store) dropReplays(processor string) {
	for _, g := range s.groups { // one that another processor has taken over meanwhile goes on where it was
		if e := s.row(g.replay); e.processor == processor && e.Phase == tokenstore.ReplayResetting {
			g.replay, g.resetting = 0, false
		}
	}
	s.ledger = slices.DeleteFunc(s.ledger, func(e *entry) bool {
		return e.processor == processor && (e.Phase == tokenstore.ReplayPending || e.Phase == tokenstore.ReplayResetting)
	})
	for _, g := range s.of(processor, true) {
		for _, e := range s.ledger {
			if e.Number == g.replay && e.Phase == tokenstore.ReplayRunning {
				s.end(e, tokenstore.ReplayAbandoned, e.Reason, "the processor and its tokens were deleted")
			}
		}
		g.replay, g.resetting, g.Incomplete, g.boundaries = 0, false, false, nil
	}
}

// row finds a replay as its reader knows it.
func (s Store) row(number int64) *entry {
	i := slices.IndexFunc(s.ledger, func(e *entry) bool { return e.Number == number })
	if i < 0 {
		return &entry{} // in no phase
	}
	return s.ledger[i]
}

// same reports whether a row still asks for what its reader saw.
func (e *entry) same(r tokenstore.Replay) bool {
	return slices.Equal(e.Groups, r.Groups) && reflect.DeepEqual(e.From, r.From)
}
