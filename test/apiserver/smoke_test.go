package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

var _ = Describe("A manifest of an EventProcessor that is wrong", func() {
	const folder = "../../definition/testdata/invalid"
	files, _ := filepath.Glob(filepath.Join(folder, "*.yaml"))
	It("is there", func() { Expect(files).NotTo(BeEmpty()) })
	for _, file := range files {
		It("is refused: "+strings.TrimSuffix(filepath.Base(file), ".yaml"), func(ctx SpecContext) {
			data, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			problem, _, _ := strings.Cut(strings.TrimPrefix(string(data), "# "), "\n")
			path, text, found := strings.Cut(problem, ": ")
			Expect(found).To(BeTrue(), "the first line has the problem")

			var object unstructured.Unstructured
			Expect(yaml.Unmarshal(data, &object)).To(Succeed())
			object.SetNamespace("default")
			err = apiClient.Create(ctx, &object, client.FieldValidation(metav1.FieldValidationStrict), client.DryRunAll)
			fmt.Fprintln(GinkgoWriter, err)
			Expect(err).To(MatchError(And(ContainSubstring(path), ContainSubstring(text))))
		})
	}
})
