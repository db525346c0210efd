package controllers

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore"
)

func TestWhenAReplayWillBeComplete(t *testing.T) {
	reset := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		done  int64
		still time.Duration // since it moved last, a minute after the reset
		phase tokenstore.ReplayPhase
		want  time.Duration // after the reset; 0 for not known
		share int32
	}{
		"half of it in a minute":         {500, 0, tokenstore.ReplayRunning, 2 * time.Minute, 50},
		"the same, looked at later":      {500, 10 * time.Second, tokenstore.ReplayRunning, 2 * time.Minute, 50},
		"it does not move":               {500, stillAfter, tokenstore.ReplayRunning, 0, 50},
		"too early to say":               {49, 0, tokenstore.ReplayRunning, 0, 0},
		"soon":                           {999, 0, tokenstore.ReplayRunning, 60060 * time.Millisecond, 95},
		"nothing is left, and it is not": {1000, 0, tokenstore.ReplayRunning, time.Minute, 95},
		"it is complete":                 {1000, 0, tokenstore.ReplayComplete, 0, 100},
		"it was abandoned":               {500, 0, tokenstore.ReplayAbandoned, 0, 50},
	} {
		t.Run(name, func(t *testing.T) {
			row := &tokenstore.Replay{Phase: test.phase, Done: test.done, Total: 1000, ResetAt: &reset}
			moved := reset.Add(time.Minute)
			var got v1alpha1.ReplayStatus
			replayFigures(&got, row, moved, moved.Add(test.still))
			if *got.Progress != test.share || got.Events != (v1alpha1.ReplayEvents{Handled: test.done, Total: 1000}) {
				t.Errorf("got %d %% of %+v, want %d %%", *got.Progress, got.Events, test.share)
			}
			switch {
			case test.want == 0 && got.ETA != nil:
				t.Errorf("got %s, want none", got.ETA)
			case test.want != 0 && (got.ETA == nil || !got.ETA.Time.Equal(reset.Add(test.want).Truncate(time.Second))):
				t.Errorf("got %v, want %s", got.ETA, reset.Add(test.want))
			}
		})
	}
}

func TestWhenAReplayMovedLast(t *testing.T) {
	var p paces
	start := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	row := &tokenstore.Replay{Phase: tokenstore.ReplayRunning}
	for _, step := range []struct{ at, done, want int }{{0, 10, 0}, {5, 10, 0}, {9, 11, 9}, {60, 11, 9}} {
		row.Done = int64(step.done)
		now := start.Add(time.Duration(step.at) * time.Second)
		if got := p.of("a", row, now).Sub(start).Seconds(); got != float64(step.want) {
			t.Errorf("after %d s: since %g s, want %d s", step.at, got, step.want)
		}
	}
	p.of("b", row, start.Add(2*keptWrites))
	row.Phase = tokenstore.ReplayComplete
	p.of("b", row, start.Add(2*keptWrites))
	if len(p.known) != 0 {
		t.Errorf("it remembers %v", p.known)
	}
}

// A cache that lags behind a write must not have it written, and told, again.
func TestALaggingCacheIsNoNews(t *testing.T) {
	var w writtenStatuses[string]
	now := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	object := &metav1.ObjectMeta{UID: "a", ResourceVersion: "1"}
	if got, at := w.of(object, "cached"); got != "cached" || !at.IsZero() {
		t.Errorf("before the first write: %s %s", got, at)
	}
	w.note(object, "written", now)
	if got, at := w.of(object, "cached"); got != "written" || !at.Equal(now) {
		t.Errorf("the cache lags: %s %s", got, at)
	}
	object.ResourceVersion = "2"
	if got, at := w.of(object, "cached"); got != "cached" || !at.Equal(now) {
		t.Errorf("the cache has caught up: %s %s", got, at)
	}
	object.UID = types.UID("b")
	if got, at := w.of(object, "cached"); got != "cached" || !at.IsZero() {
		t.Errorf("another object: %s %s", got, at)
	}
	w.note(object, "other", now.Add(2*keptWrites))
	if len(w.known) != 1 {
		t.Errorf("it remembers %v", w.known)
	}
}

func TestWhatIsToldOfAReplay(t *testing.T) {
	is := func(name string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: name, Status: status, Reason: reason, Message: reason}
	}
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	accepted, reset := is("Accepted", yes, "Accepted"), metav1.Now()
	for name, test := range map[string]struct {
		before, after []metav1.Condition
		resetAt       *metav1.Time
		want          string
	}{
		"accepted":                        {nil, []metav1.Condition{accepted, is("Complete", no, "Pending")}, nil, "Normal Accepted;"},
		"refused":                         {nil, []metav1.Condition{is("Accepted", no, "NoReset"), is("Complete", no, "NoReset")}, nil, "Warning NoReset;"},
		"waiting":                         {[]metav1.Condition{accepted, is("Complete", no, "Pending")}, []metav1.Condition{accepted, is("Complete", no, "WaitingForLocks")}, nil, "Normal WaitingForLocks;"},
		"reset":                           {[]metav1.Condition{accepted, is("Complete", no, "Pending")}, []metav1.Condition{accepted, is("Complete", no, "ReplayRunning")}, &reset, "Normal ReplayRunning;"},
		"complete":                        {[]metav1.Condition{accepted, is("Complete", no, "ReplayRunning")}, []metav1.Condition{accepted, is("Complete", yes, "ReplayComplete")}, &reset, "Normal ReplayComplete;"},
		"nothing new":                     {[]metav1.Condition{accepted, is("Complete", yes, "ReplayComplete")}, []metav1.Condition{accepted, is("Complete", yes, "ReplayComplete")}, &reset, ""},
		"complete before it was there":    {nil, []metav1.Condition{accepted, is("Complete", yes, "AlreadyRun")}, &reset, "Normal AlreadyRun;"},
		"cancelled":                       {[]metav1.Condition{accepted}, []metav1.Condition{accepted, is("Complete", no, "Cancelled"), is("Failed", yes, "Cancelled"), is("Cancelled", yes, "Cancelled")}, nil, "Normal Cancelled;"},
		"too late to cancel":              {[]metav1.Condition{accepted, is("Complete", no, "ReplayRunning")}, []metav1.Condition{accepted, is("Complete", no, "ReplayRunning"), is("Cancelled", no, "AlreadyReset")}, &reset, "Warning AlreadyReset;"},
		"failed":                          {[]metav1.Condition{accepted}, []metav1.Condition{accepted, is("Complete", no, "ResetFailed"), is("Failed", yes, "ResetFailed")}, nil, "Warning ResetFailed;"},
		"the store has not been seen yet": {nil, []metav1.Condition{accepted, is("Complete", unknown, "Unknown")}, nil, "Normal Accepted;"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, m := range replayNews(v1alpha1.ReplayStatus{Conditions: test.before}, v1alpha1.ReplayStatus{Conditions: test.after, ResetAt: test.resetAt}) {
				got += m.kind + " " + m.reason + ";"
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestReplayingSaysWhetherAReplayWaitsOrIsRefused(t *testing.T) {
	row := func(phase tokenstore.ReplayPhase, reason, message string) func(*scope) {
		return func(s *scope) {
			s.store.Facts.Replays = []tokenstore.Replay{{Phase: phase, Reason: reason, Message: message, Done: 3, Total: 10,
				ReplayRequest: tokenstore.ReplayRequest{ID: "bad", Groups: []string{"view"}}}}
		}
	}
	for name, test := range map[string]struct {
		change func(*scope)
		want   string
	}{
		"none":            {func(*scope) {}, "False NotReplaying: no group is replaying"},
		"no such place":   {row(tokenstore.ReplayPending, tokenstore.ReplayPlaceInvalid, `position "abc" is none`), `False ReplayWaiting: replay bad is not accepted: position "abc" is none`},
		"not looked at":   {row(tokenstore.ReplayPending, "", ""), "False ReplayWaiting: replay bad waits to begin: no worker has looked at it yet"},
		"waits for locks": {row(tokenstore.ReplayResetting, tokenstore.ReplayWaitsForLocks, "pid 7 has one"), "False WaitingForLocks: replay bad: pid 7 has one"},
		"is reset":        {row(tokenstore.ReplayResetting, "", ""), "False ReplayWaiting: replay bad: the groups are being reset"},
		"runs":            {row(tokenstore.ReplayRunning, "", ""), "True ReplayRunning: replay bad of view: 30 %"},
		"was cancelled":   {row(tokenstore.ReplayCancelled, "", ""), "False NotReplaying: no group is replaying"},
	} {
		c := replaying(healthy(t, test.change))
		if got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// A store that was restored, or is another one, does not know of a replay that was complete: it runs again, and says why.
func TestAReplayThatTheStoreHasForgottenRunsAgain(t *testing.T) {
	replay := &v1alpha1.Replay{Spec: v1alpha1.ReplaySpec{ProcessorName: "orders", Groups: []string{"view"}}}
	replay.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionComplete, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReplayComplete}}
	s := &scope{processor: &v1alpha1.EventProcessor{}, store: stores.Observation{Seen: true}}
	s.desired.Spec.ProcessingGroups = append(s.desired.Spec.ProcessingGroups, definition.Group{Name: "view", Handler: definition.Handler{Type: definition.HandlerGo}})
	o := outlookOf(replay, s, nil)
	if o.complete.Status != metav1.ConditionFalse || o.complete.Message != "the store does not know that the replay has ended, so it is another one, or was restored: it will run again" {
		t.Errorf("%+v", o.complete)
	}
}
