package definition

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

type schema struct {
	Default    json.RawMessage   `json:"default"`
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
}

func TestDefaultsAreThoseOfTheCRD(t *testing.T) {
	data, err := os.ReadFile("../config/crd/sluice.dev_eventprocessors.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{}
	collectDefaults(t, "", crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"], want)
	got := map[string]any{}
	for _, field := range defaults {
		got[field.path] = decoded(t, []byte(field.value))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-CRD +definition)\n%s", diff)
	}
}

func collectDefaults(t *testing.T, path string, schema schema, into map[string]any) {
	if schema.Default != nil {
		into[path] = decoded(t, schema.Default)
	}
	if schema.Items != nil {
		collectDefaults(t, path+"[]", *schema.Items, into)
	}
	for name, property := range schema.Properties {
		if path == "" && name == "template" {
			continue // Kubernetes' own
		}
		child := name
		if path != "" {
			child = path + "." + name
		}
		collectDefaults(t, child, property, into)
	}
}

func decoded(t *testing.T, data []byte) any {
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return value
}
