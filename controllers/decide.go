package controllers

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
)

// FieldOwner is the operator's name among those who own fields.
const FieldOwner = "sluice-operator"

// keptConfigMaps is how many definitions are kept that no pod uses, for rolling back.
const keptConfigMaps = 5

// decision is what a reconcile is going to do.
type decision struct {
	apply bool // the objects
	pods  podDecision
	prune []string       // ConfigMaps
	want  *stores.Wanted // of the store

	missing        *v1alpha1.Replay // that spec.replay asks for
	prunableReplay []string
}

// decide says what to do about what was observed.
func decide(s *scope) decision {
	if s.invalid != "" || len(s.foreign) > 0 {
		return decision{}
	}
	pods := decidePods(s)
	want := wantedOf(s)
	want.Leaving = leaving(s.pods, pods.victims)
	return decision{
		apply: !heldBack(s),
		pods:  pods,
		prune: prunable(s.configMaps, s.pods, s.desired.ID),
		want:  want,

		missing:        missingReplay(s),
		prunableReplay: prunableReplays(s),
	}
}

func wantedOf(s *scope) *stores.Wanted {
	return &stores.Wanted{
		Namespace:  s.processor.Namespace,
		Name:       s.desired.StoreName(),
		Generation: s.processor.Generation,
		Definition: s.desired.ID,
		Spec:       s.desired.Spec,
		StoreID:    s.processor.Status.StoreID,
		Replays:    requests(s),
	}
}

// prunable are the definitions that are neither wanted nor used by a pod, but for the newest few.
func prunable(configMaps []corev1.ConfigMap, pods []corev1.Pod, wanted string) []string {
	used := map[string]bool{wanted: true}
	for _, pod := range pods {
		used[pod.Labels[desired.LabelDefinition]] = true
	}
	unused := slices.DeleteFunc(slices.Clone(configMaps), func(c corev1.ConfigMap) bool { return used[c.Labels[desired.LabelDefinition]] })
	slices.SortFunc(unused, func(a, b corev1.ConfigMap) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var names []string
	for _, c := range unused[min(len(unused), keptConfigMaps):] {
		names = append(names, c.Name)
	}
	return names
}

var replicasPath = fieldpath.MakePathOrDie("spec", "replicas")

// externalScaler returns who else sets the Deployment's replicas: another manager owns the field, the operator does not,
// and the number is not the wanted one. Then the operator does not fight.
func externalScaler(deployment *appsv1.Deployment, wanted int32) (string, bool) {
	if deployment == nil || deployment.Spec.Replicas == nil || *deployment.Spec.Replicas == wanted {
		return "", false
	}
	other := ""
	for _, entry := range deployment.ManagedFields {
		if !owns(entry, replicasPath) {
			continue
		}
		if entry.Manager == FieldOwner {
			return "", false
		}
		other = entry.Manager
	}
	return other, other != ""
}

func owns(entry metav1.ManagedFieldsEntry, path fieldpath.Path) bool {
	if entry.FieldsV1 == nil {
		return false
	}
	set := &fieldpath.Set{}
	if err := set.FromJSON(entry.FieldsV1.GetRawReader()); err != nil {
		return false // not the API server's
	}
	return set.Has(path)
}
