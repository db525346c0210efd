package controllers

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
)

// withPods makes a scope have pods that are named a, b, … in the order of their age, with so many segments each.
func withPods(segments ...int) func(*scope) {
	return func(s *scope) {
		s.store.Facts.Workers, s.store.Facts.Plan = nil, 7
		for i, n := range segments {
			name := string(rune('a' + i))
			s.pods = append(s.pods, corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{desired.LabelDefinition: s.desired.ID}, CreationTimestamp: metav1.NewTime(now.Add(time.Duration(i) * time.Minute))},
				Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}})
			s.store.Facts.Workers = append(s.store.Facts.Workers, stores.Worker{Pod: name, Definition: s.desired.ID, Ready: true, Assigned: n, Owned: n})
		}
		replicas := int32(len(segments))
		s.deployment.Spec.Replicas = &replicas
		s.deployment.Status = appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas}
	}
}

func wanting(replicas int32) func(*scope) {
	return func(s *scope) { s.desired.Spec.Replicas = &replicas }
}

func change(name string, edit func(*corev1.Pod, *stores.Worker)) func(*scope) {
	return func(s *scope) {
		for i := range s.pods {
			if s.pods[i].Name == name {
				edit(&s.pods[i], &s.store.Facts.Workers[i])
			}
		}
	}
}

// leaves is a pod that has been told to leave, and has.
func leaves(name string) func(*scope) {
	return change(name, func(pod *corev1.Pod, w *stores.Worker) {
		pod.Status.Conditions[0].Status = corev1.ConditionFalse
		w.Leaving, w.Assigned, w.Owned, w.Ready = time.Second, 0, 0, false
	})
}

func costing(costs map[string]string) func(*scope) {
	return func(s *scope) {
		for i := range s.pods {
			s.pods[i].Annotations = map[string]string{corev1.PodDeletionCost: costs[s.pods[i].Name]}
		}
	}
}

func TestWhichPodsGoAndWhen(t *testing.T) {
	type plan struct {
		Replicas int32
		Victims  []string
		Costs    map[string]int
	}
	for name, test := range map[string]struct {
		changes []func(*scope)
		want    plan
	}{
		"as many as wanted": {[]func(*scope){withPods(2, 2), wanting(2)}, plan{Replicas: 2}},
		"more are wanted":   {[]func(*scope){withPods(2, 2), wanting(3)}, plan{Replicas: 3}},
		"the youngest of those with the fewest goes": {[]func(*scope){withPods(3, 2, 2), wanting(2)},
			plan{3, []string{"c"}, map[string]int{"a": 3, "b": 2, "c": 2}}},
		"one that does not work goes first": {[]func(*scope){withPods(3, 2, 2), wanting(2), change("a", func(pod *corev1.Pod, _ *stores.Worker) {
			pod.Status.Conditions[0].Status = corev1.ConditionFalse
		})}, plan{3, []string{"a"}, map[string]int{"a": 3, "b": 2, "c": 2}}},
		"one that is leaving already stays the one": {[]func(*scope){withPods(3, 1, 2), wanting(2), change("a", func(_ *corev1.Pod, w *stores.Worker) { w.Leaving = time.Second })},
			plan{3, []string{"a"}, map[string]int{"a": 3, "b": 1, "c": 2}}},
		"it has left, and Kubernetes does not know the costs": {[]func(*scope){withPods(3, 3, 0), wanting(2), leaves("c")},
			plan{3, []string{"c"}, map[string]int{"a": 3, "b": 3, "c": 0}}},
		"it has left, and Kubernetes knows the costs": {[]func(*scope){withPods(3, 3, 0), wanting(2), leaves("c"), costing(map[string]string{"a": "3", "b": "3", "c": "0"})},
			plan{2, []string{"c"}, map[string]int{"a": 3, "b": 3, "c": 0}}},
		"it still owns a segment": {[]func(*scope){withPods(3, 3, 0), wanting(2), leaves("c"), costing(map[string]string{"a": "3", "b": "3", "c": "0"}),
			change("c", func(_ *corev1.Pod, w *stores.Worker) { w.Owned = 1 })}, plan{3, []string{"c"}, map[string]int{"a": 3, "b": 3, "c": 0}}},
		"it has had its time": {[]func(*scope){withPods(3, 3, 0), wanting(2), leaves("c"), costing(map[string]string{"a": "3", "b": "3", "c": "0"}),
			change("c", func(_ *corev1.Pod, w *stores.Worker) { w.Owned, w.Leaving = 1, time.Minute })}, plan{2, []string{"c"}, map[string]int{"a": 3, "b": 3, "c": 0}}},
		"costs stay until the pod is gone": {[]func(*scope){withPods(3, 3, 0), wanting(2), leaves("c"), func(s *scope) { s.deployment.Spec.Replicas = ptr.To[int32](2) }},
			plan{2, []string{"c"}, map[string]int{"a": 3, "b": 3, "c": 0}}},
		"it goes on leaving while the Deployment's controller has not seen that there are to be fewer": {[]func(*scope){withPods(3, 3, 0), wanting(2), leaves("c"), func(s *scope) {
			s.deployment.Spec.Replicas, s.deployment.Generation = ptr.To[int32](2), s.deployment.Status.ObservedGeneration+1
		}}, plan{2, []string{"c"}, map[string]int{"a": 3, "b": 3, "c": 0}}},
		"to zero there is nobody to hand over to": {[]func(*scope){withPods(3, 3), wanting(0)}, plan{Replicas: 0}},
		"without the store Kubernetes chooses":    {[]func(*scope){withPods(3, 3), wanting(1), problem("ConnectionFailed")}, plan{Replicas: 1}},
		"in a rollout the plan says who goes first": {[]func(*scope){withPods(0, 3, 3), wanting(2), change("a", func(pod *corev1.Pod, _ *stores.Worker) { pod.Labels[desired.LabelDefinition] = "old" })},
			plan{2, nil, map[string]int{"a": 0, "b": 3, "c": 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := decidePods(healthy(t, test.changes...))
			if diff := cmp.Diff(test.want, plan{*d.replicas, d.victims, d.costs}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAQuarantinedDefinitionIsAFailedRolloutWithTheLastLines(t *testing.T) {
	s := healthy(t, withPods(2, 2), wanting(2), change("a", func(pod *corev1.Pod, _ *stores.Worker) { pod.Labels[desired.LabelDefinition] = "old" }),
		change("b", func(pod *corev1.Pod, _ *stores.Worker) {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", LastTerminationState: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Message: "one\ntwo\nthree\nfour\n"}}}}
		}), func(s *scope) { s.store.Facts.Quarantined = true })
	v := verdictOf(s)
	if v == nil || v.reason != "RolloutFailed" || !v.stalled {
		t.Fatalf("%+v", v)
	}
	if want := "container worker of pod b ended with code 2: two\nthree\nfour"; !strings.Contains(v.message, want) {
		t.Errorf("%q does not say %q", v.message, want)
	}
	s.store.Facts.Workers[1].Failing = "no column"
	if v := verdictOf(s); !strings.Contains(v.message, "no column") {
		t.Errorf("%q does not say why", v.message)
	}
}
