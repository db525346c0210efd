package tokenstoretest

import (
	"errors"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

var (
	mine    = tokenstore.Owner{Processor: processor, Installation: "a"}
	another = tokenstore.Owner{Processor: "test/default/other", Installation: "a"}
	// twin is the processor of the same name in another cluster that is called the same.
	twin = tokenstore.Owner{Processor: processor, Installation: "b"}
	// renamed is the same object of the same installation after its cluster got another name.
	renamed = tokenstore.Owner{Processor: "renamed/default/payments", Installation: "a"}
)

func consents(o tokenstore.Owner, owners ...string) tokenstore.Owner {
	o.TakeOverFrom = owners
	return o
}

var owners = map[string]func(*world){
	"a group of a processor that is silent is refused": func(w *world) {
		w.own(mine)
		w.must(w.Directory.Register(w.ctx, processor, worker(1)))
		w.must(w.Elapse(w.ctx, 24*time.Hour))
		w.turnedAway(another, mine)
		w.turnedAway(consents(another, processor, "test/default/payments@b"), mine) // consent to others
	},
	"a group is taken over by consent, and its former owner is fenced and refused": func(w *world) {
		w.own(mine)
		before := w.claimAs(mine, 1)
		w.own(consents(another, mine.String()))
		if all := w.tokens(); len(all) != 0 {
			w.Errorf("the former owner still has %v", short(all...))
		}
		after, err := w.Store.Tokens(w.ctx, another.Processor)
		w.must(err)
		w.same("tokens", []string{"0/0 at 0/0:0, generation 1, epoch 3, version 3, owner 0"}, short(after...))
		if err := w.Store.Advance(w.ctx, []tokenstore.Advance{to(before[0], 5)}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("a batch of the former owner: %v, want ErrFenced", err)
		}
		if got := w.claimAs(mine, 1); len(got) != 0 {
			w.Errorf("the former owner claims %v", short(got...))
		}
		if got := w.claimAs(another, 2); len(got) != 1 {
			w.Errorf("the new owner claims %v", short(got...))
		}
		w.turnedAway(mine, another) // whose operator goes on declaring
	},
	"a group that was taken over in the middle of a reset outlives the end of its former owner": func(w *world) {
		w.own(mine)
		w.declareRow(mine)
		x := asked("x")
		x.Definition = w.view().Processor.Definition
		w.request(processor, x)
		w.begin("x")
		w.own(consents(another, mine.String()))
		if got := w.claimAs(another, 2); len(got) != 0 {
			w.Errorf("claimed in the middle of a reset: %v", short(got...))
		}
		w.must(w.Store.Drop(w.ctx, mine))
		w.request(processor, asked("y")) // whatever number it has is not that of x
		w.must(w.Store.EndReset(w.ctx, w.replay("y"), tokenstore.ReplayCancelled, tokenstore.ReplayCancelledMeanwhile, ""))
		if got := w.claimAs(another, 2); len(got) != 1 {
			w.Errorf("the new owner claims %v", short(got...))
		}
	},
	"a processor of another installation with the same name is refused, and nothing is changed": func(w *world) {
		w.own(mine)
		w.declareRow(mine)
		before := w.tokens()
		w.turnedAway(twin, mine)
		err := w.Store.Declare(w.ctx, twin, []tokenstore.Group{{Name: "theirs", Segments: 1}}, nil, from(0))
		w.conflict(err, "view", mine)
		w.must(w.Store.Drop(w.ctx, twin))
		w.must(w.Directory.RemoveProcessor(w.ctx, twin))
		w.same("tokens", short(before...), short(w.tokens()...))
		w.conflict(w.Directory.DeclareProcessor(w.ctx, row(twin)), "", mine)
		w.same("installation", "a", w.view().Processor.Installation)
	},
	"workers of another installation are not let in": func(w *world) {
		w.declareRow(mine)
		w.notLetIn(workerOf(twin, 1))
		w.must(w.Directory.Register(w.ctx, processor, workerOf(mine, 2)))
		w.must(w.Directory.Register(w.ctx, processor, worker(3))) // older than installations
		w.same("workers", 2, len(w.view().Workers))
	},
	"by consent an installation takes over a processor of the same name, and the other one's workers end": func(w *world) {
		w.own(mine)
		w.declareRow(mine)
		w.must(w.Directory.Register(w.ctx, processor, workerOf(mine, 1)))
		w.must(w.Directory.Register(w.ctx, processor, worker(2)))
		w.must(w.Directory.Assign(w.ctx, processor, tokenstore.Plan{Planner: "test", Members: []int64{1}, Changed: true,
			Targets: []tokenstore.Assignment{{Key: tokenstore.Key{Group: view}, Worker: 1}}}))
		before := w.claimAs(mine, 1)
		taker := consents(twin, mine.String())
		w.own(taker)
		w.declareRow(taker)
		if err := w.Store.Advance(w.ctx, []tokenstore.Advance{to(before[0], 5)}); !errors.Is(err, tokenstore.ErrFenced) {
			w.Errorf("a batch of the former owner: %v, want ErrFenced", err)
		}
		if v := w.view(); len(v.Workers) != 0 || len(v.Assignments) != 0 || v.Processor.Installation != "b" {
			w.Errorf("workers %+v, assignments %+v of installation %s", v.Workers, v.Assignments, v.Processor.Installation)
		}
		if _, err := w.Directory.Heartbeat(w.ctx, workerOf(mine, 1)); !errors.Is(err, tokenstore.ErrWorkerEnded) {
			w.Errorf("a worker of the former owner beats: %v, want ErrWorkerEnded", err)
		}
		w.notLetIn(workerOf(mine, 3))
		w.notLetIn(worker(4)) // whichever installation that is of
		w.must(w.Directory.Register(w.ctx, processor, workerOf(twin, 5)))
		w.turnedAway(mine, twin)
	},
	"what has no installation belongs to the first one that declares it": func(w *world) {
		w.own(tokenstore.Owner{Processor: processor})
		w.declareRow(tokenstore.Owner{Processor: processor})
		w.must(w.Directory.Register(w.ctx, processor, worker(1)))
		before := w.tokens()
		w.own(mine)
		w.declareRow(mine)
		w.same("tokens", short(before...), short(w.tokens()...)) // without a fence: workers go on
		v := w.view()
		w.same("workers", 1, len(v.Workers))
		w.same("revision", int64(1), v.Processor.Revision)
		w.turnedAway(twin, mine)
	},
	"a processor whose cluster got another name goes on": func(w *world) {
		w.own(mine)
		w.own(renamed)
		if all, err := w.Store.Tokens(w.ctx, renamed.Processor); err != nil || len(all) != 1 {
			w.Errorf("tokens %v, %v", short(all...), err)
		}
		stranger := renamed
		stranger.Installation = "b"
		w.turnedAway(stranger, renamed)
	},
	"definitions of a new owner claim, whatever number the former owner's had": func(w *world) {
		w.declare(1)
		w.define("d1")
		w.define("d2")
		w.define("d1")
		w.request(processor, asked("x"))
		w.begin("x")
		w.reset("x", 0)
		w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, nil, nil, from(0)))
		w.own(another)
		if got := w.claimAs(another, 2); len(got) != 1 {
			w.Errorf("the new owner claims %v", short(got...))
		}
	},
}

// own declares the group view as an owner.
func (w *world) own(owner tokenstore.Owner) {
	w.Helper()
	w.must(w.Store.Declare(w.ctx, owner, []tokenstore.Group{{Name: view, Segments: 1}}, nil, from(0)))
}

func row(owner tokenstore.Owner) tokenstore.Processor {
	return tokenstore.Processor{Name: owner.Processor, Definition: "d", Replicas: 1, Live: []byte(`{}`),
		Installation: owner.Installation, TakeOverFrom: owner.TakeOverFrom}
}

func (w *world) declareRow(owner tokenstore.Owner) {
	w.Helper()
	w.must(w.Directory.DeclareProcessor(w.ctx, row(owner)))
}

// refused declares the group as somebody who may not have it.
func (w *world) turnedAway(by, has tokenstore.Owner) {
	w.Helper()
	err := w.Store.Declare(w.ctx, by, []tokenstore.Group{{Name: "aside", Segments: 1}, {Name: view, Segments: 1}}, nil, from(0))
	w.conflict(err, view, has)
	if all, err := w.Store.Groups(w.ctx, "test/default/other"); by.Processor == "test/default/other" && (err != nil || len(all) != 0) {
		w.Errorf("it has the groups %v, %v", all, err)
	}
}

func (w *world) conflict(err error, group string, has tokenstore.Owner) {
	w.Helper()
	var conflict *tokenstore.GroupConflictError
	if !errors.As(err, &conflict) || conflict.Group != group || !conflict.Owner.Is(has) {
		w.Fatalf("got %v, want a conflict with %s about %q", err, has, group)
	}
}

func workerOf(owner tokenstore.Owner, incarnation int64) tokenstore.Worker {
	registered := worker(incarnation)
	registered.Installation = owner.Installation
	return registered
}

func (w *world) notLetIn(of tokenstore.Worker) {
	w.Helper()
	var refused *tokenstore.InstallationError
	if err := w.Directory.Register(w.ctx, processor, of); !errors.As(err, &refused) || refused.Owner == "" || refused.Installation != of.Installation {
		w.Errorf("registering a worker of installation %q: %v", of.Installation, err)
	}
}

func (w *world) claimAs(owner tokenstore.Owner, worker int64) []tokenstore.Token {
	w.Helper()
	all, err := w.Store.Tokens(w.ctx, owner.Processor)
	w.must(err)
	var claims []tokenstore.Claim
	for _, t := range all {
		claims = append(claims, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch})
	}
	got, err := w.Store.Claim(w.ctx, owner.Processor, worker, 1, claims)
	w.must(err)
	return got
}
