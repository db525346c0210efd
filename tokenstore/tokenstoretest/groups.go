package tokenstoretest

import (
	"errors"
	"strings"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

var groups = map[string]func(*world){
	"a new group has its layout, at the start asked for": func(w *world) {
		asked := 0
		start := func(group string) (progress.Progress, error) {
			if asked++; group != view {
				w.Errorf("asked for group %s", group)
			}
			return At(7), nil
		}
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 3}}, nil, start))
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 3}}, nil, start))
		w.same("tokens", []string{
			"0/3 at 0/3:7, generation 1, epoch 1, version 1, owner 0",
			"1/1 at 1/1:7, generation 1, epoch 1, version 1, owner 0",
			"2/3 at 2/3:7, generation 1, epoch 1, version 1, owner 0",
		}, short(w.tokens()...))
		if asked != 1 {
			w.Errorf("asked %d times where to start, want once", asked)
		}
	},
	"another number of segments is wanted, not done": func(w *world) {
		w.declare(2)
		w.declare(16)
		got, err := w.Store.Groups(w.ctx, processor)
		w.must(err)
		w.same("groups", []tokenstore.Group{{Name: view, Segments: 16, Sequencing: "Stream/pg1"}}, got)
		w.same("tokens", 2, len(w.tokens()))
	},
	"a group that is not named is retired, and goes on where it stood": func(w *world) {
		w.declare(1)
		w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(w.owned()[0], 5)}))
		before := w.tokens()
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "other", Segments: 1}}, nil, from(0)))
		if all := w.tokens(); len(all) != 1 || all[0].Group != "other" {
			w.Errorf("tokens of a retired group: %v", short(all...))
		}
		if got := w.claim(2, before...); len(got) != 0 {
			w.Errorf("a retired group's segments are claimed: %v", short(got...))
		}
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 1}}, nil, from(99)))
		w.same("tokens", short(before...), short(w.tokens()...))
	},
	"a group of a live processor is refused, and nothing is changed": func(w *world) {
		w.declare(1)
		w.must(w.Directory.Register(w.ctx, processor, worker(1)))
		groups := []tokenstore.Group{{Name: "mine", Segments: 1}, {Name: view, Segments: 1}}
		err := w.Store.Declare(w.ctx, tokenstore.Owner{Processor: "test/default/other"}, groups, nil, from(0))
		var conflict *tokenstore.GroupConflictError
		if !errors.As(err, &conflict) || conflict.Group != view || conflict.Owner.Processor != processor {
			w.Fatalf("declaring a group of another processor: %v", err)
		}
		if all, err := w.Store.Groups(w.ctx, "test/default/other"); err != nil || len(all) != 0 {
			w.Errorf("it has the groups %v, %v", all, err)
		}
	},
	"a retired group is anybody's": func(w *world) {
		w.declare(1)
		w.must(w.Directory.Register(w.ctx, processor, worker(1)))
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, nil, nil, from(0)))
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: "test/default/other"}, []tokenstore.Group{{Name: view, Segments: 1}}, nil, from(0)))
	},
	"where the start is not to be had, nothing is made": func(w *world) {
		unknown := errors.New("no such position")
		err := w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 1}}, nil, func(string) (progress.Progress, error) { return progress.Progress{}, unknown })
		if !errors.Is(err, unknown) || !strings.Contains(err.Error(), view) {
			w.Errorf("got %v", err)
		}
		if all, err := w.Store.Groups(w.ctx, processor); err != nil || len(all) != 0 {
			w.Errorf("groups %v, %v", all, err)
		}
	},
	"declared by many at once, a group is made once": func(w *world) {
		for _, err := range together(8, func(int) error {
			return w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: 4}}, nil, from(0))
		}) {
			w.must(err)
		}
		w.must(segment.Partition(w.layout()))
		w.same("tokens", 4, len(w.tokens()))
	},
	"epochs and versions go on after a drop and a new declaration": func(w *world) {
		w.declare(2)
		for range 3 {
			w.owned()
		}
		before := w.owned()
		for position := int64(1); position <= 5; position++ {
			w.must(w.Store.Advance(w.ctx, []tokenstore.Advance{to(before[1], position)}))
			before[1].Version++
		}
		w.must(w.Store.Fail(w.ctx, before[0].Epoch, before[0].Version, tokenstore.Failure{Key: before[0].Key, Attempts: 1}, time.Second))
		w.must(w.Store.Drop(w.ctx, tokenstore.Owner{Processor: processor}))
		w.must(w.Store.Drop(w.ctx, tokenstore.Owner{Processor: processor}))
		if left := w.tokens(); len(left) != 0 {
			w.Fatalf("left: %v", short(left...))
		}
		if err := w.Store.Advance(w.ctx, []tokenstore.Advance{to(before[0], 9)}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("moving a token that was dropped: %v, want ErrFenced", err)
		}
		w.declare(2)
		for i, after := range w.tokens() {
			if after.Epoch <= before[i].Epoch || after.Version <= before[i].Version {
				w.Errorf("epoch %d and version %d came after %d and %d", after.Epoch, after.Version, before[i].Epoch, before[i].Version)
			}
		}
		if failures, err := w.Store.Failures(w.ctx, processor); err != nil || len(failures) != 0 {
			w.Errorf("failures %+v, %v", failures, err)
		}
		if err := w.Store.Advance(w.ctx, []tokenstore.Advance{to(before[0], 9)}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("moving a token from before the drop: %v, want ErrFenced", err)
		}
	},
}
