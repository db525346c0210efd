package kubectl

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)

func payments(conditions ...metav1.Condition) v1alpha1.EventProcessor {
	replicas := int32(2)
	p := v1alpha1.EventProcessor{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "payments", Generation: 3}}
	p.Spec.Replicas = &replicas
	p.Spec.DesiredState = v1alpha1.DesiredStateRunning
	p.Spec.ProcessingGroups = []v1alpha1.ProcessingGroup{{Name: "validation", Segments: 4}, {Name: "payments-view", Segments: 5}}
	p.Status = v1alpha1.EventProcessorStatus{ObservedGeneration: 3, Definition: "1a2b3c4d5e", Conditions: conditions,
		Segments: v1alpha1.SegmentCounts{Summary: "9/9"},
		Groups: []v1alpha1.GroupStatus{{Name: "validation", Segments: 4, State: v1alpha1.GroupRunning, Lag: v1alpha1.Lag0s},
			{Name: "payments-view", Segments: 5, State: v1alpha1.GroupBlocked, Lag: v1alpha1.LagUnder10s}}}
	return p
}

func is(name string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: name, Status: status, Reason: reason, Message: message}
}

func held(group string, mask uint32, ids ...uint32) []worker.Holding {
	var all []worker.Holding
	for _, id := range ids {
		all = append(all, worker.Holding{Group: group, Segment: id, Mask: mask})
	}
	return all
}

func TestScreens(t *testing.T) {
	ready := is(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "")
	one := podSight{name: "payments-7c-aaaaa", state: "Ready",
		figures:  map[string]figures{"validation": {claimed: 2, rate: 12.25}, "payments-view": {claimed: 3, lag: 1.26, rate: 3, blocked: 1}},
		holdings: append(held("validation", 3, 0, 1), held("payments-view", 3, 1, 2, 3)...)}
	one.holdings[4].Blocked = &worker.Blocked{Kind: tokenstore.EventFault, Reason: "HandlerFailed", Position: 1042, Type: "OrderPlaced", Stream: "order-7", Attempts: 4,
		SQLState: "23505", Object: "orders_pkey", Since: now.Add(-2 * time.Minute)}
	two := podSight{name: "payments-7c-bbbbb", state: "Ready", figures: map[string]figures{"validation": {claimed: 2, rate: 10}, "payments-view": {claimed: 2}},
		holdings: append(held("validation", 3, 2, 3), held("payments-view", 7, 0, 4)...)}
	slow := one
	slow.calls = []worker.RunningCall{
		{Group: "validation", Call: tokenstore.Call{Kind: tokenstore.BatchCall, Segment: ptr.To[uint32](1), Position: 77, Type: "OrderPlaced", Stream: "order-9", Attempt: 2, Running: 75, Abandoned: true}},
		{Group: "payments-view", Call: tokenstore.Call{Kind: tokenstore.ResetCall, Replay: "fix", Running: 8.25}}}
	unread := payments(is(v1alpha1.ConditionReady, metav1.ConditionFalse, "ConnectionFailed", "db:5432: no answer in time"))
	unread.Status.AsOf = &metav1.Time{Time: now.Add(-5 * time.Minute)}
	starting := podSight{name: "payments-7c-ccccc", state: "ImagePullBackOff", err: errors.New("it is pending")}
	idle := podSight{name: "payments-7c-ddddd", state: "NotReady", figures: map[string]figures{"validation": {}, "payments-view": {}}}
	paused := payments(is(v1alpha1.ConditionReady, metav1.ConditionTrue, "Paused", ""))
	paused.Spec.DesiredState, paused.Generation = v1alpha1.DesiredStatePaused, 4

	replayed := payments(ready, is(v1alpha1.ConditionReplaying, metav1.ConditionTrue, "ReplayRunning", "replay fix of payments-view: 45 %"))
	replayed.Status.Groups[1].State, replayed.Status.Groups[1].ReplayPercent = v1alpha1.GroupReplaying, ptr.To[int32](45)
	running := replayWith(is(v1alpha1.ConditionComplete, metav1.ConditionFalse, "ReplayRunning", ""))
	running.Spec.Groups = []string{"payments-view"}
	running.Status.Progress, running.Status.Events, running.Status.ETA = ptr.To[int32](45), v1alpha1.ReplayEvents{Handled: 4500, Total: 10000}, &metav1.Time{Time: now.Add(90 * time.Second)}
	refused := replayWith(is(v1alpha1.ConditionAccepted, metav1.ConditionFalse, "NoReset", ""), is(v1alpha1.ConditionComplete, metav1.ConditionFalse, "NoReset", ""))
	refused.Name, refused.Spec.Groups = "mine", []string{"validation", "payments-view"}

	waiting := payments(ready)
	waiting.Status.OpenWriters = []v1alpha1.OpenWriter{{PID: 4242, Application: "nightly-import", User: "importer", Since: metav1.NewTime(now.Add(-12 * time.Minute))},
		{Prepared: "left-behind", User: "app", Since: metav1.NewTime(now.Add(-time.Minute))}}

	splitting := payments(is(v1alpha1.ConditionReady, metav1.ConditionFalse, "Resegmenting", "group payments-view has 24843 segments and is merged into 5: 7925 of 32762 merges are done, 61/s, about 6m47s left"))
	splitting.Status.Segments.Summary = "24847/24847->69"
	splitting.Spec.ProcessingGroups[0].Segments = 64
	splitting.Status.Groups[0].Resegmenting = &v1alpha1.Resegmenting{To: 64, Total: 60}
	splitting.Status.Groups[1].Segments = 24843
	splitting.Status.Groups[1].Resegmenting = &v1alpha1.Resegmenting{To: 5, Done: 7925, Total: 32762, PerMinute: 3660, ETA: &metav1.Time{Time: now.Add(407 * time.Second)}}
	many := two
	many.figures = map[string]figures{"validation": {claimed: 4}, "payments-view": {claimed: 24843}}

	for name, s := range map[string]sight{
		"operator-is-away":  {processor: payments(ready), pods: []podSight{one, two}, operator: operatorInfo{known: true, lease: "sluice-system/sluice-operator.sluice.dev", renewed: now.Add(-3 * time.Hour)}},
		"operator-is-there": {processor: payments(ready), pods: []podSight{one, two}, operator: operatorInfo{known: true, lease: "sluice-system/sluice-operator.sluice.dev", renewed: now.Add(-10 * time.Second)}},
		"no-operator":       {processor: payments(ready), pods: []podSight{one, two}, operator: operatorInfo{known: true}},
		"operator-unknown":  {processor: payments(ready), pods: []podSight{one, two}, operator: operatorInfo{err: errors.New("reading the operator's Lease: no answer")}},
		"resegmenting":      {processor: splitting, pods: []podSight{many}},
		"open-writers":      {processor: waiting, pods: []podSight{one, two}},
		"replaying":         {processor: replayed, pods: []podSight{one, two}, replays: []v1alpha1.Replay{*running, *refused}},
		"blocked": {processor: payments(ready, is(v1alpha1.ConditionDegraded, metav1.ConditionTrue, "SegmentBlocked",
			"group payments-view, segment 3, event at position 1042, 4 attempts: ERROR: division by zero")), pods: []podSight{one, two}},
		"a-pod-does-not-start": {processor: payments(is(v1alpha1.ConditionAvailable, metav1.ConditionTrue, "AllSegmentsOwned", ""),
			is(v1alpha1.ConditionReady, metav1.ConditionFalse, "PodsNotReady", "payments-7c-ccccc: ImagePullBackOff")), pods: []podSight{two, starting}},
		"pods-are-forbidden": {processor: payments(ready), podsErr: errors.New("pods is forbidden"), replaysErr: errors.New("replays is forbidden")},
		"paused-and-ahead":   {processor: paused},
		"running-calls":      {processor: payments(ready), pods: []podSight{slow, two}},
		"as-of":              {processor: unread, pods: []podSight{two}},
		"nothing-owned":      {processor: payments(ready), pods: []podSight{idle}},
	} {
		t.Run(name, func(t *testing.T) {
			s.now = now
			got := screen(s)
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got, -update writes it:\n%s", diff)
			}
		})
	}
}

func TestRangesAreShort(t *testing.T) {
	for want, held := range map[string][]worker.Holding{
		"":                              nil,
		"0-3,7 of 8":                    held("g", 7, 7, 0, 1, 2, 3),
		"5 of 16":                       held("g", 15, 5),
		"0,2,4,6,8,10 and 2 more of 16": held("g", 15, 0, 2, 4, 6, 8, 10, 12, 14),
		"1-2 of 4, 0 of 8":              append(held("g", 7, 0), held("g", 3, 2, 1)...),
	} {
		if got := ranges(held); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFiguresAreReadFromMetrics(t *testing.T) {
	got, err := parseFigures([]byte("# TYPE sluice_segments_claimed gauge\nsluice_segments_claimed{group=\"a\"} 5\n# TYPE sluice_lag_seconds gauge\nsluice_lag_seconds{group=\"a\"} 1.5\n# TYPE go_gc gauge\ngo_gc 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]figures{"a": {claimed: 5, lag: 1.5}}, got, cmp.AllowUnexported(figures{})); diff != "" {
		t.Error(diff)
	}
	if _, err := parseFigures([]byte("<html>")); err == nil {
		t.Error("a page that is no metrics is taken for some")
	}
}

func TestFieldsThatGitOpsManagesAreFound(t *testing.T) {
	p := payments()
	p.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:desiredState":{}}}`)},
		{Manager: "argocd-controller", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:processingGroups":{"k:{\"name\":\"validation\"}":{".":{},"f:name":{},"f:segments":{}}}}}`)},
	}
	for _, c := range []struct {
		edit edit
		want string
	}{
		{edit{"validation", "segments", int32(8)}, "argocd-controller"},
		{edit{"payments-view", "segments", int32(8)}, ""},
		{edit{"", "desiredState", "Paused"}, ""},
	} {
		if got := gitOps(&p, c.edit); got != c.want {
			t.Errorf("%s: got %q, want %q", c.edit, got, c.want)
		}
	}
	text, err := toCommit(&p, edit{"validation", "segments", int32(8)})
	want := `apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata:
  name: payments
  namespace: shop
spec:
  processingGroups:
  - name: validation
    segments: 8
`
	if diff := cmp.Diff(want, text); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
