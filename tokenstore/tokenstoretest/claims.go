package tokenstoretest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

var claims = map[string]func(*world){
	"a claim raises epoch and version, and names the owner": func(w *world) {
		w.declare(2)
		got := w.claim(5, w.tokens()[1])
		w.same("claimed", []string{"1/1 at 1/1:0, generation 1, epoch 2, version 2, owner 5"}, short(got...))
		w.same("stored", short(got...), short(w.tokens()[1:]...))
	},
	"a claim of an older epoch gets nothing": func(w *world) {
		w.declare(2)
		seen := w.tokens()
		w.claim(1, seen[0])
		got := w.claim(2, seen...)
		if len(got) != 1 || got[0].Segment != 1 {
			w.Errorf("claimed %v", short(got...))
		}
	},
	"segments and groups that are not there are left out": func(w *world) {
		w.declare(1)
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: "test/default/other"}, []tokenstore.Group{{Name: "theirs", Segments: 1}}, nil, from(0)))
		got, err := w.Store.Claim(w.ctx, processor, 1, 1, []tokenstore.Claim{
			{Key: tokenstore.Key{Group: view, Segment: 9}, Epoch: 1}, {Key: tokenstore.Key{Group: "none"}, Epoch: 1}, {Key: tokenstore.Key{Group: "theirs"}, Epoch: 1},
		})
		if err != nil || len(got) != 0 {
			w.Errorf("claimed %v, %v", short(got...), err)
		}
	},
	"of many claims at once, one gets each segment": func(w *world) {
		const workers = 12
		w.declare(16)
		seen := w.tokens()
		var mu sync.Mutex
		owners := map[uint32][]int64{}
		for _, err := range together(workers, func(i int) error {
			got, err := w.Store.Claim(w.ctx, processor, int64(i+1), 1, claimsOf(seen))
			mu.Lock()
			defer mu.Unlock()
			for _, t := range got {
				owners[t.Segment] = append(owners[t.Segment], t.Owner)
			}
			return err
		}) {
			w.must(err)
		}
		for _, t := range w.tokens() {
			if len(owners[t.Segment]) != 1 || owners[t.Segment][0] != t.Owner || t.Epoch != 2 {
				w.Errorf("segment %d was given to %v, and has owner %d at epoch %d", t.Segment, owners[t.Segment], t.Owner, t.Epoch)
			}
		}
	},
	"a thousand segments are claimed by one call": func(w *world) {
		w.declare(1000)
		w.same("claimed", 1000, len(w.owned()))
	},
	"a release leaves the epoch, and nobody as the owner": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{released(to(t, 4))}))
		w.same("released", []string{"0/0 at 0/0:4, generation 1, epoch 2, version 3, owner 0"}, short(w.tokens()...))
		if err := w.Store.Advance(w.ctx, []tokenstore.Advance{released(to(t, 4))}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("releasing again: %v, want ErrFenced", err)
		}
	},
	"attempts at an event are stored for the owner only, and cleared": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		f := tokenstore.Failure{Key: t.Key, Position: 3, EventMark: 7, Attempts: 1, Message: "no such account"}
		for _, wrong := range []struct{ epoch, version int64 }{{t.Epoch - 1, t.Version}, {t.Epoch, t.Version - 1}, {t.Epoch + 1, t.Version}} {
			if err := w.Store.Fail(w.ctx, wrong.epoch, wrong.version, f, time.Second); !errors.Is(err, tokenstore.ErrFenced) {
				w.Errorf("under epoch %d and version %d: %v, want ErrFenced", wrong.epoch, wrong.version, err)
			}
		}
		w.must(w.Store.Fail(w.ctx, t.Epoch, t.Version, f, time.Second))
		f.Attempts, f.Message = 2, "still none"
		w.must(w.Store.Fail(w.ctx, t.Epoch, t.Version, f, 20*time.Second))
		got, err := w.Store.Failures(w.ctx, processor)
		w.must(err)
		if len(got) != 1 || got[0].Attempts != 2 || got[0].Message != "still none" || got[0].Position != 3 || got[0].EventMark != 7 || got[0].RetryAt.Sub(got[0].FailedAt).Round(time.Second) != 20*time.Second {
			w.Fatalf("failures %+v", got)
		}
		failures := func() int {
			all, err := w.Store.Failures(w.ctx, processor)
			w.must(err)
			return len(all)
		}
		recovering := func(a tokenstore.Advance) []tokenstore.Advance {
			a.Recovers = true
			return []tokenstore.Advance{a}
		}
		stale := to(t, 1)
		stale.Version--
		if err := w.Store.Advance(w.ctx, recovering(stale)); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("recovering by a batch that is fenced off: %v", err)
		}
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(t, 1)}))
		w.same("failures after a move that does not recover", 1, failures())
		t.Version++
		w.must(w.Store.Advance(w.ctx, recovering(to(t, 2))))
		w.same("failures after one that does", 0, failures())
	},
	"the mark of a call is stored for the owner only, outlives its claim, and keeps attempts": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		mark := tokenstore.Failure{Key: t.Key, Position: 3, Last: 5, EventMark: 8, Calling: true, Type: "Counted", Stream: "s"}
		for _, wrong := range []struct{ epoch, version int64 }{{t.Epoch - 1, t.Version}, {t.Epoch, t.Version + 1}} {
			if err := w.Store.Mark(w.ctx, wrong.epoch, wrong.version, mark); !errors.Is(err, tokenstore.ErrFenced) {
				w.Errorf("under epoch %d and version %d: %v, want ErrFenced", wrong.epoch, wrong.version, err)
			}
		}
		one := func() tokenstore.Failure {
			all, err := w.Store.Attempts(w.ctx, processor)
			w.must(err)
			if len(all) != 1 {
				w.Fatalf("attempts %+v, want one", all)
			}
			return all[0]
		}
		w.must(w.Store.Mark(w.ctx, t.Epoch, t.Version, mark))
		if f := one(); !f.Marks(3) || !f.Marks(5) || f.Marks(6) || f.Attempts != 0 || f.EventMark != 8 || f.Type != "Counted" || f.Stream != "s" {
			w.Errorf("the mark is %+v", f)
		}
		failures, err := w.Store.Failures(w.ctx, processor)
		w.must(err)
		w.same("failures without an attempt", 0, len(failures))

		w.must(w.Store.Fail(w.ctx, t.Epoch, t.Version, tokenstore.Failure{Key: t.Key, Position: 3, Attempts: 2, Message: "no", Reason: "R"}, time.Second))
		if f := one(); f.Calling || f.Attempts != 2 || f.Reason != "R" {
			w.Errorf("after the attempt: %+v", f)
		}
		mark.Last = 3
		w.must(w.Store.Mark(w.ctx, t.Epoch, t.Version, mark))
		if f := one(); !f.Marks(3) || f.Attempts != 2 || f.Message != "no" || f.Reason != "R" {
			w.Errorf("the mark of a further attempt is %+v", f)
		}
		mark.Calling = false
		w.must(w.Store.Mark(w.ctx, t.Epoch, t.Version, mark))
		if f := one(); f.Marks(3) || f.Attempts != 2 {
			w.Errorf("after the call: %+v", f)
		}
		mark.Position, mark.Last, mark.Calling = 4, 4, true
		w.must(w.Store.Mark(w.ctx, t.Epoch, t.Version, mark))
		if f := one(); f.Attempts != 0 || f.Message != "" || !f.Marks(4) {
			w.Errorf("the mark at another position is %+v", f)
		}
		again := w.claim(2, t)
		w.same("claimed again", 1, len(again))
		if f := one(); !f.Marks(4) {
			w.Errorf("after another claim: %+v", f)
		}
		recovering := to(again[0], 4)
		recovering.Recovers = true
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{recovering}))
		all, err := w.Store.Attempts(w.ctx, processor)
		w.must(err)
		w.same("attempts after a batch that recovers", 0, len(all))
	},
}

var fence = map[string]func(*world){
	"a batch moves its token and writes its rows": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		w.must(w.Commit(w.ctx, []tokenstore.Advance{to(t, 5)}, map[string]string{"a": "1"}))
		w.same("token", []string{"0/0 at 0/0:5, generation 1, epoch 2, version 3, owner 1"}, short(w.tokens()...))
		w.same("row", "1", w.row("a"))
	},
	"another epoch, and another version, fence a batch off": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		for _, by := range []struct{ epoch, version int64 }{{-1, 0}, {1, 0}, {0, -1}, {0, 1}, {-1, -1}, {1, 1}} {
			a := to(t, 5)
			a.Epoch, a.Version = a.Epoch+by.epoch, a.Version+by.version
			if err := w.Commit(w.ctx, []tokenstore.Advance{a}, map[string]string{"a": "1"}); !errors.Is(err, tokenstore.ErrFenced) {
				w.Errorf("epoch %+d, version %+d: %v, want ErrFenced", by.epoch, by.version, err)
			}
		}
		w.same("row", "", w.row("a"))
		w.same("token", short(t), short(w.tokens()...))
	},
	"a batch sent twice is applied once": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		w.must(w.Commit(w.ctx, []tokenstore.Advance{to(t, 5)}, map[string]string{"a": "once"}))
		if err := w.Commit(w.ctx, []tokenstore.Advance{to(t, 5)}, map[string]string{"a": "twice"}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("the same batch again: %v, want ErrFenced", err)
		}
		w.same("row", "once", w.row("a"))
	},
	"a batch of a former owner writes nothing": func(w *world) {
		w.declare(1)
		old := w.owned()[0]
		w.claim(2, w.tokens()...)
		if err := w.Commit(w.ctx, []tokenstore.Advance{to(old, 5)}, map[string]string{"a": "1"}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("the former owner's batch: %v, want ErrFenced", err)
		}
		w.same("row", "", w.row("a"))
	},
	"of several tokens, all move or none": func(w *world) {
		w.declare(4)
		all := w.owned()
		stale := to(all[2], 5)
		stale.Version--
		err := w.Commit(w.ctx, []tokenstore.Advance{to(all[3], 5), stale, to(all[0], 5)}, map[string]string{"a": "1"})
		if !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("one of three has moved on: %v, want ErrFenced", err)
		}
		w.same("tokens", short(all...), short(w.tokens()...))
		w.same("row", "", w.row("a"))
		w.must(w.Commit(w.ctx, []tokenstore.Advance{to(all[3], 5), to(all[0], 6)}, map[string]string{"a": "2"}))
		w.same("rows", "2", w.row("a"))
	},
	"tokens that are not there fence a batch off": func(w *world) {
		w.declare(1)
		t := w.owned()[0]
		for _, key := range []tokenstore.Key{{Group: view, Segment: 1}, {Group: "none"}} {
			a := to(t, 5)
			a.Key = key
			if err := w.Commit(w.ctx, []tokenstore.Advance{a}, nil); !errors.Is(err, tokenstore.ErrFenced) {
				w.Errorf("%v: %v, want ErrFenced", key, err)
			}
		}
	},
	"of many batches on one version at once, one commits": func(w *world) {
		w.declare(2)
		both := w.owned()
		errs := together(16, func(i int) error {
			return w.Commit(w.ctx, []tokenstore.Advance{to(both[0], 5), to(both[1], 6)}, map[string]string{fmt.Sprint("batch ", i): "committed"})
		})
		committed := 0
		for i, err := range errs {
			row := w.row(fmt.Sprint("batch ", i))
			switch {
			case err == nil && row == "committed":
				committed++
			case !errors.Is(err, tokenstore.ErrFenced) || row != "":
				w.Errorf("batch %d: %v, and its row is %q", i, err, row)
			}
		}
		w.same("batches that committed", 1, committed)
	},
	"batches and claims at once: what committed is what the tokens say": func(w *world) {
		const rounds = 40
		w.declare(1)
		var mu sync.Mutex
		var committed int64
		for _, err := range together(6, func(i int) error {
			for range rounds {
				all, err := w.Store.Tokens(w.ctx, processor)
				if err != nil {
					return err
				}
				got, err := w.Store.Claim(w.ctx, processor, int64(i+1), 1, claimsOf(all))
				if err != nil || len(got) == 0 {
					if err != nil {
						return err
					}
					continue
				}
				for t := got[0]; ; t.Version++ {
					t.Parts[0].Progress = At(t.Parts[0].Progress.Position + 1)
					err := w.Commit(w.ctx, []tokenstore.Advance{to(t, t.Parts[0].Progress.Position)}, nil)
					if errors.Is(err, tokenstore.ErrFenced) {
						break
					}
					if err != nil {
						return err
					}
					mu.Lock()
					committed++
					enough := committed%3 == 0
					mu.Unlock()
					if enough {
						break
					}
				}
			}
			return nil
		}) {
			w.must(err)
		}
		if end := w.tokens()[0].Parts[0].Progress.Position; end != committed || committed == 0 {
			w.Errorf("%d batches of one event each committed, and the token is at %d", committed, end)
		}
	},
}
