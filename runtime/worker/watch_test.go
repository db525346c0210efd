package worker

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/tokenstore"
)

// living are workers with session locks.
func living(incarnations ...int64) []tokenstore.Worker {
	var all []tokenstore.Worker
	for _, n := range incarnations {
		w := alive(n)
		w.SessionLock, w.Leased = true, true
		all = append(all, w)
	}
	return all
}

func TestWhomAWorkerWatches(t *testing.T) {
	noLock := alive(4)
	for name, test := range map[string]struct {
		self    int64
		workers []tokenstore.Worker
		want    int64
	}{
		"the next one":                             {3, living(1, 3, 5, 8), 5},
		"the first one, after the last":            {8, living(1, 3, 5, 8), 1},
		"nobody, alone":                            {3, living(3), 0},
		"nobody without a session":                 {3, append(living(3, 6), noLock), 6},
		"not a dead one":                           {3, append(living(3, 6), dead(5)), 6},
		"the other one of two":                     {6, living(3, 6), 3},
		"also one that drains: it may still die":   {3, []tokenstore.Worker{{Incarnation: 4, Alive: true, SessionLock: true, State: tokenstore.Draining}}, 4},
		"the next one, though it is not there yet": {3, living(1, 5), 5},
	} {
		if got := neighbour(test.self, test.workers); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestEachOfTheLivingIsWatchedByOneOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		incarnations := rapid.SliceOfNDistinct(rapid.Int64Range(1, 40), 2, 10, rapid.ID).Draw(t, "living")
		workers := append(living(incarnations...), dead(50), dead(51))
		var watched []int64
		for _, self := range incarnations {
			target := neighbour(self, workers)
			if target == self {
				t.Fatalf("worker %d watches itself", self)
			}
			watched = append(watched, target)
		}
		slices.Sort(watched)
		if want := slices.Sorted(slices.Values(incarnations)); !slices.Equal(watched, want) {
			t.Fatalf("watched are %v, living are %v", watched, want)
		}
	})
}

func TestAnAimChangesOnlyWhenItMoves(t *testing.T) {
	var r ring
	r.aim(5)
	target, moved := r.at()
	r.aim(5)
	select {
	case <-moved:
		t.Fatal("the same target is a move")
	default:
	}
	r.aim(7)
	<-moved
	if now, again := r.at(); target != 5 || now != 7 || again == moved {
		t.Fatalf("%d, then %d", target, now)
	}
}

func TestWhatToldOfAWorkersEnd(t *testing.T) {
	leased, over := dead(2), dead(3)
	leased.Leased = true
	workers := []tokenstore.Worker{leased, over}
	for worker, want := range map[int64]detector{2: bySessionLock, 3: byLease, 4: byOperator} {
		if got := detectorOf(worker, workers); got != want {
			t.Errorf("worker %d: %s, want %s", worker, got, want)
		}
	}
}
