package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// healthy is a scope of a processor with two pods and four segments, all well.
func healthy(t *testing.T, change ...func(*scope)) *scope {
	t.Helper()
	processor := &v1alpha1.EventProcessor{ObjectMeta: metav1.ObjectMeta{Name: "orders", Namespace: "shop", Generation: 3}}
	processor.Spec.Replicas = ptr.To[int32](2)
	processor.Spec.Store.Postgres = &v1alpha1.PostgresStore{}
	processor.Spec.ProcessingGroups = []v1alpha1.ProcessingGroup{{Name: "view", Segments: 4}}
	d, err := desired.New(processor, "test", "image")
	if err != nil {
		t.Fatal(err)
	}
	s := &scope{now: now, processor: processor, desired: d,
		deployment: &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "orders", Generation: 5},
			Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](2), Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{desired.LabelDefinition: d.ID}}}},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2}},
		store: stores.Observation{StoreID: "id", Declared: 3, Seen: true, Facts: stores.Facts{
			Groups:  []stores.Group{{Name: "view", Wanted: 4, Sequencing: "Stream/pg1", Segments: 4, Owned: 4, Lag: 1}},
			Workers: []stores.Worker{{Pod: "a", Definition: d.ID, Version: "1.10.0", Reported: true}, {Pod: "b", Definition: "old", Version: "1.9.0"}},
		}},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func problem(reason string) func(*scope) {
	return func(s *scope) {
		s.store.Problem = &stores.Problem{Reason: reason, Message: "m", Since: now.Add(-time.Minute)}
	}
}

// blind is a problem for which the store is not looked at any more.
func blind(reason string) func(*scope) {
	return func(s *scope) {
		problem(reason)(s)
		s.store.Problem.Blind = true
	}
}

// sourceDown is a source in a database of its own that cannot be reached.
func sourceDown(s *scope) {
	s.store.Source = &stores.Problem{Reason: v1alpha1.ReasonSourceUnreachable, Message: "the source's database: m", Since: now.Add(-time.Minute)}
}

func undeclared(s *scope) { s.store.Declared = 2 }

func fault(f stores.Fault) func(*scope) {
	return func(s *scope) {
		if f.Definition == "wanted" {
			f.Definition = s.desired.ID
		}
		f.Group, f.Message = "view", "m"
		s.store.Facts.Faults = []stores.Fault{f}
	}
}

func TestConditions(t *testing.T) {
	cases := map[string]struct {
		change []func(*scope)
		want   string // Ready Available HandlerValid StoreReachable Degraded, and Stalled or Reconciling
	}{
		"all is well":       {nil, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable False/Healthy"},
		"never seen":        {[]func(*scope){func(s *scope) { s.store = stores.Observation{} }}, "Unknown/Progressing Unknown/Unknown Unknown/Unknown Unknown/Unknown Unknown/Unknown Reconciling"},
		"no Secret":         {[]func(*scope){problem("SecretNotFound")}, "False/SecretNotFound Unknown/Unknown True/Valid False/SecretNotFound False/Healthy Reconciling"},
		"wrong password":    {[]func(*scope){problem("AuthenticationFailed")}, "False/AuthenticationFailed Unknown/Unknown True/Valid False/AuthenticationFailed False/Healthy Reconciling"},
		"database is down":  {[]func(*scope){problem("ConnectionFailed")}, "False/ConnectionFailed Unknown/Unknown True/Valid False/ConnectionFailed False/Healthy Reconciling"},
		"operator may not":  {[]func(*scope){problem("OperatorCannotConnect")}, "True/Ready Unknown/Unknown True/Valid Unknown/OperatorCannotConnect False/Healthy"},
		"pods show they do": {[]func(*scope){problem("ConnectionFailed"), readyPod(now)}, "True/Ready Unknown/Unknown True/Valid Unknown/OperatorCannotConnect False/Healthy"},
		"pods were ready":   {[]func(*scope){problem("ConnectionFailed"), readyPod(now.Add(-time.Hour))}, "False/ConnectionFailed Unknown/Unknown True/Valid False/ConnectionFailed False/Healthy Reconciling"},
		"store changed":     {[]func(*scope){problem("StoreChanged")}, "False/StoreChanged True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"looks at another":  {[]func(*scope){blind("StoreChanged")}, "False/StoreChanged Unknown/Unknown True/Valid True/Reachable False/Healthy Stalled"},
		"may not migrate":   {[]func(*scope){blind("MigrationRequired")}, "False/MigrationRequired Unknown/Unknown True/Valid True/Reachable False/Healthy Stalled"},
		"migrates":          {[]func(*scope){blind("MigrationRequired"), func(s *scope) { s.store.Problem.Passes = true }}, "False/MigrationRequired True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"no tables":         {[]func(*scope){problem("MigrationRequired")}, "False/MigrationRequired True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"group conflict":    {[]func(*scope){problem("GroupConflict")}, "False/GroupConflict True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"table not ready":   {[]func(*scope){problem("SourceInvalid")}, "False/SourceInvalid True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"source is down":    {[]func(*scope){sourceDown}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable True/SourceUnreachable"},
		"source, first":     {[]func(*scope){sourceDown, undeclared}, "False/SourceUnreachable True/AllSegmentsOwned True/Valid True/Reachable True/SourceUnreachable Reconciling"},
		"source, operator":  {[]func(*scope){sourceDown, func(s *scope) { s.store.Source.OperatorOnly = true }}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable False/SourceUnreachable"},
		"source, pods do":   {[]func(*scope){sourceDown, readyPod(now)}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable False/SourceUnreachable"},
		"source, an event":  {[]func(*scope){sourceDown, fault(stores.Fault{Kind: tokenstore.EventFault, Definition: "wanted"})}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable True/SourceUnreachable"},
		"no such place":     {[]func(*scope){problem("PlaceInvalid")}, "False/PlaceInvalid True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"sequencing":        {[]func(*scope){problem("SequencingChanged")}, "False/SequencingChanged True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"one that passes":   {[]func(*scope){problem("SequencingChanged"), func(s *scope) { s.store.Problem.Passes = true }}, "False/SequencingChanged True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"not asked yet":     {[]func(*scope){resequencing}, "Unknown/Progressing True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"reset ahead":       {[]func(*scope){resequencing, ahead}, "False/SequencingChanged True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"workers refuse":    {[]func(*scope){fault(stores.Fault{Kind: tokenstore.DefinitionFault, Reason: "SequencingChanged", Definition: "wanted", Refused: true})}, "False/SequencingChanged True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"old ones refuse":   {[]func(*scope){fault(stores.Fault{Kind: tokenstore.DefinitionFault, Reason: "SequencingChanged", Definition: "old", Refused: true})}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable False/Healthy"},
		"name conflict":     {[]func(*scope){func(s *scope) { s.foreign = []string{"Deployment orders"} }}, "False/NameConflict True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"invalid":           {[]func(*scope){func(s *scope) { s.invalid = "m" }, problem("ConnectionFailed")}, "False/InvalidSpec Unknown/Unknown True/Valid False/ConnectionFailed False/Healthy Stalled"},
		"not registered":    {[]func(*scope){fault(stores.Fault{Kind: tokenstore.DefinitionFault, Reason: "NotRegistered", Definition: "wanted", Refused: true})}, "False/NotRegistered True/AllSegmentsOwned False/NotRegistered True/Reachable False/Healthy Stalled"},
		"table missing":     {[]func(*scope){fault(stores.Fault{Kind: tokenstore.DefinitionFault, Reason: "TableMissing", Definition: "wanted"})}, "False/StatementInvalid True/AllSegmentsOwned False/StatementInvalid True/Reachable False/Healthy Reconciling"},
		"setup failed":      {[]func(*scope){fault(stores.Fault{Kind: tokenstore.DefinitionFault, Reason: "SetupFailed", Definition: "wanted", Refused: true})}, "False/SetupFailed True/AllSegmentsOwned False/SetupFailed True/Reachable False/Healthy Reconciling"},
		"setup runs":        {[]func(*scope){setupCall, rollingOut}, "False/SetupRuns True/AllSegmentsOwned Unknown/SetupRuns True/Reachable False/CallRunning Reconciling"},
		"setup runs elsewhere": {[]func(*scope){fault(stores.Fault{Kind: tokenstore.ContentionFault, Reason: "SetupRuns", Definition: "wanted", Refused: true}), rollingOut},
			"False/SetupRuns True/AllSegmentsOwned Unknown/SetupRuns True/Reachable False/Healthy Reconciling"},
		"setup waits for a lock": {[]func(*scope){fault(stores.Fault{Kind: tokenstore.ContentionFault, Reason: "LockNotAvailable", Definition: "wanted", Refused: true}), rollingOut},
			"False/WaitingForLocks True/AllSegmentsOwned Unknown/WaitingForLocks True/Reachable False/Healthy Reconciling"},
		"a pod cannot connect": {[]func(*scope){fault(stores.Fault{Kind: tokenstore.InfrastructureFault, Reason: "ConnectionFailed", Definition: "wanted", Refused: true}), rollingOut},
			"False/RollingOut True/AllSegmentsOwned Unknown/Unknown True/Reachable False/Healthy Reconciling"},
		"an old pod's setup runs": {[]func(*scope){oldSetupCall, rollingOut}, "False/RollingOut True/AllSegmentsOwned True/Valid True/Reachable False/CallRunning Reconciling"},
		"an old pod waits":        {[]func(*scope){fault(stores.Fault{Kind: tokenstore.ContentionFault, Reason: "SetupRuns", Definition: "old", Refused: true})}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable False/Healthy"},
		"old table missing":       {[]func(*scope){fault(stores.Fault{Kind: tokenstore.DefinitionFault, Reason: "TableMissing", Definition: "old"})}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable False/Healthy"},
		"event fails":             {[]func(*scope){fault(stores.Fault{Kind: tokenstore.EventFault, Definition: "wanted"})}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable True/SegmentBlocked"},
		"Secret is wrong":         {[]func(*scope){func(s *scope) { s.store.Secrets = &stores.Problem{Reason: "AuthenticationFailed", Message: "m"} }}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable True/SecretUnusable"},
		"newer settings":          {[]func(*scope){func(s *scope) { s.store.Facts.Workers[1].Unsupported = []string{"groups[view].onError.then: m"} }}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable True/SettingsUnsupported"},
		"layout broken":           {[]func(*scope){func(s *scope) { s.store.Facts.Groups[0].Broken = "m" }}, "False/LayoutInvalid True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"scaled to zero":          {[]func(*scope){scaledToZero}, "True/Ready False/ScaledToZero True/Valid True/Reachable False/Healthy"},
		"paused":                  {[]func(*scope){func(s *scope) { s.processor.Spec.DesiredState = "Paused" }}, "True/Paused True/AllSegmentsOwned True/Valid True/Reachable False/Healthy"},
		"splitting":               {[]func(*scope){func(s *scope) { s.store.Facts.Groups[0].Wanted = 8 }}, "False/Resegmenting True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"not declared":            {[]func(*scope){func(s *scope) { s.store.Declared = 2 }, was("Ready", "True")}, "False/Progressing True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"rolling out":             {[]func(*scope){func(s *scope) { s.deployment.Status.UpdatedReplicas = 1 }}, "False/RollingOut True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"scaling out":             {[]func(*scope){func(s *scope) { s.deployment.Status.AvailableReplicas = 1 }}, "False/Scaling True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"applied just now":        {[]func(*scope){func(s *scope) { s.applied = 6 }, was("Ready", "True")}, "False/Progressing True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling"},
		"rollout failed":          {[]func(*scope){deadline}, "False/RolloutFailed True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Stalled"},
		"unowned, at first":       {[]func(*scope){unowned(0)}, "True/Ready False/SegmentsUnowned True/Valid True/Reachable False/Healthy"},
		"unowned, a moment":       {[]func(*scope){unowned(0), was("Available", "True")}, "True/Ready True/AllSegmentsOwned True/Valid True/Reachable False/Healthy"},
		"unowned, for long":       {[]func(*scope){unowned(1), was("Available", "True")}, "True/Ready False/SegmentsUnowned True/Valid True/Reachable False/Healthy"},
		"being deleted":           {[]func(*scope){func(s *scope) { s.processor.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }, problem("ConnectionFailed")}, "False/Deleting Unknown/Unknown True/Valid False/ConnectionFailed False/Healthy Reconciling"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			status := statusOf(healthy(t, tc.change...))
			if got := summary(status); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			for _, c := range status.Conditions {
				if c.Message == "" || c.ObservedGeneration != 3 {
					t.Errorf("%s: message %q, generation %d", c.Type, c.Message, c.ObservedGeneration)
				}
			}
		})
	}
}

func rollingOut(s *scope) { s.deployment.Status.UpdatedReplicas = 1 }

// setupCall has a pod run a setup.
func setupCall(s *scope) {
	s.store.Facts.Calls = []stores.Call{{Group: "view", Pod: "a", Definition: s.desired.ID, Age: 30 * time.Second, Call: tokenstore.Call{Kind: tokenstore.SetupCall}}}
}

// oldSetupCall has a pod of another definition run a setup.
func oldSetupCall(s *scope) {
	setupCall(s)
	s.store.Facts.Calls[0].Definition = "old"
}

// resequencing has tokens of another sequencing than the spec's.
func resequencing(s *scope) { s.store.Facts.Groups[0].Sequencing = "Sequential/pg1" }

// ahead is a replay that gives them the spec's.
func ahead(s *scope) {
	s.store.Facts.Replays = append(s.store.Facts.Replays, tokenstore.Replay{Phase: tokenstore.ReplayPending, ReplayRequest: tokenstore.ReplayRequest{
		ID: "change", Groups: []string{"view"}, State: tokenstore.ReplayWanted, Sequencing: map[string]string{"view": "Stream/pg1"}}})
}

// What must wait for the store is not applied: a change of a sequencing until the store has agreed, and any new definition until it
// has been seen.
func TestWhatIsHeldBack(t *testing.T) {
	unseen := func(s *scope) { s.store = stores.Observation{} }
	other := func(s *scope) { s.deployment.Spec.Template.Labels = map[string]string{desired.LabelDefinition: "old"} }
	for name, tc := range map[string]struct {
		change []func(*scope)
		want   bool
	}{
		"nothing, where all is well":             {nil, false},
		"nothing, while it is first made":        {[]func(*scope){unseen, func(s *scope) { s.deployment = nil }}, false},
		"nothing, where nothing is new":          {[]func(*scope){unseen}, false},
		"a new definition, not seen yet":         {[]func(*scope){unseen, other}, true},
		"nothing, where the store is away":       {[]func(*scope){unseen, other, problem("ConnectionFailed")}, false},
		"a sequencing that is refused":           {[]func(*scope){problem("SequencingChanged")}, true},
		"a sequencing that nobody has asked for": {[]func(*scope){resequencing}, true},
		"nothing, where a reset is ahead":        {[]func(*scope){resequencing, ahead}, false},
		"one that was refused in spite of it":    {[]func(*scope){resequencing, ahead, problem("SequencingChanged")}, true},
	} {
		if s := healthy(t, tc.change...); heldBack(s) != tc.want || decide(s).apply == tc.want || decide(s).want == nil {
			t.Errorf("%s: held back %t, want %t", name, heldBack(s), tc.want)
		}
	}
}

func summary(status v1alpha1.EventProcessorStatus) string {
	var words []string
	for _, name := range []string{"Ready", "Available", "HandlerValid", "StoreReachable", "Degraded"} {
		c := meta.FindStatusCondition(status.Conditions, name)
		words = append(words, string(c.Status)+"/"+c.Reason)
	}
	for _, name := range []string{"Stalled", "Reconciling"} {
		if meta.IsStatusConditionTrue(status.Conditions, name) {
			words = append(words, name)
		}
	}
	return strings.Join(words, " ")
}

func was(condition, status string) func(*scope) {
	return func(s *scope) {
		s.processor.Status.Conditions = append(s.processor.Status.Conditions, metav1.Condition{Type: condition, Status: metav1.ConditionStatus(status)})
	}
}

func unowned(overdue int) func(*scope) {
	return func(s *scope) { s.store.Facts.Groups[0].Owned, s.store.Facts.Groups[0].Overdue = 3, overdue }
}

func scaledToZero(s *scope) {
	s.desired.Spec.Replicas = ptr.To[int32](0)
	s.deployment.Spec.Replicas = ptr.To[int32](0)
	s.deployment.Status = appsv1.DeploymentStatus{ObservedGeneration: 5}
}

func deadline(s *scope) {
	s.deployment.Status.UpdatedReplicas = 1
	s.deployment.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}
}

func readyPod(at time.Time) func(*scope) {
	return func(s *scope) {
		s.pods = []corev1.Pod{{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(at)}}}}}
	}
}

func TestConditionsKeepTheTimeOfTheirLastChange(t *testing.T) {
	s := healthy(t)
	s.processor.Status = statusOf(s)
	s.now = now.Add(time.Hour)
	if diff := cmp.Diff(s.processor.Status, statusOf(s)); diff != "" {
		t.Error("the status changes with the clock:", diff)
	}
	problem("ConnectionFailed")(s)
	ready := meta.FindStatusCondition(statusOf(s).Conditions, "Ready")
	if !ready.LastTransitionTime.Time.Equal(s.now) {
		t.Error("a change has the time", ready.LastTransitionTime)
	}
}

// segments has the group have some of those that it is to have.
func segments(there, wanted int, perMinute int) func(*scope) {
	return func(s *scope) {
		s.processor.Spec.ProcessingGroups[0].Segments, s.desired.Spec.ProcessingGroups[0].Segments = int32(wanted), int32(wanted)
		group := &s.store.Facts.Groups[0]
		group.Segments, group.Owned, group.Wanted = there, there, wanted
		group.Pace = stores.Pace{PerMinute: perMinute}
		if perMinute > 0 {
			group.Pace.At = s.now
		}
	}
}

// TestResegmentingSaysHowFarItIs: how many splits or merges are done of how many, at which rate,
// and what is left.
func TestResegmentingSaysHowFarItIs(t *testing.T) {
	s := healthy(t)
	s.processor.Status = statusOf(s)
	for _, step := range []struct {
		name          string
		there, wanted int
		perMinute     int
		summary       string
		message       string
		status        *v1alpha1.Resegmenting
	}{
		{"before the first split", 4, 1004, 0, "4/4->1004", "group view has 4 segments and is split into 1004: 0 of 1000 splits are done, time left not known yet",
			&v1alpha1.Resegmenting{To: 1004, Total: 1000}},
		{"with a rate", 104, 1004, 6000, "104/104->1004", "group view has 104 segments and is split into 1004: 100 of 1000 splits are done, 100/s, about 9s left",
			&v1alpha1.Resegmenting{To: 1004, Done: 100, Total: 1000, PerMinute: 6000, ETA: ptr.To(metav1.NewTime(now.Add(9 * time.Second)))}},
		{"while it stands", 104, 1004, 0, "104/104->1004", "group view has 104 segments and is split into 1004: 100 of 1000 splits are done, time left not known yet",
			&v1alpha1.Resegmenting{To: 1004, Done: 100, Total: 1000}},
		{"back", 104, 3, 0, "104/104->3", "group view has 104 segments and is merged into 3: 0 of 101 merges are done, time left not known yet",
			&v1alpha1.Resegmenting{To: 3, Total: 101}},
		{"slowly", 53, 3, 10, "53/53->3", "group view has 53 segments and is merged into 3: 51 of 101 merges are done, 10/min, about 5m left",
			&v1alpha1.Resegmenting{To: 3, Done: 51, Total: 101, PerMinute: 10, ETA: ptr.To(metav1.NewTime(now.Add(5 * time.Minute)))}},
		{"done", 3, 3, 0, "3/3", "the spec is in effect", nil},
	} {
		segments(step.there, step.wanted, step.perMinute)(s)
		status := statusOf(s)
		if got := status.Segments.Summary; got != step.summary {
			t.Errorf("%s: summary %s, want %s", step.name, got, step.summary)
		}
		if diff := cmp.Diff(step.message, meta.FindStatusCondition(status.Conditions, "Ready").Message); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
		if diff := cmp.Diff(step.status, status.Groups[0].Resegmenting); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
		if step.name == "with a rate" && urgent(s.processor.Status, statusOf(withSegments(s, 105))) {
			t.Error("each split is written at once")
		}
		s.processor.Status = status
	}
	segments(10, 3, 60)(s)
	problem("ConnectionFailed")(s)
	if r := statusOf(s).Groups[0].Resegmenting; r == nil || r.ETA != nil || r.PerMinute != 0 {
		t.Errorf("while the store cannot be read, a rate is told: %v", r)
	}
}

func withSegments(s *scope, there int) *scope {
	other := *s
	other.store.Facts.Groups = slices.Clone(s.store.Facts.Groups)
	other.store.Facts.Groups[0].Segments = there
	return &other
}

func TestFigures(t *testing.T) {
	status := statusOf(healthy(t, unowned(0), func(s *scope) { s.store.Facts.Groups[0].Moving = 2 }))
	want := v1alpha1.SegmentCounts{Summary: "3/4", Desired: 4, Owned: 3, Moving: 2, Unowned: 1}
	if diff := cmp.Diff(want, status.Segments); diff != "" {
		t.Error(diff)
	}
	if status.Lag != v1alpha1.LagUnder1s || status.Runtime != (v1alpha1.RuntimeVersions{Min: "1.9.0", Max: "1.10.0"}) {
		t.Errorf("lag %s, versions %v", status.Lag, status.Runtime)
	}
	later := healthy(t, func(s *scope) { s.processor.Status = status; s.store = stores.Observation{} })
	if diff := cmp.Diff(status.Groups, statusOf(later).Groups); diff != "" {
		t.Error("what was last seen does not stay:", diff)
	}
}

func TestAGroupsStateSaysWhatItDoes(t *testing.T) {
	resetting := func(s *scope) {
		s.store.Facts.Replays = []tokenstore.Replay{{Phase: tokenstore.ReplayResetting, Message: "it waits for locks",
			ReplayRequest: tokenstore.ReplayRequest{ID: "fix", Groups: []string{"view"}}}}
		s.store.Facts.Groups[0].Owned = 0
	}
	for name, tc := range map[string]struct {
		change []func(*scope)
		want   v1alpha1.GroupState
	}{
		"all is well":             {nil, v1alpha1.GroupRunning},
		"a reset":                 {[]func(*scope){resetting}, v1alpha1.GroupResetting},
		"a segment changes":       {[]func(*scope){unowned(0)}, v1alpha1.GroupRunning},
		"nobody comes for it":     {[]func(*scope){unowned(1)}, v1alpha1.GroupUnowned},
		"no pods are wanted":      {[]func(*scope){scaledToZero, unowned(0)}, v1alpha1.GroupUnowned},
		"an event fails":          {[]func(*scope){func(s *scope) { s.store.Facts.Groups[0].Blocked = 1 }}, v1alpha1.GroupBlocked},
		"paused, and being reset": {[]func(*scope){func(s *scope) { s.processor.Spec.DesiredState = "Paused" }, resetting}, v1alpha1.GroupResetting},
	} {
		t.Run(name, func(t *testing.T) {
			if got := statusOf(healthy(t, tc.change...)).Groups[0].State; got != tc.want {
				t.Errorf("got %s", got)
			}
		})
	}
	c := meta.FindStatusCondition(statusOf(healthy(t, resetting)).Conditions, "Available")
	if !strings.Contains(c.Message, "group view is being reset by replay fix") || !strings.Contains(c.Message, "it waits for locks") {
		t.Error(c.Message)
	}
}

func TestFiguresOfAStoreThatCannotBeReadSayOfWhenTheyAre(t *testing.T) {
	before := statusOf(healthy(t))
	migrating := healthy(t, blind("MigrationRequired"), func(s *scope) { s.store.Problem.Passes = true })
	migrating.processor.Status = before
	if status := statusOf(migrating); status.Lag != v1alpha1.LagUnknown || status.AsOf == nil {
		t.Errorf("while the operator waits for a migration: lag %s, as of %v", status.Lag, status.AsOf)
	}
	created := healthy(t, blind("GroupConflict"), func(s *scope) { s.store.Seen, s.store.Facts = false, stores.Facts{} })
	if status := statusOf(created); status.AsOf != nil {
		t.Errorf("without any groups, figures are as of %s", status.AsOf)
	}
	down := healthy(t, problem("ConnectionFailed"))
	down.processor.Status = before
	status := statusOf(down)
	if status.Lag != v1alpha1.LagUnknown || status.Groups[0].Lag != v1alpha1.LagUnknown || status.Segments.Summary != "4/4" {
		t.Errorf("%+v", status)
	}
	if status.AsOf == nil || !status.AsOf.Time.Equal(now.Add(-time.Minute)) {
		t.Errorf("as of %v", status.AsOf)
	}
	started := healthy(t, neverSeen) // another operator, which has not looked yet
	started.processor.Status = status
	if diff := cmp.Diff(status, statusOf(started)); diff != "" {
		t.Error(diff)
	}
	up := healthy(t)
	up.processor.Status = status
	if diff := cmp.Diff(before, statusOf(up)); diff != "" {
		t.Error(diff)
	}
}

func TestALagThatIsNotKnownIsNotLeftOut(t *testing.T) {
	status := statusOf(healthy(t, func(s *scope) {
		s.store.Facts.Groups = append(s.store.Facts.Groups, stores.Group{Name: "other", Lag: stores.LagUnknown})
	}))
	if status.Lag != v1alpha1.LagUnknown || status.Groups[0].Lag != v1alpha1.LagUnder1s || status.Groups[1].Lag != v1alpha1.LagUnknown {
		t.Errorf("%s %+v", status.Lag, status.Groups)
	}
}

func TestOnlyFiguresCanWait(t *testing.T) {
	before := statusOf(healthy(t))
	lag := statusOf(healthy(t, func(s *scope) { s.store.Facts.Groups[0].Lag = 60 }))
	if cmp.Equal(before, lag) || urgent(before, lag) {
		t.Error("a figure is urgent")
	}
	waiting := statusOf(healthy(t, func(s *scope) { s.store.Facts.OpenWriters = []eventsource.OpenWriter{{PID: 1, Since: now}} }))
	if cmp.Equal(before, waiting) || urgent(before, waiting) {
		t.Error("an open writer is urgent, or is not told")
	}
	if !urgent(before, statusOf(healthy(t, problem("ConnectionFailed")))) {
		t.Error("a condition is not urgent")
	}
}

func TestNews(t *testing.T) {
	well, down := statusOf(healthy(t)), statusOf(healthy(t, problem("ConnectionFailed")))
	cases := map[string]struct {
		before, after v1alpha1.EventProcessorStatus
		want          []string
	}{
		"the first time well": {v1alpha1.EventProcessorStatus{}, well, []string{"Normal Ready"}},
		"nothing new":         {well, well, nil},
		"the store is down":   {well, down, []string{"Warning ConnectionFailed"}},
		"it is back":          {down, well, []string{"Normal Ready", "Normal Reachable"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, m := range news(tc.before, tc.after) {
				got = append(got, m.kind+" "+m.reason)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTroubleOfPods(t *testing.T) {
	pod := func(name, definition string, waiting corev1.ContainerStateWaiting, ended *corev1.ContainerStateTerminated) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{desired.LabelDefinition: definition}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Waiting: &waiting},
				LastTerminationState: corev1.ContainerState{Terminated: ended}}}}}
	}
	crash := corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
	cases := map[string]struct {
		pods []corev1.Pod
		want string
	}{
		"starting":          {[]corev1.Pod{pod("a", "new", corev1.ContainerStateWaiting{Reason: "ContainerCreating"}, nil)}, ""},
		"of the old one":    {[]corev1.Pod{pod("a", "old", crash, nil)}, ""},
		"an image":          {[]corev1.Pod{pod("a", "new", corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}, nil)}, "pod a: container worker waits in ErrImagePull: not found"},
		"a crash":           {[]corev1.Pod{pod("a", "new", crash, &corev1.ContainerStateTerminated{ExitCode: 2, Message: "panic"})}, "pod a: container worker waits in CrashLoopBackOff after it ended with code 2: panic"},
		"the first by name": {[]corev1.Pod{pod("b", "new", crash, nil), pod("a", "new", crash, nil)}, "pod a: container worker waits in CrashLoopBackOff"},
		"of a pod that goes": {[]corev1.Pod{func() corev1.Pod {
			p := pod("a", "new", crash, nil)
			p.DeletionTimestamp = &metav1.Time{Time: now}
			return p
		}()}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := podTrouble(tc.pods, "new"); got != tc.want {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestPrunableDefinitions(t *testing.T) {
	var all []corev1.ConfigMap
	for i := range 9 {
		id := fmt.Sprint("d", i)
		all = append(all, corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "orders-" + id, CreationTimestamp: metav1.NewTime(now.Add(time.Duration(i) * time.Minute)),
			Labels: map[string]string{desired.LabelDefinition: id}}})
	}
	pods := []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{desired.LabelDefinition: "d0"}}}}
	if diff := cmp.Diff([]string{"orders-d2", "orders-d1"}, prunable(all, pods, "d8")); diff != "" {
		t.Error(diff)
	}
	if got := prunable(all[:6], nil, "d5"); got != nil {
		t.Errorf("of five that are unused %v would go", got)
	}
}

func TestWhoScalesTheDeployment(t *testing.T) {
	entry := func(manager string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:replicas":{}}}`)}
	}
	other := metav1.ManagedFieldsEntry{Manager: "x", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:paused":{}}}`)}
	cases := map[string]struct {
		fields []metav1.ManagedFieldsEntry
		is     int32
		want   string
	}{
		"nobody":               {[]metav1.ManagedFieldsEntry{other}, 5, ""},
		"we":                   {[]metav1.ManagedFieldsEntry{entry(FieldOwner)}, 5, ""},
		"another, the same":    {[]metav1.ManagedFieldsEntry{entry("hpa")}, 2, ""},
		"another, differently": {[]metav1.ManagedFieldsEntry{other, entry("hpa")}, 5, "hpa"},
		"both":                 {[]metav1.ManagedFieldsEntry{entry("hpa"), entry(FieldOwner)}, 5, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{ManagedFields: tc.fields}, Spec: appsv1.DeploymentSpec{Replicas: &tc.is}}
			if got, _ := externalScaler(d, 2); got != tc.want {
				t.Errorf("got %q", got)
			}
		})
	}
}
