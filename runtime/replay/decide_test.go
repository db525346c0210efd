package replay

import (
	"strings"
	"testing"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

var names = map[action]string{explain: "explain", cancel: "cancel", begin: "begin", reset: "reset", measure: "measure", abandon: "abandon"}

func request(id string, phase tokenstore.ReplayPhase, state tokenstore.ReplayState, groups ...string) tokenstore.Replay {
	return tokenstore.Replay{ReplayRequest: tokenstore.ReplayRequest{ID: id, Groups: groups, Definition: "d", State: state}, Phase: phase}
}

// from is a pending one to a position that is refused, with that as the problem.
func from(position, id string, groups ...string) tokenstore.Replay {
	r := request(id, tokenstore.ReplayPending, tokenstore.ReplayWanted, groups...)
	r.From = progress.StartPosition{Type: progress.AtPosition, Position: position}
	return r
}

func worker(incarnation int64, definition string) tokenstore.Worker {
	return tokenstore.Worker{Incarnation: incarnation, Definition: definition, Pod: "pod-" + definition, Alive: true, State: tokenstore.Active}
}

func around(workers ...tokenstore.Worker) situation {
	return situation{view: tokenstore.View{Processor: tokenstore.Processor{Definition: "d"}, Workers: workers},
		groups: map[string]bool{"a": true, "b": true, "plain": false}, paused: func(group string) bool { return group == "b" },
		refused: func(place progress.StartPosition) (string, string) {
			if place.Position == "" {
				return "", ""
			}
			return tokenstore.ReplayPlaceInvalid, place.Position
		}}
}

func TestWhatIsDoneAboutReplays(t *testing.T) {
	const running = tokenstore.ReplayWanted
	for name, test := range map[string]struct {
		replays []tokenstore.Replay
		in      situation
		want    string
	}{
		"one that is due begins":   {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, running, "a")}, around(worker(1, "d")), "begin"},
		"one that has begun, too":  {[]tokenstore.Replay{request("x", tokenstore.ReplayResetting, running, "a")}, around(worker(1, "d")), "reset"},
		"one that runs is watched": {[]tokenstore.Replay{request("x", tokenstore.ReplayRunning, running, "a")}, around(worker(1, "d")), "measure"},
		"one that has ended is history": {[]tokenstore.Replay{request("x", tokenstore.ReplayComplete, running, "a"), request("y", tokenstore.ReplayAbandoned, running, "a")},
			around(worker(1, "d")), ""},
		"it waits for pods of another definition": {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, running, "a")}, around(worker(1, "d"), worker(2, "e")),
			"explain WaitingForRollout: pod pod-e runs another definition than d"},
		"dead ones do not count": {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, running, "a")},
			around(worker(1, "d"), tokenstore.Worker{Incarnation: 2, Definition: "e"}), "begin"},
		"it waits while its group is paused": {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, running, "b")}, around(worker(1, "d")),
			"explain Paused: group b is paused"},
		"it is refused without a reset": {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, running, "plain")}, around(worker(1, "d")),
			"explain NoReset: group plain has no reset"},
		"one after the other, where they share a group": {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, running, "a"), request("y", tokenstore.ReplayPending, running, "a")},
			around(worker(1, "d")), "begin; explain Waiting: replay x of group a runs first"},
		"one that cannot go on holds nobody up": {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, running, "plain", "a"), request("y", tokenstore.ReplayPending, running, "a")},
			around(worker(1, "d")), "explain NoReset: group plain has no reset; begin"},
		"one that has no place to go back to holds nobody up either": {[]tokenstore.Replay{from("too early", "x", "a"), request("y", tokenstore.ReplayPending, running, "a")},
			around(worker(1, "d")), "explain PlaceInvalid: too early; begin"},
		"a place is not looked for before it is due": {[]tokenstore.Replay{from("too early", "x", "b")}, around(worker(1, "d")), "explain Paused"},
		"it is cancelled before the reset": {[]tokenstore.Replay{request("x", tokenstore.ReplayPending, tokenstore.ReplayToBeCancelled, "a"),
			request("y", tokenstore.ReplayResetting, tokenstore.ReplayToBeAbandoned, "a")}, around(worker(1, "d")), "cancel; cancel"},
		"it is abandoned after it, and not cancelled": {[]tokenstore.Replay{request("x", tokenstore.ReplayRunning, tokenstore.ReplayToBeAbandoned, "a"),
			request("y", tokenstore.ReplayRunning, tokenstore.ReplayToBeCancelled, "b")}, around(worker(1, "d")), "abandon; measure"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range decide(test.replays, test.in) {
				text := names[d.action]
				if d.action == explain {
					text += " " + d.reason + ": " + d.message
				}
				got = append(got, text)
			}
			want := strings.Split(test.want, "; ")
			if test.want == "" {
				want = nil
			}
			if len(got) != len(want) {
				t.Fatalf("%q, want %q", got, want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], want[i]) {
					t.Errorf("%q, want %q", got[i], want[i])
				}
			}
		})
	}
}

func TestWhoCarriesReplaysOut(t *testing.T) {
	draining := worker(1, "d")
	draining.State = tokenstore.Draining
	dead := worker(1, "d")
	dead.Alive = false
	for name, test := range map[string]struct {
		workers []tokenstore.Worker
		want    int64
	}{
		"the one that began first":                {[]tokenstore.Worker{worker(3, "d"), worker(5, "d")}, 3},
		"of the wanted definition":                {[]tokenstore.Worker{worker(3, "c"), worker(5, "d")}, 5},
		"rather one that stays":                   {[]tokenstore.Worker{draining, worker(5, "d")}, 5},
		"nobody that is dead":                     {[]tokenstore.Worker{dead, worker(5, "d")}, 5},
		"whoever there is, to say what it is for": {[]tokenstore.Worker{worker(3, "c")}, 3},
		"nobody": {nil, 0},
	} {
		if got := leader(around(test.workers...).view); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
