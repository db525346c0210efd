package controllers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
)

// podDecision is what to do about pods: how many there are to be, and which go first.
//
// Kubernetes chooses which pods it removes: those that are not ready before others, then those with the lowest deletion cost. So
// in a rollout, where the plan has emptied an old pod for a new one, and when there are to be fewer pods, each pod's cost is the number
// of segments that the plan gives it. A pod that is to go is planned without first, gives its segments up one batch at a
// time, and turns not ready; only then the number of pods is lowered.
type podDecision struct {
	replicas *int32         // of the Deployment; nil leaves them to whoever set them
	victims  []string       // pods that leave, by name
	costs    map[string]int // by pod; nil where there should be none
	plan     int64          // whose costs these are
}

// decidePods is a pure function of what was observed, so whoever comes after a crash goes on where it ended.
func decidePods(s *scope) podDecision {
	wanted := s.replicas()
	if _, external := externalScaler(s.deployment, wanted); external {
		return podDecision{}
	}
	d := podDecision{replicas: ptr.To(wanted)}
	if !s.store.Seen || s.store.Problem != nil || s.deployment == nil {
		return d // Kubernetes chooses, and segments are handed over by those who go
	}
	current, there := ptr.Deref(s.deployment.Spec.Replicas, wanted), len(stayingPods(s.pods))
	switch {
	case rolling(s):
		d.costs, d.plan = costs(s), s.store.Facts.Plan
	case wanted > 0 && int(wanted) < max(int(current), there):
		d.costs, d.plan = costs(s), s.store.Facts.Plan
		d.victims = victims(s, there-int(wanted))
		if wanted < current && !gone(s, d) {
			d.replicas = ptr.To(current)
		}
	}
	return d
}

// rolling reports whether pods are being replaced. A change that the Deployment's controller has not looked at yet does not count: nothing is
// replaced before, and where it is the number of pods, those that leave go on leaving.
func rolling(s *scope) bool {
	if s.deployment.Spec.Template.Labels[desired.LabelDefinition] != s.desired.ID {
		return true
	}
	return slices.ContainsFunc(s.pods, func(pod corev1.Pod) bool { return pod.Labels[desired.LabelDefinition] != s.desired.ID }) ||
		s.deployment.Status.UpdatedReplicas < s.deployment.Status.Replicas
}

// costs are the segments that the newest plan gives each pod.
func costs(s *scope) map[string]int {
	all := map[string]int{}
	for _, pod := range s.pods {
		all[pod.Name] = 0
	}
	for _, w := range s.store.Facts.Workers {
		if _, there := all[w.Pod]; there {
			all[w.Pod] += w.Assigned
		}
	}
	return all
}

func stayingPods(pods []corev1.Pod) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(pod corev1.Pod) bool { return !pod.DeletionTimestamp.IsZero() })
}

// victims are the pods to remove: such as are leaving already, then such as do not work, then those with the fewest segments, so that
// few move, and of these the youngest.
func victims(s *scope, count int) []string {
	pods, of := stayingPods(s.pods), workersByPod(s)
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(number(of[a.Name].Leaving == 0), number(of[b.Name].Leaving == 0)),
			cmp.Compare(number(podReady(a)), number(podReady(b))),
			cmp.Compare(of[a.Name].Assigned, of[b.Name].Assigned),
			b.CreationTimestamp.Compare(a.CreationTimestamp.Time),
			cmp.Compare(a.Name, b.Name))
	})
	var names []string
	for _, pod := range pods[:min(max(count, 0), len(pods))] {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

// leaving are the pods that are to go, and those that Kubernetes is ending already.
func leaving(pods []corev1.Pod, victims []string) []string {
	all := slices.Clone(victims)
	for _, pod := range pods {
		if !pod.DeletionTimestamp.IsZero() && !slices.Contains(all, pod.Name) {
			all = append(all, pod.Name)
		}
	}
	slices.Sort(all)
	return all
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

func workersByPod(s *scope) map[string]stores.Worker {
	of := map[string]stores.Worker{}
	for _, w := range s.store.Facts.Workers {
		of[w.Pod] = w
	}
	return of
}

func podReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// gone reports whether Kubernetes may remove the victims: it knows the costs of all pods, and each victim has given up its segments and is
// not ready; or has had its time to.
func gone(s *scope, d podDecision) bool {
	of := workersByPod(s)
	for _, pod := range stayingPods(s.pods) {
		if pod.Annotations[corev1.PodDeletionCost] != strconv.Itoa(d.costs[pod.Name]) {
			return false
		}
		w, lives := of[pod.Name]
		if !slices.Contains(d.victims, pod.Name) || !lives || w.Leaving > grace(s) {
			continue
		}
		if w.Leaving == 0 || w.Assigned > 0 || w.Owned > 0 || podReady(pod) {
			return false
		}
	}
	return true
}

// grace is how long a pod may take to leave.
func grace(s *scope) time.Duration {
	return time.Duration(ptr.Deref(desired.PodTemplate(s.desired).Spec.TerminationGracePeriodSeconds, 0)) * time.Second
}

// applyCosts writes the deletion costs that differ, or removes them, and lets workers know.
func (r *Reconciler) applyCosts(ctx context.Context, s *scope, d podDecision) error {
	for _, pod := range stayingPods(s.pods) {
		var value *string
		if cost, wanted := d.costs[pod.Name]; wanted {
			value = ptr.To(strconv.Itoa(cost))
		}
		if is, there := pod.Annotations[corev1.PodDeletionCost]; there == (value != nil) && (!there || is == *value) {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]*string{corev1.PodDeletionCost: value}}})
		if err != nil {
			return fmt.Errorf("writing the deletion cost of pod %s: %w", pod.Name, err)
		}
		object := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
		err = r.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(FieldOwner))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("writing the deletion cost of pod %s: %w", pod.Name, err)
		}
	}
	if d.costs != nil {
		r.Stores.Acknowledge(client.ObjectKeyFromObject(s.processor), d.plan)
	}
	return nil
}
