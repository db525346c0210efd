package tokenstoretest

import (
	"errors"
	"strings"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

const (
	perStream  = "Stream/pg1"
	byCustomer = "Property:customer.id/java"
)

// declareAs declares the group view with a sequencing, and the replays that are asked for in the same edit.
func (w *world) declareAs(sequencing string, requested ...tokenstore.ReplayRequest) error {
	return w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 4, Sequencing: sequencing}}, requested, from(0))
}

// sequenced has the reset give the group view a sequencing.
func sequenced(sequencing string) func(*tokenstore.ReplayRequest) {
	return func(r *tokenstore.ReplayRequest) { r.Sequencing = map[string]string{view: sequencing} }
}

func (w *world) refused(err error) *tokenstore.SequencingChangedError {
	w.Helper()
	var changed *tokenstore.SequencingChangedError
	if !errors.As(err, &changed) {
		w.Fatalf("it is not refused: %v", err)
	}
	return changed
}

var sequencings = map[string]func(*world){
	"a group's sequencing is recorded with it": func(w *world) {
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 1}, {Name: "other", Segments: 1, Sequencing: byCustomer}}, nil, from(0)))
		got, err := w.Store.Groups(w.ctx, processor)
		w.must(err)
		w.same("groups", []tokenstore.Group{{Name: "other", Segments: 1, Sequencing: byCustomer}, {Name: view, Segments: 1, Sequencing: perStream}}, got)
		for _, t := range w.tokens() {
			w.same("token of "+t.Group, map[string]string{view: perStream, "other": byCustomer}[t.Group], t.Sequencing)
		}
	},
	"another sequencing is refused, and nothing is changed": func(w *world) {
		w.processor()
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 4}, {Name: "other", Segments: 1}}, nil, from(0)))
		w.request(processor, asked("bound"), asked("failed", sequenced(byCustomer)))
		w.begin("failed")
		w.must(w.Store.EndReset(w.ctx, w.replay("failed"), tokenstore.ReplayFailed, tokenstore.ReplayResetHandlerFails, ""))
		for name, requested := range map[string][]tokenstore.ReplayRequest{
			"without a replay":                   nil,
			"with one of another group":          {asked("x", sequenced(byCustomer), of("other"))},
			"with one of the former definition":  {asked("x")},
			"with one that is cancelled":         {asked("x", sequenced(byCustomer), wanted(tokenstore.ReplayToBeCancelled))},
			"with one to yet another sequencing": {asked("x", sequenced("Sequential/pg1"))},
			"with one that was bound before it":  {asked("bound", sequenced(byCustomer))},
			"with one whose id has run already":  {asked("failed", sequenced(byCustomer))},
		} {
			changed := w.refused(w.declareAs(byCustomer, requested...))
			w.same(name, tokenstore.SequencingChangedError{Group: view, Recorded: perStream, Wanted: byCustomer}, *changed)
			if !strings.Contains(changed.Error(), "spec.replay with a new id") {
				w.Errorf("%s: %q does not say what to do", name, changed)
			}
		}
		groups, err := w.Store.Groups(w.ctx, processor)
		w.must(err)
		w.same("groups", 2, len(groups)) // the other one was not retired
		w.same("sequencing", perStream, groups[1].Sequencing)
		w.must(w.declareAs(perStream))
	},
	"a group without tokens takes any sequencing": func(w *world) {
		w.must(w.declareAs(perStream))
		w.must(w.Store.Drop(w.ctx, tokenstore.Owner{Processor: processor}))
		w.must(w.declareAs(byCustomer))
		w.same("sequencing", byCustomer, w.tokens()[3].Sequencing)
	},
	"only workers of its sequencing claim a token": func(w *world) {
		w.must(w.declareAs(byCustomer))
		claimed := func(sequencing string) int {
			claims := claimsOf(w.tokens())
			for i := range claims {
				claims[i].Sequencing = sequencing
			}
			got, err := w.Store.Claim(w.ctx, processor, 1, 1, claims)
			w.must(err)
			return len(got)
		}
		for _, other := range []string{"", perStream, "Property:customer.id/pg1", "Broadcast/pg1"} {
			w.same("by "+other, 0, claimed(other))
		}
		w.same("by its own", 4, claimed(byCustomer))
	},
	"the reset changes the sequencing, in its transaction": func(w *world) {
		w.processor()
		w.must(w.declareAs(perStream))
		change := asked("change", sequenced(byCustomer), func(r *tokenstore.ReplayRequest) {
			r.From = progress.StartPosition{Type: progress.AtPosition, Position: "51"}
		})
		w.must(w.declareAs(byCustomer, change))
		w.request(processor, change)
		if _, ahead := tokenstore.ResetAhead([]tokenstore.Replay{w.replay("change")}, view, byCustomer); !ahead {
			w.Error("no reset is ahead")
		}
		for i, t := range w.owned() { // the segments have come unequally far
			w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(t, []int64{70, 20, 30, 40}[i])}))
		}
		w.begin("change")
		w.must(w.declareAs(byCustomer, change)) // in the middle of the reset
		w.same("before the reset", perStream, w.tokens()[0].Sequencing)
		w.reset("change", 50)
		for _, t := range w.tokens() {
			if t.Sequencing != byCustomer || len(t.Parts) != 1 || t.Parts[0].Progress.Position != 20 {
				w.Errorf("%+v: all are to be at 20, which all have come to", t)
			}
		}
		running, err := w.Store.Replaying(w.ctx, processor)
		w.must(err)
		for _, b := range running[view].Boundaries {
			if b.Sequencing != perStream || b.Start != 20 {
				w.Errorf("boundary %+v: it was made by %s, and handling again begins at 20", b, perStream)
			}
		}
		w.same("positions to be handled again", int64(50), w.replay("change").Total)
		w.must(w.declareAs(byCustomer, change)) // after it
		back := asked("back", sequenced(perStream))
		w.same("another change in the middle of the replay waits for", "change", w.refused(w.declareAs(perStream, back)).Running)
		w.must(w.Store.Complete(w.ctx, w.replay("change")))
		w.must(w.declareAs(perStream, back))
	},
	"a replay that has changed the sequencing is abandoned once all have what some had": func(w *world) {
		w.processor()
		w.must(w.declareAs(perStream))
		change := asked("change", sequenced(byCustomer))
		w.must(w.declareAs(byCustomer, change))
		w.request(processor, change)
		for i, t := range w.owned() {
			w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(t, int64(10*(i+1)))}))
		}
		w.begin("change")
		w.reset("change", 0)
		w.must(w.Store.Abandon(w.ctx, w.replay("change"), Line{}))
		w.phase("change", tokenstore.ReplayRunning, tokenstore.ReplayAbandoning)
		all := w.tokens()
		for _, t := range all {
			w.same("goes to what all had", At(10), t.Parts[0].Progress)
		}
		claims := claimsOf(all)
		owned, err := w.Store.Claim(w.ctx, processor, 1, 1, claims)
		w.must(err)
		for _, t := range owned {
			w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(t, 40)}))
		}
		w.must(w.Store.Abandon(w.ctx, w.replay("change"), Line{}))
		w.phase("change", tokenstore.ReplayAbandoned, "")
		w.same("sequencing", byCustomer, w.tokens()[0].Sequencing)
		w.must(segment.Partition(w.layout()))
	},
}
