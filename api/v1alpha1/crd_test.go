package v1alpha1_test

import (
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"
)

// A client-side kubectl apply keeps the whole object in an annotation, and annotations have room for 256 KiB.
func TestCRDsFitIntoAnAnnotation(t *testing.T) {
	files, err := filepath.Glob("../../config/crd/sluice.dev_*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatalf("got CRDs %v, want two: %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if data, err = yaml.YAMLToJSON(data); err != nil {
			t.Fatal(err)
		}
		if len(data) > 240<<10 {
			t.Errorf("%s has %d bytes as JSON, which is near the limit of %d or over it", file, len(data), 256<<10)
		}
	}
}
