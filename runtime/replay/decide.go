package replay

import (
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

// action is what is done about a replay.
type action int

const (
	explain action = iota // nothing but to say what it waits for
	cancel
	begin
	reset
	measure
	abandon
)

// decision is what to do about one replay.
type decision struct {
	replay          tokenstore.Replay
	action          action
	reason, message string // of explain
}

// situation is what a decision rests on.
type situation struct {
	view   tokenstore.View
	groups map[string]bool // that this worker's definition has; true where there is a reset
	paused func(group string) bool
	// refused says why a replay cannot begin at a place; empty where it can. It is asked of those
	// only that nothing else keeps from being reset.
	refused func(place progress.StartPosition) (reason, problem string)
}

// leader is the worker that carries replays out: of those that live, run the wanted definition and do not leave, the one that
// began first; where there is none, of all that live.
func leader(view tokenstore.View) int64 {
	best, bestRank := int64(0), 0
	for _, w := range view.Workers { // by incarnation
		if !w.Alive {
			continue
		}
		rank := 1
		if w.Definition == view.Processor.Definition {
			rank++
			if w.State == tokenstore.Active {
				rank++
			}
		}
		if rank > bestRank {
			best, bestRank = w.Incarnation, rank
		}
	}
	return best
}

// decide says what to do about each replay that has not ended, in the order in which they were asked for. Of those that have a
// group in common, one is carried out at a time; one that cannot go on as things are holds nobody up.
func decide(replays []tokenstore.Replay, s situation) []decision {
	var all []decision
	busy := map[string]string{} // by group: the replay that has it
	for _, r := range replays {
		if r.Phase.Ended() {
			continue
		}
		d := next(r, s, busy)
		all = append(all, d)
		if d.action == begin || d.action == reset || d.action == measure || d.action == abandon {
			for _, group := range r.Groups {
				busy[group] = r.ID
			}
		}
	}
	return all
}

func next(r tokenstore.Replay, s situation, busy map[string]string) decision {
	wanted := r.State == tokenstore.ReplayWanted
	switch {
	case r.Phase == tokenstore.ReplayRunning && (r.State == tokenstore.ReplayToBeAbandoned || r.Reason == tokenstore.ReplayAbandoning):
		return decision{replay: r, action: abandon}
	case r.Phase == tokenstore.ReplayRunning:
		return decision{replay: r, action: measure}
	case !wanted:
		return decision{replay: r, action: cancel}
	case r.Phase == tokenstore.ReplayResetting:
		return decision{replay: r, action: reset}
	}
	if reason, message := obstacle(r, s, busy); reason != "" {
		return decision{r, explain, reason, message}
	}
	return decision{replay: r, action: begin}
}

// obstacle is what keeps a pending replay from being reset; empty where nothing does.
func obstacle(r tokenstore.Replay, s situation, busy map[string]string) (reason, message string) {
	if err := tokenstore.Agreed(r.Definition, s.view.Processor.Definition, otherPods(r.Definition, s.view.Workers)); err != nil {
		return tokenstore.ReplayWaitsForRollout, err.Error()
	}
	for _, group := range r.Groups {
		if _, there := s.groups[group]; !there {
			return tokenstore.ReplayGroupMissing, "the processor has no group " + group
		}
		if !s.groups[group] && !slices.Contains(r.Unguarded, group) {
			return tokenstore.ReplayNoReset, fmt.Sprintf("group %s has no reset: register its handler with one (for SQL: set handler.sql.reset), or set replay: Allow"+
				" if its handler may see events twice", group)
		}
	}
	for _, group := range r.Groups {
		if other, is := busy[group]; is {
			return tokenstore.ReplayWaitsForOther, fmt.Sprintf("replay %s of group %s runs first: wait for it, or abandon it", other, group)
		}
		if s.paused(group) {
			return tokenstore.ReplayWaitsForPause, "group " + group + " is paused, and a pause goes before a replay"
		}
	}
	if r.Reason == tokenstore.ReplayPlaceInvalid {
		return r.Reason, r.Message // until it is asked for another one: it must not begin some day, when there is such a place
	}
	return s.refused(r.From)
}

func otherPods(bound string, workers []tokenstore.Worker) []string {
	var others []string
	for _, w := range workers {
		if w.Alive && w.Definition != bound {
			others = append(others, w.Pod)
		}
	}
	return others
}
