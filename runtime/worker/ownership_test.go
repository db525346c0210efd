package worker

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/tokenstore"
)

const self = 1

func alive(incarnation int64) tokenstore.Worker {
	return tokenstore.Worker{Incarnation: incarnation, State: tokenstore.Active, Alive: true}
}

func dead(incarnation int64) tokenstore.Worker {
	return tokenstore.Worker{Incarnation: incarnation, State: tokenstore.Active}
}

var key = tokenstore.Key{Group: "g", Segment: 0}

// at is a situation with one segment: its owner, its assignee, and whether this worker holds it.
func at(owner, assignee int64, held bool, workers ...tokenstore.Worker) situation {
	s := situation{standing: assignment.Active, self: self, now: time.Unix(1000, 0), held: map[tokenstore.Key]int64{}, orphaned: map[tokenstore.Key]time.Time{},
		refused: func(string) bool { return false },
		view:    tokenstore.View{Workers: append(workers, alive(self))},
		tokens:  []tokenstore.Token{{Key: key, Epoch: 7, Owner: owner}}}
	if assignee != 0 {
		s.view.Assignments = []tokenstore.Assignment{{Key: key, Worker: assignee}}
	}
	if held {
		s.held[key] = 7
	}
	return s
}

func TestWhatAWorkerDoesAboutASegment(t *testing.T) {
	long := func(s situation) situation { // it has been an orphan for long
		s.orphaned[key] = s.now.Add(-time.Minute)
		return s
	}
	with := func(s situation, change func(*situation)) situation { change(&s); return s }
	rolling := func(change func(newer *tokenstore.Worker)) situation { // an orphan, while this worker's definition is replaced by one that is proven
		newer := alive(2)
		newer.Definition, newer.DefinitionNumber, newer.Proven = "new", 2, true
		newer.Report.Groups = map[string]tokenstore.GroupReport{key.Group: {}}
		change(&newer)
		s := at(0, 3, false, newer)
		s.view.Processor.Number = 2
		s.view.Workers[1].Definition, s.view.Workers[1].DefinitionNumber, s.view.Workers[1].Proven = "old", 1, true
		s.orphaned[key] = s.now.Add(-newerFirst + time.Millisecond)
		return s
	}
	for name, test := range map[string]struct {
		in   situation
		want string
	}{
		"assigned to it and free":                        {at(0, self, false), "claim"},
		"assigned to it, owner dead":                     {at(2, self, false, dead(2)), "claim after 2"},
		"assigned to it, owner alive":                    {at(2, self, false, alive(2)), "wait"},
		"assigned to it, owned by its own former claim":  {at(self, self, false), "claim"},
		"its own former claim, assigned to another":      {at(self, 2, false, alive(2)), "claim"},
		"its own former claim, assigned to a dead one":   {long(at(self, 2, false, dead(2))), "adopt"},
		"held and assigned":                              {at(self, self, true), ""},
		"held, assigned to another who is alive":         {at(self, 2, true, alive(2)), "release"},
		"held, assigned to one who is dead":              {at(self, 2, true, dead(2)), ""},
		"held, assigned to nobody":                       {at(self, 0, true), ""},
		"held, but somebody else has claimed it":         {with(at(2, 2, true, alive(2)), func(s *situation) { s.tokens[0].Epoch = 8 }), "drop"},
		"held, but merged away":                          {with(at(self, self, true), func(s *situation) { s.tokens = nil }), "drop"},
		"assigned to another who is alive, free":         {long(at(0, 2, false, alive(2))), ""},
		"assigned to another who is alive, owner dead":   {long(at(3, 2, false, alive(2), dead(3))), ""},
		"assigned to one who is dead, for long":          {long(at(2, 2, false, dead(2))), "adopt after 2"},
		"assigned to nobody, for long":                   {long(at(0, 0, false)), "adopt"},
		"assigned to nobody, just now":                   {at(0, 0, false), "wait"},
		"assigned to nobody, but owned by a live worker": {long(at(2, 0, false, alive(2))), ""},
		"an orphan, while draining":                      {with(long(at(0, 0, false)), func(s *situation) { s.draining = true }), ""},
		"assigned to it, while draining":                 {with(at(0, self, false), func(s *situation) { s.draining = true }), ""},
		"assigned to it, while dead by the directory":    {with(at(0, self, false), func(s *situation) { s.view.Workers[0].Alive = false }), ""},
		"an orphan, while dead by the directory":         {with(long(at(0, 0, false)), func(s *situation) { s.view.Workers[0].Alive = false }), ""},
		"of a group that it cannot handle":               {with(at(0, self, false), func(s *situation) { s.refused = func(string) bool { return true } }), ""},

		"an orphan, which a worker of the wanted definition may have":  {rolling(func(*tokenstore.Worker) {}), "wait"},
		"the same, but nobody has taken it for long":                   {long(rolling(func(*tokenstore.Worker) {})), "adopt"},
		"an orphan, where the wanted definition is on probation":       {rolling(func(w *tokenstore.Worker) { w.Proven = false }), "adopt"},
		"an orphan, where the wanted definition is in quarantine":      {rolling(func(w *tokenstore.Worker) { w.Proven, w.Quarantined = false, true }), "adopt"},
		"an orphan, where the worker of the wanted definition drains":  {rolling(func(w *tokenstore.Worker) { w.State = tokenstore.Draining }), "adopt"},
		"an orphan, where the worker of the wanted definition is dead": {rolling(func(w *tokenstore.Worker) { w.Alive = false }), "adopt"},
		"an orphan, which the wanted definition refuses":               {rolling(func(w *tokenstore.Worker) { w.Report.Groups[key.Group] = tokenstore.GroupReport{Refused: true} }), "adopt"},
		"an orphan, where the worker of the wanted definition has its share": {with(rolling(func(*tokenstore.Worker) {}), func(s *situation) {
			other := tokenstore.Key{Group: key.Group, Segment: 1}
			s.tokens = append(s.tokens, tokenstore.Token{Key: other, Owner: 2})
			s.view.Assignments = append(s.view.Assignments, tokenstore.Assignment{Key: other, Worker: 2})
		}), "adopt"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, inWords(decide(test.in))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func inWords(d decision) string {
	text := ""
	switch {
	case len(d.drop) > 0:
		return "drop"
	case len(d.release) > 0:
		return "release"
	case len(d.claim) > 0:
		text = "claim"
	case len(d.adopt) > 0:
		text = "adopt"
	case d.again > 0:
		return "wait"
	}
	if len(d.dead) > 0 {
		text += " after " + string(rune('0'+d.dead[0].worker))
	}
	return text
}

func TestOrphansAreSharedAndNobodyIsRobbed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "workers")
		var workers []tokenstore.Worker
		living := map[int64]bool{}
		for i := range n {
			w := alive(int64(i + 1))
			w.Alive = rapid.IntRange(0, 3).Draw(t, "alive") > 0
			workers, living[w.Incarnation] = append(workers, w), w.Alive
		}
		view := tokenstore.View{Workers: workers}
		var tokens []tokenstore.Token
		for i := range rapid.IntRange(1, 12).Draw(t, "segments") {
			k := tokenstore.Key{Group: "g", Segment: uint32(i)}
			tokens = append(tokens, tokenstore.Token{Key: k, Epoch: 1, Owner: rapid.Int64Range(0, int64(n)).Draw(t, "owner")})
			if a := rapid.Int64Range(0, int64(n)).Draw(t, "assignee"); a != 0 {
				view.Assignments = append(view.Assignments, tokenstore.Assignment{Key: k, Worker: a})
			}
		}
		assignee := map[tokenstore.Key]int64{}
		for _, a := range view.Assignments {
			assignee[a.Key] = a.Worker
		}
		for _, w := range workers {
			if !w.Alive {
				continue
			}
			old := map[tokenstore.Key]time.Time{}
			for _, k := range tokens {
				old[k.Key] = time.Unix(0, 0)
			}
			d := decide(situation{standing: assignment.Active, self: w.Incarnation, view: view, tokens: tokens, held: map[tokenstore.Key]int64{}, now: time.Unix(1000, 0),
				orphaned: old, refused: func(string) bool { return false }})
			for _, a := range d.adopt {
				if living[assignee[a.Key]] {
					t.Fatalf("worker %d adopts %v of live worker %d", w.Incarnation, a.Key, assignee[a.Key])
				}
			}
			for _, c := range d.claim {
				owner := tokens[c.Segment].Owner
				if owner != w.Incarnation && (assignee[c.Key] != w.Incarnation || living[owner]) {
					t.Fatalf("worker %d claims %v, assigned to %d, owned by %d", w.Incarnation, c.Key, assignee[c.Key], owner)
				}
			}
		}
	})
}
