package tokenstoretest

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

var half = segment.Segment{ID: 0, Mask: 1}

var shapes = map[string]func(*world){
	"a split leaves both halves where the whole was, without an owner": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(t, 5)}))
		w.must(w.Store.Split(w.ctx, view, segment.Root))
		w.same("halves", []string{
			"0/1 at 0/1:5, generation 1, epoch 3, version 4, owner 0",
			"1/1 at 1/1:5, generation 1, epoch 3, version 4, owner 0",
		}, short(w.tokens()...))
		t.Version++
		if err := w.Commit(w.ctx, []tokenstore.Advance{to(t, 6)}, map[string]string{"a": "1"}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("the whole's owner: %v, want ErrFenced", err)
		}
	},
	"a merge of equal halves has one part": func(w *world) {
		w.declare(2)
		both := w.owned()
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(both[0], 5), to(both[1], 5)}))
		w.must(w.Store.Merge(w.ctx, view, half))
		w.same("whole", []string{"0/0 at 0/0:5, generation 1, epoch 3, version 4, owner 0"}, short(w.tokens()...))
	},
	"a merge of unequal halves keeps both, and a split gives them back": func(w *world) {
		w.declare(2)
		both := w.owned()
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(both[0], 10), to(both[1], 20)}))
		w.must(w.Store.Merge(w.ctx, view, half))
		w.same("whole", []string{"0/0 at 0/1:10 1/1:20, generation 1, epoch 3, version 4, owner 0"}, short(w.tokens()...))
		w.must(w.Store.Split(w.ctx, view, segment.Root))
		w.same("halves", []string{
			"0/1 at 0/1:10, generation 1, epoch 4, version 5, owner 0",
			"1/1 at 1/1:20, generation 1, epoch 4, version 5, owner 0",
		}, short(w.tokens()...))
		for _, old := range both {
			old.Version++
			if err := w.Store.Advance(w.ctx, []tokenstore.Advance{to(old, 30)}); !errors.Is(err, tokenstore.ErrFenced) {
				w.Errorf("an owner from before the merge: %v, want ErrFenced", err)
			}
		}
	},
	"halves that have met are one part": func(w *world) {
		w.declare(2)
		both := w.owned()
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(both[0], 10), to(both[1], 20)}))
		w.must(w.Store.Merge(w.ctx, view, half))
		t := w.owned()[0]
		parts := []progress.Part{{Segment: half, Progress: At(15)}, {Segment: half.Sibling(), Progress: At(20)}}
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{{Key: t.Key, Epoch: t.Epoch, Version: t.Version, Parts: parts, WasParted: true}}))
		w.same("on the way", parts, w.tokens()[0].Parts)
		t.Version++
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(t, 20)}))
		w.same("in the end", []progress.Part{{Segment: segment.Root, Progress: At(20)}}, w.tokens()[0].Parts)
	},
	"a merge in a merge keeps every quarter": func(w *world) {
		w.declare(4)
		all := w.owned()
		for i, t := range all {
			w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(t, int64(10*(i+1)))}))
		}
		w.must(w.Store.Merge(w.ctx, view, segment.Segment{ID: 0, Mask: 3}))
		w.must(w.Store.Merge(w.ctx, view, segment.Segment{ID: 1, Mask: 3}))
		w.must(w.Store.Merge(w.ctx, view, half))
		var got []string
		for _, p := range w.tokens()[0].Parts {
			got = append(got, short(tokenstore.Token{Key: tokenstore.Key{Segment: p.Segment.ID}, Mask: p.Segment.Mask, Parts: []progress.Part{p}})[0][:10])
		}
		w.same("parts", []string{"0/3 at 0/3", "1/3 at 1/3", "2/3 at 2/3", "3/3 at 3/3"}, got)
		w.must(w.Store.Split(w.ctx, view, segment.Root))
		w.must(w.Store.Split(w.ctx, view, half.Sibling()))
		after := w.tokens()
		if len(after) != 3 || after[1].Parts[0].Progress.Position != 20 || after[2].Parts[0].Progress.Position != 40 {
			w.Errorf("split again: %v", short(after...))
		}
	},
	"either half names a merge": func(w *world) {
		w.declare(2)
		w.must(w.Store.Merge(w.ctx, view, half.Sibling()))
		w.same("layout", []segment.Segment{segment.Root}, w.layout())
	},
	"segments that are not there as such are not split or merged": func(w *world) {
		w.declare(3) // 0/3 1/1 2/3
		before := w.tokens()
		for name, err := range map[string]error{
			"a whole that has been split":     w.Store.Split(w.ctx, view, segment.Root),
			"a half that has been split":      w.Store.Split(w.ctx, view, half),
			"a quarter that has been merged":  w.Store.Split(w.ctx, view, segment.Segment{ID: 1, Mask: 3}),
			"a group that is not there":       w.Store.Split(w.ctx, "none", segment.Root),
			"halves of which one is split":    w.Store.Merge(w.ctx, view, half.Sibling()),
			"quarters that are not there":     w.Store.Merge(w.ctx, view, segment.Segment{ID: 1, Mask: 3}),
			"the whole, which has no sibling": w.Store.Merge(w.ctx, view, segment.Root),
			"halves of no group":              w.Store.Merge(w.ctx, "none", half),
		} {
			if !errors.Is(err, tokenstore.ErrLayoutChanged) {
				w.Errorf("%s: %v, want ErrLayoutChanged", name, err)
			}
		}
		w.same("tokens", short(before...), short(w.tokens()...))
	},
	"what failed before is known to both halves, and to the whole": func(w *world) {
		w.declare(1)
		fail := func(i int, position int64, attempts int) {
			t := w.claim(1, w.tokens()[i])[0]
			w.must(w.Store.Fail(w.ctx, t.Epoch, t.Version, tokenstore.Failure{Key: t.Key, Position: position, Attempts: attempts, Message: "no"}, time.Hour))
		}
		known := func(after string, want ...string) {
			all, err := w.Store.Failures(w.ctx, processor)
			w.must(err)
			var got []string
			for _, f := range all {
				got = append(got, fmt.Sprintf("%d: event %d, %d attempts, %s", f.Segment, f.Position, f.Attempts, f.Message))
				if f.FailedAt.IsZero() || f.RetryAt.Sub(f.FailedAt) < 30*time.Minute {
					w.Errorf("after %s: failed at %s, retried at %s", after, f.FailedAt, f.RetryAt)
				}
			}
			w.same("after "+after, want, got)
		}
		fail(0, 7, 3)
		w.must(w.Store.Split(w.ctx, view, segment.Root))
		known("a split", "0: event 7, 3 attempts, no", "1: event 7, 3 attempts, no")
		fail(1, 7, 4)
		w.must(w.Store.Merge(w.ctx, view, half))
		known("a merge at one event", "0: event 7, 4 attempts, no")
		w.must(w.Store.Split(w.ctx, view, segment.Root))
		fail(0, 9, 5)
		fail(1, 8, 1)
		w.must(w.Store.Merge(w.ctx, view, half))
		known("a merge at two events", "0: event 8, 1 attempts, no")
		w.must(w.Store.Split(w.ctx, view, segment.Root))
		t := w.claim(1, w.tokens()[0])[0]
		a := to(t, 20)
		a.Recovers = true
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{a}))
		known("a half has gone on", "1: event 8, 1 attempts, no")
		w.must(w.Store.Merge(w.ctx, view, half))
		known("a merge of which the high half fails", "0: event 8, 1 attempts, no")
	},
	"split and merged by many at once, the group stays a partition": func(w *world) {
		w.declare(4)
		for round := range 5 {
			done := 0
			for _, err := range together(8, func(i int) error {
				if i%2 == 0 {
					return w.Store.Split(w.ctx, view, segment.Segment{ID: uint32(i / 2), Mask: 3})
				}
				return w.Store.Merge(w.ctx, view, segment.Segment{ID: uint32(i / 2), Mask: 3})
			}) {
				switch {
				case err == nil:
					done++
				case !errors.Is(err, tokenstore.ErrLayoutChanged):
					w.Fatalf("round %d: %v", round, err)
				}
			}
			w.must(segment.Partition(w.layout()))
			if done == 0 {
				w.Errorf("round %d: nobody did anything", round)
			}
			reshape(w, 4)
		}
	},
	"epochs and versions never go back, however a group is reshaped": func(w *world) {
		w.declare(5)
		highest := map[uint32]tokenstore.Token{}
		for i, n := range []int{1, 7, 2, 16, 3, 3, 8, 1} {
			reshape(w, n)
			w.must(segment.Partition(w.layout()))
			if i%2 == 0 {
				w.owned()
			}
			for _, t := range w.tokens() {
				if last := highest[t.Segment]; t.Epoch < last.Epoch || t.Version < last.Version {
					w.Errorf("segment %s came to epoch %d and version %d after %d and %d", t.Range(), t.Epoch, t.Version, last.Epoch, last.Version)
				}
				highest[t.Segment] = t
			}
		}
	},
}

// reshape splits and merges until the group has so many segments.
func reshape(w *world, n int) {
	w.Helper()
	for {
		step, due, err := segment.Next(w.layout(), n)
		w.must(err)
		if !due {
			return
		}
		if step.Kind == segment.Split {
			w.must(w.Store.Split(w.ctx, view, step.Whole))
		} else {
			w.must(w.Store.Merge(w.ctx, view, step.Low))
		}
	}
}
