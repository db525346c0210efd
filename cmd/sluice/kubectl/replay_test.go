package kubectl

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

func TestWhereAReplayBegins(t *testing.T) {
	for text, want := range map[string]v1alpha1.ReplayFromType{
		"earliest": v1alpha1.ReplayFromEarliest, "Latest": v1alpha1.ReplayFromLatest, "position=17": v1alpha1.ReplayFromPosition,
		"timestamp=2026-11-21T09:30:00Z": v1alpha1.ReplayFromTimestamp,
	} {
		if from, err := parseFrom(text); err != nil || from.Type != want {
			t.Errorf("%s: %+v, %v", text, from, err)
		}
	}
	for _, text := range []string{"", "first", "position", "position=", "earliest=1", "timestamp=yesterday"} {
		if from, err := parseFrom(text); err == nil || !strings.Contains(err.Error(), "--from") {
			t.Errorf("%q: %+v, %v", text, from, err)
		}
	}
}

func replayWith(conditions ...metav1.Condition) *v1alpha1.Replay {
	return &v1alpha1.Replay{ObjectMeta: metav1.ObjectMeta{Name: "payments.fix"}, Spec: v1alpha1.ReplaySpec{ProcessorName: "payments"},
		Status: v1alpha1.ReplayStatus{Conditions: conditions}}
}

func TestTheProgressOfAReplay(t *testing.T) {
	now := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	waiting := replayWith(metav1.Condition{Type: "Complete", Status: "False", Reason: "WaitingForRollout", Message: "pod a runs another definition"})
	if line := progressLine(waiting, now); line != "WaitingForRollout: pod a runs another definition" {
		t.Error(line)
	}
	half := replayWith(metav1.Condition{Type: "Complete", Status: "False", Reason: "ReplayRunning"})
	half.Status.Progress, half.Status.Events = ptr.To[int32](50), v1alpha1.ReplayEvents{Handled: 500, Total: 1000}
	half.Status.ETA = &metav1.Time{Time: now.Add(90 * time.Second)}
	if line := progressLine(half, now); line != "[###############---------------]  50 %  500 of 1000 events, about 90s left" {
		t.Error(line)
	}
	if over, _ := verdict(half, true); over {
		t.Error("it is not over")
	}
}

func TestHowAReplayEnded(t *testing.T) {
	if over, err := verdict(replayWith(metav1.Condition{Type: "Complete", Status: "True", Reason: "ReplayComplete"}), true); !over || err != nil {
		t.Error(over, err)
	}
	for _, c := range []metav1.Condition{{Type: "Failed", Status: "True", Reason: "ResetFailed", Message: "no such table"},
		{Type: "Accepted", Status: "False", Reason: "NoReset", Message: "group view has no reset"}} {
		if over, err := verdict(replayWith(c), false); !over || err == nil || !strings.Contains(err.Error(), c.Message) || !strings.Contains(err.Error(), c.Reason) {
			t.Errorf("%s: %t %v", c.Reason, over, err)
		}
	}
	before := replayWith(metav1.Condition{Type: "Complete", Status: "True", Reason: "AlreadyRun", Message: "ran on 2026-11-20"})
	if over, err := verdict(before, false); !over || err != nil {
		t.Error("following one that ran before:", over, err)
	}
	if over, err := verdict(before, true); !over || err == nil || !strings.Contains(err.Error(), "ran on 2026-11-20") || !strings.Contains(err.Error(), "--id") {
		t.Error("asking for one that ran before:", over, err)
	}
	before.Status.Progress = ptr.To[int32](100)
	if line := progressLine(before, now); line != "AlreadyRun: ran on 2026-11-20" {
		t.Error(line)
	}
	old := replayWith(metav1.Condition{Type: "Failed", Status: "True", Reason: "ResetFailed"})
	old.Generation = 2
	if over, _ := verdict(old, true); over {
		t.Error("the status speaks of an older generation")
	}
}

func TestALineIsShownAgainWhenItChanges(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&out)
	for _, line := range []string{"a", "a", "b"} {
		b.show(line)
	}
	b.end()
	if out.String() != "a\nb\n" {
		t.Errorf("%q", out.String())
	}
}
