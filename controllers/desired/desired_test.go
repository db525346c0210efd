package desired

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/definition"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample reads the EventProcessor of a sample, with the defaults that the API server fills in.
func sample(t *testing.T, file string) *v1alpha1.EventProcessor {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	document, err := definition.ParseYAML(data)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	spec, err := json.Marshal(document.Spec)
	if err != nil {
		t.Fatal(err)
	}
	object := &v1alpha1.EventProcessor{ObjectMeta: metav1.ObjectMeta{Name: document.Name, Namespace: "shop", UID: "0000-uid"}}
	if err := json.Unmarshal(spec, &object.Spec); err != nil {
		t.Fatal(err)
	}
	return object
}

func processorOf(t *testing.T, object *v1alpha1.EventProcessor) Processor {
	t.Helper()
	p, err := New(object, "test", "sluice.example/sluice:1")
	if err != nil {
		t.Fatal(err)
	}
	p.Installation = "5ea1ed00"
	return p
}

// A changed golden file means that every processor of that kind rolls out when the operator is upgraded.
func TestObjectsOfTheSamples(t *testing.T) {
	files, err := filepath.Glob("../../config/samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rendered := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(data, []byte("kind: EventProcessor")) {
			continue
		}
		rendered++
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			golden(t, name, render(t, processorOf(t, sample(t, file))))
		})
	}
	if rendered == 0 {
		t.Fatal("no sample has an EventProcessor")
	}
}

func render(t *testing.T, p Processor) []byte {
	t.Helper()
	deployment, err := Deployment(p, p.Spec.Replicas)
	if err != nil {
		t.Fatal(err)
	}
	configMap, err := ConfigMap(p)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, object := range []any{deployment, PodDisruptionBudget(p), configMap} {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	return out.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden.yaml")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: write it with `go test ./controllers/desired -update`", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the objects have changed; look at every line, then run `go test ./controllers/desired -update`:\n%s", diff)
	}
}

func TestTemplateWins(t *testing.T) {
	object := sample(t, "../../config/samples/sql.yaml")
	probe := corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
	object.Spec.Template = &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": "mine"}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  ptr.To(true),
			TerminationGracePeriodSeconds: ptr.To[int64](5),
			SecurityContext:               &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(false)},
			Containers: []corev1.Container{
				{Name: "other", Image: "other:1"},
				{Name: "worker", Image: "mine:1", Command: []string{"/mine"}, LivenessProbe: &probe,
					Env:             []corev1.EnvVar{{Name: "SLUICE_POD", Value: "wrong"}, {Name: "MINE", Value: "1"}},
					Ports:           []corev1.ContainerPort{{Name: "p", ContainerPort: 8081}},
					VolumeMounts:    []corev1.VolumeMount{{Name: "scratch", MountPath: "/tmp"}},
					SecurityContext: &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(false)}},
			},
			Volumes: []corev1.Volume{{Name: "scratch"}},
		},
	}
	before := object.DeepCopy()
	template := PodTemplate(processorOf(t, object))
	if diff := cmp.Diff(before, object); diff != "" {
		t.Errorf("the object was changed: %s", diff)
	}
	pod := template.Spec
	worker := pod.Containers[1]
	checks := map[string]bool{
		"label":            template.Labels["app.kubernetes.io/name"] == "mine",
		"token":            *pod.AutomountServiceAccountToken,
		"grace":            *pod.TerminationGracePeriodSeconds == 5,
		"runAsNonRoot":     !*pod.SecurityContext.RunAsNonRoot,
		"root file system": !*worker.SecurityContext.ReadOnlyRootFilesystem,
		"image":            worker.Image == "mine:1" && worker.SecurityContext.RunAsUser == nil,
		"command":          len(worker.Args) == 0,
		"liveness":         worker.LivenessProbe.Exec != nil,
		"scratch":          len(worker.VolumeMounts) == 3,
		"port's name":      worker.ReadinessProbe.HTTPGet.Port.StrVal == "p" && len(worker.Ports) == 2,
		"no token of ours": len(pod.Containers) == 2,
	}
	for name, holds := range checks {
		if !holds {
			t.Errorf("%s: the template's value was not kept", name)
		}
	}
	if env := worker.Env[0]; env.Name != "MINE" {
		t.Errorf("the template's variable is not there: %v", worker.Env)
	}
	if pods := worker.Env[3]; pods.Name != "SLUICE_POD" || pods.ValueFrom == nil {
		t.Errorf("a variable that the runtime needs was left to the template: %v", worker.Env)
	}
	for _, container := range pod.Containers {
		if *container.SecurityContext.AllowPrivilegeEscalation || container.SecurityContext.Capabilities.Drop[0] != "ALL" {
			t.Errorf("container %s would not be admitted under the restricted profile", container.Name)
		}
	}
}

// TestPodsHaveTheSecretsOfStoreAndSource, each once, as files that a worker finds by the spec.
func TestPodsHaveTheSecretsOfStoreAndSource(t *testing.T) {
	object := sample(t, "../../config/samples/separate-database.yaml")
	mounted := func() (files []string) {
		for _, volume := range PodTemplate(processorOf(t, object)).Spec.Volumes {
			if volume.Name != "sluice-secrets" {
				continue
			}
			for _, source := range volume.Projected.Sources {
				for _, item := range source.Secret.Items {
					files = append(files, source.Secret.Name+" "+item.Key+" "+item.Path)
				}
			}
		}
		return files
	}
	store, source := "reports-db uri reports-db/uri", "shop-events uri shop-events/uri"
	if diff := cmp.Diff([]string{store, source}, mounted()); diff != "" {
		t.Error(diff)
	}
	ca := &v1alpha1.PostgresTLS{CASecretRef: &v1alpha1.SecretKeyReference{Name: "ca", Key: "ca.crt"}}
	object.Spec.Store.Postgres.TLS, object.Spec.Source.Postgres.TLS = ca, ca
	if diff := cmp.Diff([]string{"ca ca.crt ca/ca.crt", store, source}, mounted()); diff != "" {
		t.Error("with an authority that both use:", diff)
	}
}

func TestAcceptingAnotherStoreRestartsNothing(t *testing.T) {
	object := sample(t, "../../config/samples/sql.yaml")
	before := PodTemplate(processorOf(t, object))
	object.Spec.Store.Postgres.ExpectedStoreID = "00000000-0000-0000-0000-000000000000"
	object.Spec.Replicas = ptr.To[int32](7)
	object.Spec.DesiredState = v1alpha1.DesiredStatePaused
	object.Spec.ProcessingGroups[0].Segments = 4
	object.Spec.ProcessingGroups[0].MaxBatchSize = 7
	if diff := cmp.Diff(before, PodTemplate(processorOf(t, object))); diff != "" {
		t.Errorf("live fields changed the pod template: %s", diff)
	}
	object.Spec.ProcessingGroups[0].Handler.SQL.Reset = "DELETE FROM payments"
	if cmp.Equal(before, PodTemplate(processorOf(t, object))) {
		t.Error("a definition field did not change the pod template")
	}
}

func TestDefinitionTooLarge(t *testing.T) {
	object := sample(t, "../../config/samples/sql.yaml")
	object.Spec.ProcessingGroups[0].Handler.SQL.Setup = strings.Repeat("x", longestDefinition)
	if _, err := ConfigMap(processorOf(t, object)); err == nil || !strings.Contains(err.Error(), "move groups") {
		t.Errorf("got %v", err)
	}
}
