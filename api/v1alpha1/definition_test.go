package v1alpha1_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	strict "sigs.k8s.io/json"
	"sigs.k8s.io/randfill"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/definition"
)

// The operator hands specs to package definition as JSON, so each field has to be there, under the same name.
func TestEveryFieldOfASpecArrivesInADefinition(t *testing.T) {
	filler := randfill.New().NilChance(0).NumElements(1, 3).Funcs(
		func(text *string, random randfill.Continue) { *text = "x" + random.String(8) },
		func(template *corev1.PodTemplateSpec, _ randfill.Continue) {
			template.Labels = map[string]string{"team": "money"}
			template.Spec.NodeSelector = map[string]string{"zone": "a"}
			template.Spec.Containers = []corev1.Container{{Name: "worker", Image: "example/payments"}}
		})
	for range 20 {
		var spec v1alpha1.EventProcessorSpec
		filler.Fill(&spec)
		want, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		var received definition.Spec
		unknown, err := strict.UnmarshalStrict(want, &received)
		if err != nil || len(unknown) > 0 {
			t.Fatalf("definition.Spec does not take it: %v %v", err, unknown)
		}
		got, err := json.Marshal(received)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tree(t, want), tree(t, got)); diff != "" {
			t.Fatalf("(-sent +received)\n%s", diff)
		}
	}
}

func tree(t *testing.T, data []byte) any {
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatal(err)
	}
	return value
}
