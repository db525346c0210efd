package tokenstoretest

import (
	"errors"
	"strings"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

// asked is a request for a replay of the group view.
func asked(id string, change ...func(*tokenstore.ReplayRequest)) tokenstore.ReplayRequest {
	r := tokenstore.ReplayRequest{ID: id, Groups: []string{view}, From: progress.StartPosition{Type: progress.Earliest}, Definition: "d1", State: tokenstore.ReplayWanted}
	for _, c := range change {
		c(&r)
	}
	return r
}

func of(groups ...string) func(*tokenstore.ReplayRequest) {
	return func(r *tokenstore.ReplayRequest) { r.Groups = groups }
}

func wanted(state tokenstore.ReplayState) func(*tokenstore.ReplayRequest) {
	return func(r *tokenstore.ReplayRequest) { r.State = state }
}

func (w *world) request(processor string, requests ...tokenstore.ReplayRequest) {
	w.Helper()
	w.must(w.Store.RequestReplays(w.ctx, processor, requests))
}

// entry returns a processor's row of the ledger; false where there is none.
func (w *world) entry(processor, id string) (tokenstore.Replay, bool) {
	w.Helper()
	all, err := w.Store.Replays(w.ctx, processor)
	w.must(err)
	for _, r := range all {
		if r.ID == id {
			return r, true
		}
	}
	return tokenstore.Replay{}, false
}

// row of the ledger that must be there.
func (w *world) replay(id string) tokenstore.Replay {
	w.Helper()
	r, there := w.entry(processor, id)
	if !there {
		w.Fatalf("the ledger has no replay %s", id)
	}
	return r
}

func (w *world) phase(id string, want tokenstore.ReplayPhase, reason string) {
	w.Helper()
	if r := w.replay(id); r.Phase != want || r.Reason != reason || r.Phase.Ended() != (r.EndedAt != nil) {
		w.Errorf("replay %s is %s/%s, ended %v; want %s/%s", id, r.Phase, r.Reason, r.EndedAt, want, reason)
	}
}

// begin has a reset begin, which must be due.
func (w *world) begin(id string) {
	w.Helper()
	w.must(w.Store.BeginReset(w.ctx, processor, w.replay(id)))
}

// reset has a reset done that has begun.
func (w *world) reset(id string, start int64) {
	w.Helper()
	w.must(w.Reset(w.ctx, processor, w.replay(id), Line{}, At(start), map[string]string{"reset": id}, nil))
}

// put off returns why a replay was not due, and fails where it was.
func (w *world) putOff(err error) string {
	w.Helper()
	var wait *tokenstore.NotDueError
	if !errors.As(err, &wait) {
		w.Errorf("got %v, want that it is not due", err)
		return ""
	}
	return wait.Reason
}

var replays = map[string]func(*world){
	"a pending replay is what was asked for last": func(w *world) {
		w.declare(1)
		w.request(processor, asked("x"))
		other := asked("x", of(view, "other"), func(r *tokenstore.ReplayRequest) {
			r.From, r.Context = progress.StartPosition{Type: progress.AtPosition, Position: "7"}, map[string]string{"why": "rounding"}
			r.Unguarded, r.Definition = []string{"other"}, "d2"
		})
		w.request(processor, other)
		want := other
		want.Definition = "d1" // without Rebind
		w.same("asked for last", want, w.replay("x").ReplayRequest)
		other.Rebind = true
		w.request(processor, other)
		w.same("definition", "d2", w.replay("x").Definition)
	},
	"what nobody asks for any more is withdrawn": func(w *world) {
		w.declare(1)
		w.request(processor, asked("waits"), asked("kept"))
		w.request(processor, asked("kept"))
		if _, there := w.entry(processor, "waits"); there {
			w.Error("a pending replay stays")
		}
		w.phase("kept", tokenstore.ReplayPending, "")
	},
	"a reset that nobody asks for any more is to be cancelled, and what has been reset goes on": func(w *world) {
		w.processor()
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 1}, {Name: "other", Segments: 1}}, nil, from(0)))
		w.request(processor, asked("resets"), asked("runs", of("other")))
		w.begin("resets")
		w.begin("runs")
		w.reset("runs", 0)
		w.request(processor)
		if r := w.replay("resets"); r.State != tokenstore.ReplayToBeCancelled || r.Phase != tokenstore.ReplayResetting {
			w.Errorf("in the middle of its reset: %s %s", r.State, r.Phase)
		}
		if r := w.replay("runs"); r.State != tokenstore.ReplayWanted || r.Phase != tokenstore.ReplayRunning {
			w.Errorf("after its reset: %s %s", r.State, r.Phase)
		}
	},
	"cancelled before its reset, it has ended for good": func(w *world) {
		w.declare(1)
		w.request(processor, asked("x"))
		w.request(processor, asked("x", wanted(tokenstore.ReplayToBeCancelled)))
		w.phase("x", tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile)
		w.request(processor, asked("x"))
		w.phase("x", tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile)
	},
	"an id runs once, also under another processor that has the groups now": func(w *world) {
		w.processor()
		w.declare(1)
		w.request(processor, asked("x"), asked("waits"))
		w.begin("x")
		w.reset("x", 0)
		const moved, unrelated = "elsewhere/default/payments", "test/default/orders"
		w.request(moved, asked("x"), asked("waits"))
		if r, _ := w.entry(moved, "x"); r.Phase != tokenstore.ReplaySuperseded || r.Reason != tokenstore.ReplayRanElsewhere || !strings.Contains(r.Message, processor) {
			w.Errorf("%+v", r)
		}
		if r, _ := w.entry(moved, "waits"); r.Phase != tokenstore.ReplayPending {
			w.Errorf("one that has not run: %s", r.Phase)
		}
		w.request(unrelated, asked("x", of("orders")))
		if r, _ := w.entry(unrelated, "x"); r.Phase != tokenstore.ReplayPending {
			w.Errorf("of other groups: %s", r.Phase)
		}
	},
	"replays of nothing but new groups are superseded": func(w *world) {
		declare := func(names []string, requests ...tokenstore.ReplayRequest) {
			var groups []tokenstore.Group
			for _, name := range names {
				groups = append(groups, tokenstore.Group{Name: name, Segments: 2})
			}
			w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, groups, requests, from(0)))
			w.request(processor, requests...)
		}
		first := asked("first", of("a"))
		declare([]string{"a"}, first)
		declare([]string{"a", "b"}, first, asked("new", of("b")), asked("both", of("a", "b")), asked("old", of("a")))
		w.phase("first", tokenstore.ReplaySuperseded, tokenstore.ReplayGroupsNew)
		w.phase("new", tokenstore.ReplaySuperseded, tokenstore.ReplayGroupsNew)
		w.phase("both", tokenstore.ReplayPending, "")
		w.phase("old", tokenstore.ReplayPending, "")
	},
	"what a replay waits for is told, until it has been reset": func(w *world) {
		w.processor()
		w.declare(1)
		w.request(processor, asked("x"))
		w.must(w.Store.Explain(w.ctx, w.replay("x"), tokenstore.ReplayWaitsForPause, "paused"))
		w.phase("x", tokenstore.ReplayPending, tokenstore.ReplayWaitsForPause)
		w.begin("x")
		w.phase("x", tokenstore.ReplayResetting, "")
		w.reset("x", 0)
		w.must(w.Store.Explain(w.ctx, w.replay("x"), tokenstore.ReplayWaitsForPause, "paused"))
		w.phase("x", tokenstore.ReplayRunning, "")
	},
	"replays end with the tokens they are of": func(w *world) {
		w.processor()
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 1}, {Name: "other", Segments: 1}}, nil, from(0)))
		w.request(processor, asked("runs"), asked("resets", of("other")), asked("waits"))
		w.begin("runs")
		w.reset("runs", 0)
		w.begin("resets")
		w.must(w.Store.Drop(w.ctx, tokenstore.Owner{Processor: processor}))
		w.phase("runs", tokenstore.ReplayAbandoned, "")
		for _, id := range []string{"resets", "waits"} {
			if _, there := w.entry(processor, id); there {
				w.Errorf("%s is still there", id)
			}
		}
		w.declare(1)
		if got := w.owned(); len(got) != 1 {
			w.Errorf("claimed after a new declaration: %v", short(got...))
		}
	},
}
