package controllers

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/tokenstore"
)

// outage is a problem that began some time ago.
func outage(reason string, ago time.Duration) func(*scope) {
	return func(s *scope) {
		s.store.Problem = &stores.Problem{Reason: reason, Message: "m", Since: now.Add(-ago)}
	}
}

// neverSeen is the store as an operator has it that has just been started.
func neverSeen(s *scope) { s.store = stores.Observation{} }

func TestConditionsSurviveWhatPasses(t *testing.T) {
	blocked := fault(stores.Fault{Kind: tokenstore.EventFault, Definition: "wanted", Position: 7})
	states := map[string]func(*scope){
		"all is well":        func(*scope) {},
		"an event fails":     blocked,
		"being resegmented":  func(s *scope) { s.store.Facts.Groups[0].Wanted = 8 },
		"a statement fails":  fault(stores.Fault{Kind: tokenstore.DefinitionFault, Reason: "TableMissing", Definition: "wanted"}),
		"segments are free":  unowned(1),
		"the store is down":  outage(v1alpha1.ReasonConnectionFailed, time.Hour),
		"another store":      outage(v1alpha1.ReasonStoreChanged, time.Hour),
		"it may not connect": outage(v1alpha1.ReasonOperatorCannotConnect, time.Hour),
	}
	passing := map[string][]func(*scope){
		"the operator starts":                     {neverSeen},
		"it starts, and the store is not there":   {neverSeen, outage(v1alpha1.ReasonConnectionFailed, 19*time.Second)},
		"a connection is lost":                    {outage(v1alpha1.ReasonConnectionFailed, 0)},
		"a round was slow":                        {outage(v1alpha1.ReasonConnectionFailed, 19*time.Second)},
		"a password is changed, and then a right": {outage(v1alpha1.ReasonAuthenticationFailed, time.Second)},
	}
	for state, is := range states {
		for name, changes := range passing {
			if state == "the store is down" || state == "another store" || state == "it may not connect" {
				if name != "the operator starts" {
					continue // an outage is reported already, or a problem that is none goes before it
				}
			}
			t.Run(state+", "+name, func(t *testing.T) {
				before := statusOf(healthy(t, is))
				s := healthy(t, append([]func(*scope){is}, changes...)...)
				s.grace, s.now, s.processor.Status = 20*time.Second, now.Add(time.Millisecond), before
				if diff := cmp.Diff(before, statusOf(s)); diff != "" {
					t.Errorf("(-before +after)\n%s", diff)
				}
			})
		}
	}
}

func TestConditionsTellOfAnOutageThatLasts(t *testing.T) {
	before := statusOf(healthy(t))
	for name, changes := range map[string][]func(*scope){
		"the store goes":                      {outage(v1alpha1.ReasonConnectionFailed, 20*time.Second)},
		"a new operator does not find it":     {neverSeen, outage(v1alpha1.ReasonConnectionFailed, 20*time.Second)},
		"one with what another one has begun": {neverSeen, outage(v1alpha1.ReasonConnectionFailed, time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(t, changes...)
			s.grace, s.processor.Status = 20*time.Second, before
			after := statusOf(s)
			if got, want := summary(after)[:26], "False/ConnectionFailed Unk"; got != want {
				t.Errorf("got %s", summary(after))
			}
		})
	}
}

// TestFirstConditionsComeAtOnce: somebody waits for them who has just created the processor.
func TestFirstConditionsComeAtOnce(t *testing.T) {
	s := healthy(t, neverSeen, outage(v1alpha1.ReasonSecretNotFound, 0))
	s.grace = 20 * time.Second
	if got := summary(statusOf(s)); got[:20] != "False/SecretNotFound" {
		t.Error(got)
	}
}

// TestANewSpecIsNotReadyBeforeTheStoreHasIt: what was said was of another one.
func TestANewSpecIsNotReadyBeforeTheStoreHasIt(t *testing.T) {
	before := statusOf(healthy(t))
	s := healthy(t, neverSeen)
	s.processor.Status, s.processor.Generation = before, 4
	after := statusOf(s)
	if got := summary(after); got != "False/Progressing True/AllSegmentsOwned True/Valid True/Reachable False/Healthy Reconciling" {
		t.Error(got)
	}
	for _, c := range after.Conditions {
		if c.ObservedGeneration != 4 {
			t.Errorf("%s is of generation %d", c.Type, c.ObservedGeneration)
		}
	}
}

func TestAnOutageIsLookedAtWhenTheGraceIsOver(t *testing.T) {
	s := healthy(t, outage(v1alpha1.ReasonConnectionFailed, 15*time.Second))
	s.grace = 20 * time.Second
	s.processor.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionStoreReachable, Status: metav1.ConditionTrue}}
	if got := graceLeft(s); got != 5*time.Second {
		t.Error(got)
	}
}

// TestAnOutageOfTheSourceCountsAfterAWhile, but at once where a new group waits for the source.
func TestAnOutageOfTheSourceCountsAfterAWhile(t *testing.T) {
	for name, tc := range map[string]struct {
		change []func(*scope)
		want   string
		left   time.Duration
	}{
		"a moment":             {[]func(*scope){sourceDown, since(5 * time.Second)}, "True/Ready False/Healthy", 15 * time.Second},
		"for long":             {[]func(*scope){sourceDown, since(20 * time.Second)}, "True/Ready True/SourceUnreachable", 0},
		"a new group waits":    {[]func(*scope){sourceDown, since(0), undeclared}, "False/SourceUnreachable True/SourceUnreachable", 0},
		"the source is usable": {nil, "True/Ready False/Healthy", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(t, tc.change...)
			s.grace = defaultGrace
			status := statusOf(s)
			ready, degraded := meta.FindStatusCondition(status.Conditions, "Ready"), meta.FindStatusCondition(status.Conditions, "Degraded")
			if got := fmt.Sprintf("%s/%s %s/%s", ready.Status, ready.Reason, degraded.Status, degraded.Reason); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			if left := sourceGraceLeft(s); left != tc.left {
				t.Errorf("it is looked at again in %s", left)
			}
		})
	}
}

func since(ago time.Duration) func(*scope) {
	return func(s *scope) { s.store.Source.Since = now.Add(-ago) }
}
