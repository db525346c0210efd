package tokenstoretest

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// handled is a group of two segments that have come to 10 and 20, claimed by worker 1, and a replay x of it.
func (w *world) handled() []tokenstore.Token {
	w.Helper()
	w.processor()
	w.declare(2)
	both := w.owned()
	w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(both[0], 10), to(both[1], 20)}))
	w.request(processor, asked("x"))
	both[0].Version++
	both[1].Version++
	return both
}

// bounds are where a group's replay ends, by segment.
func (w *world) bounds() map[segment.Segment]int64 {
	w.Helper()
	all, err := w.Store.Replaying(w.ctx, processor)
	w.must(err)
	got := map[segment.Segment]int64{}
	if r := all[view]; r != nil {
		for _, b := range r.Boundaries {
			got[b.Segment] = b.Progress.Position
		}
	}
	return got
}

var resets = map[string]func(*world){
	"a reset begins by taking the segments from their owners, for all": func(w *world) {
		both := w.handled()
		w.begin("x")
		w.phase("x", tokenstore.ReplayResetting, "")
		if err := w.Commit(w.ctx, []tokenstore.Advance{to(both[0], 11)}, map[string]string{"a": "1"}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("a batch that began before: %v, want ErrFenced", err)
		}
		if got := w.claim(2, w.tokens()...); len(got) != 0 {
			w.Errorf("claimed in the middle of a reset: %v", short(got...))
		}
		w.same("why", tokenstore.ReplayMoved, w.putOff(w.Store.BeginReset(w.ctx, processor, w.replay("x"))))
	},
	"a reset moves all tokens, and runs its handlers, once": func(w *world) {
		w.handled()
		w.begin("x")
		w.reset("x", 0)
		w.same("tokens", []string{
			"0/1 at 0/1:0, generation 2, epoch 4, version 5, owner 0",
			"1/1 at 1/1:0, generation 2, epoch 4, version 5, owner 0",
		}, short(w.tokens()...))
		w.same("boundaries", map[segment.Segment]int64{half: 10, half.Sibling(): 20}, w.bounds())
		w.same("row", "x", w.row("reset"))
		r := w.replay("x")
		if r.Phase != tokenstore.ReplayRunning || r.ResetAt == nil || r.Total != 15 || r.Done != 0 {
			w.Errorf("%+v", r)
		}
		err := w.Reset(w.ctx, processor, r, Line{}, At(0), map[string]string{"reset": "twice"}, nil)
		w.same("a second time", tokenstore.ReplayMoved, w.putOff(err))
		w.same("row", "x", w.row("reset"))
	},
	"of many resets at once, one is done": func(w *world) {
		w.handled()
		w.begin("x")
		r := w.replay("x")
		done := 0
		for _, err := range together(6, func(i int) error {
			return w.Reset(w.ctx, processor, r, Line{}, At(0), nil, nil)
		}) {
			if err == nil {
				done++
			}
		}
		w.same("resets that were done", 1, done)
		w.same("generation", int64(2), w.tokens()[0].Generation)
	},
	"where a handler fails, nothing has happened": func(w *world) {
		w.handled()
		w.begin("x")
		before := w.tokens()
		boom := errors.New("boom")
		if err := w.Reset(w.ctx, processor, w.replay("x"), Line{}, At(0), map[string]string{"reset": "x"}, boom); !errors.Is(err, boom) {
			w.Errorf("got %v", err)
		}
		w.same("row", "", w.row("reset"))
		w.same("tokens", short(before...), short(w.tokens()...))
		w.must(w.Store.EndReset(w.ctx, w.replay("x"), tokenstore.ReplayFailed, tokenstore.ReplayResetHandlerFails, "boom"))
		w.phase("x", tokenstore.ReplayFailed, tokenstore.ReplayResetHandlerFails)
		if got := w.owned(); got[0].Parts[0].Progress.Position != 10 {
			w.Errorf("the groups go on at %v", short(got...))
		}
	},
	"a reset that is ended while its handlers run does nothing": func(w *world) {
		w.handled()
		w.begin("x")
		before := w.tokens()
		r := w.replay("x")
		try, err := w.Store.TryReset(w.ctx)
		w.must(err)
		defer try.Close(w.ctx)
		err = try.Run(w.ctx, processor, r, Line{}, At(0), tokenstore.ResetRun{Handlers: func(ctx context.Context, tx tokenstore.Tx) error {
			w.must(w.Write(ctx, tx, map[string]string{"reset": "x"}))
			return w.Store.EndReset(ctx, r, tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile, "enough")
		}})
		w.same("the reset", tokenstore.ReplayMoved, w.putOff(err))
		w.same("row", "", w.row("reset"))
		w.same("tokens", short(before...), short(w.tokens()...))
		w.phase("x", tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile)
	},
	"a mark that another worker has left is a failure of the reset": func(w *world) {
		w.handled()
		w.begin("x")
		r := w.replay("x")
		mark := func(worker int64) string {
			attempts, failures, err := w.Store.MarkReset(w.ctx, r, worker)
			w.must(err)
			return fmt.Sprint(attempts, " ", failures)
		}
		w.same("the first call", "0 0", mark(1))
		w.same("worker 1 has ended in its call", "1 1", mark(2))
		w.must(w.Store.UnmarkReset(w.ctx, r, 2, 1, 0)) // it failed for want of something else
		w.same("worker 2 has ended its call", "2 1", mark(3))
		w.must(w.Store.UnmarkReset(w.ctx, r, 2, 0, 0)) // late: the mark is another one's
		w.same("worker 3 has ended in its call", "3 2", mark(4))
		w.must(w.Store.EndReset(w.ctx, r, tokenstore.ReplayFailed, tokenstore.ReplayResetHandlerFails, "boom"))
		_, _, err := w.Store.MarkReset(w.ctx, r, 5)
		w.same("after its end", tokenstore.ReplayMoved, w.putOff(err))
	},
	"a reset to a position moves no segment forward": func(w *world) {
		w.handled()
		w.request(processor, asked("x", func(r *tokenstore.ReplayRequest) {
			r.From = progress.StartPosition{Type: progress.AtPosition, Position: "16"}
		}))
		w.begin("x")
		w.reset("x", 15)
		all := w.tokens()
		w.same("positions", []int64{10, 15}, []int64{all[0].Parts[0].Progress.Position, all[1].Parts[0].Progress.Position})
	},
	"older definitions cannot claim after a reset": func(w *world) {
		w.define("d0")
		w.handled() // d1 is number 2
		claimed := func(definition int64) int {
			got, err := w.Store.Claim(w.ctx, processor, 2, definition, claimsOf(w.tokens()))
			w.must(err)
			return len(got)
		}
		w.begin("x")
		w.same("in the middle of it", 0, claimed(2))
		w.reset("x", 0)
		w.same("by the older definition", 0, claimed(1))
		w.same("by the one that the replay is bound to", 2, claimed(2))
	},
	"a reset waits for its definition, for other replays, and for what it is to be": func(w *world) {
		w.handled()
		w.request(processor, asked("x"), asked("late"))
		read := w.replay("x")
		w.request(processor, asked("x", func(r *tokenstore.ReplayRequest) { r.From.Type = progress.Latest }), asked("late"), asked("none", of("gone")))
		w.same("read before it changed", tokenstore.ReplayMoved, w.putOff(w.Store.BeginReset(w.ctx, processor, read)))
		w.same("a group that is not there", tokenstore.ReplayGroupMissing, w.putOff(w.Store.BeginReset(w.ctx, processor, w.replay("none"))))
		w.define("d2")
		w.same("bound to another definition", tokenstore.ReplayWaitsForRollout, w.putOff(w.Store.BeginReset(w.ctx, processor, w.replay("x"))))
		w.define("d1")
		other := worker(7)
		other.Definition = "d2"
		w.must(w.Directory.Register(w.ctx, processor, other))
		w.same("a pod of another definition", tokenstore.ReplayWaitsForRollout, w.putOff(w.Store.BeginReset(w.ctx, processor, w.replay("x"))))
		w.phase("x", tokenstore.ReplayPending, "")
		w.must(w.Directory.SetState(w.ctx, 7, tokenstore.Ended))
		w.begin("x")
		w.same("another replay of the group", tokenstore.ReplayWaitsForOther, w.putOff(w.Store.BeginReset(w.ctx, processor, w.replay("late"))))
	},
	"what is cancelled in the middle of a reset is not done": func(w *world) {
		w.handled()
		w.begin("x")
		w.request(processor, asked("x", wanted(tokenstore.ReplayToBeCancelled)))
		err := w.Reset(w.ctx, processor, w.replay("x"), Line{}, At(0), map[string]string{"reset": "x"}, nil)
		w.same("why", tokenstore.ReplayCancelledMeanwhile, w.putOff(err))
		w.same("row", "", w.row("reset"))
		w.must(w.Store.EndReset(w.ctx, w.replay("x"), tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile, ""))
		w.same("claimed again", 2, len(w.owned()))
	},
	"a reset that was put off begins again": func(w *world) {
		w.handled()
		w.begin("x")
		w.must(w.Store.EndReset(w.ctx, w.replay("x"), tokenstore.ReplayPending, tokenstore.ReplayWaitsForRollout, "a pod came back"))
		w.phase("x", tokenstore.ReplayPending, tokenstore.ReplayWaitsForRollout)
		w.same("claimed meanwhile", 2, len(w.owned()))
		w.begin("x")
		w.reset("x", 0)
		w.phase("x", tokenstore.ReplayRunning, "")
	},
	"a replay is complete, and its boundaries are gone": func(w *world) {
		w.handled()
		w.begin("x")
		w.reset("x", 0)
		w.must(w.Store.Record(w.ctx, w.replay("x"), 7, 15))
		w.same("done", int64(7), w.replay("x").Done)
		owned := w.owned()
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(owned[0], 30), to(owned[1], 30)}))
		w.must(w.Store.Complete(w.ctx, w.replay("x")))
		w.phase("x", tokenstore.ReplayComplete, "")
		w.same("done", int64(15), w.replay("x").Done)
		w.same("boundaries", map[segment.Segment]int64{}, w.bounds())
		owned[0].Version++
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(owned[0], 31)})) // its end takes nothing from the owners
		w.must(w.Store.Record(w.ctx, w.replay("x"), 1, 2))
		w.must(w.Store.Abandon(w.ctx, w.replay("x"), Line{}))
		w.phase("x", tokenstore.ReplayComplete, "")
		w.same("done", int64(15), w.replay("x").Done)
	},
	"an abandoned replay goes to where it was, and the next one knows what was handled ever": func(w *world) {
		w.handled()
		w.begin("x")
		w.reset("x", 0)
		owned := w.owned()
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(owned[0], 25), to(owned[1], 5)})) // beyond its boundary, and not
		w.must(w.Store.Abandon(w.ctx, w.replay("x"), Line{}))
		w.phase("x", tokenstore.ReplayAbandoned, "")
		all := w.tokens()
		w.same("positions", []int64{25, 20}, []int64{all[0].Parts[0].Progress.Position, all[1].Parts[0].Progress.Position})
		if all[1].Generation != 3 || all[1].Owner != 0 || all[1].Epoch <= owned[1].Epoch {
			w.Errorf("abandoned: %v", short(all...))
		}
		if err := w.Store.Advance(w.ctx, []tokenstore.Advance{to(owned[1], 6)}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("an owner from before: %v, want ErrFenced", err)
		}
		if groups, err := w.Store.Groups(w.ctx, processor); err != nil || !groups[0].Incomplete {
			w.Errorf("the group: %+v, %v", groups, err)
		}
		w.request(processor, asked("x"), asked("y"))
		w.begin("y")
		w.reset("y", 0)
		w.same("boundaries", map[segment.Segment]int64{half: 25, half.Sibling(): 20}, w.bounds())
		w.must(w.Store.Complete(w.ctx, w.replay("y")))
		if groups, err := w.Store.Groups(w.ctx, processor); err != nil || groups[0].Incomplete {
			w.Errorf("after a complete replay: %+v, %v", groups, err)
		}
	},
	"split and merged in the middle of a replay, its boundaries stay": func(w *world) {
		w.handled()
		w.begin("x")
		w.reset("x", 0)
		want := map[segment.Segment]int64{half: 10, half.Sibling(): 20}
		for _, n := range []int{5, 1, 3} {
			reshape(w, n)
			w.same("boundaries", want, w.bounds())
		}
		for _, t := range w.tokens() {
			if t.Generation != 2 || t.Parts[0].Progress.Position != 0 {
				w.Errorf("reshaped: %v", short(t))
			}
		}
		reshape(w, 1)
		w.must(w.Store.Abandon(w.ctx, w.replay("x"), Line{}))
		w.same("parts", []progress.Part{{Segment: half, Progress: At(10)}, {Segment: half.Sibling(), Progress: At(20)}}, w.tokens()[0].Parts)
	},
	"split and merged in the middle of a reset, all of them are reset": func(w *world) {
		w.handled()
		w.begin("x")
		reshape(w, 1)
		if got := w.claim(2, w.tokens()...); len(got) != 0 {
			w.Errorf("claimed in the middle of a reset: %v", short(got...))
		}
		w.reset("x", 0)
		w.same("boundaries", map[segment.Segment]int64{half: 10, half.Sibling(): 20}, w.bounds())
		w.same("parts", []progress.Part{{Segment: segment.Root}}, w.tokens()[0].Parts)
	},
}
