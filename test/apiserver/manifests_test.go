package apiserver

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/definition"
)

// Package definition is held to the same manifests, so that both refuse them with the same text.
var _ = Describe("A manifest that is wrong", func() {
	for _, folder := range []string{"../../definition/testdata/invalid", "testdata/invalid"} {
		for _, file := range manifests(folder) {
			It("is refused: "+strings.TrimSuffix(filepath.Base(file), ".yaml"), func(ctx SpecContext) {
				data, err := os.ReadFile(file)
				Expect(err).NotTo(HaveOccurred())
				problem, _, _ := strings.Cut(strings.TrimPrefix(string(data), "# "), "\n")
				path, text, found := strings.Cut(problem, ": ")
				Expect(found).To(BeTrue(), "the first line is the problem")

				Expect(create(ctx, data)).To(MatchError(And(ContainSubstring(path), ContainSubstring(text))))
			})
		}
	}
})

var _ = Describe("A sample", func() {
	for _, file := range manifests("../../config/samples") {
		It("is accepted: "+filepath.Base(file), func(ctx SpecContext) {
			data, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			Expect(create(ctx, data)).To(Succeed())
			if strings.Contains(string(data), "kind: EventProcessor") {
				_, err = definition.ParseYAML(data)
				Expect(err).NotTo(HaveOccurred())
			}
		})
	}
})

// manifests are a folder's. Without any, the tests over them would pass by not running.
func manifests(folder string) []string {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		panic("no manifests in " + folder)
	}
	return files
}

// create asks the API server, as strictly as kubectl apply does, and keeps nothing.
func create(ctx context.Context, manifest []byte) error {
	var object unstructured.Unstructured
	if err := yaml.Unmarshal(manifest, &object); err != nil {
		return err
	}
	object.SetNamespace("default")
	return apiClient.Create(ctx, &object, client.FieldValidation(metav1.FieldValidationStrict), client.DryRunAll)
}
