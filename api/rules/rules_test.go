package rules_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/api/rules"
)

func TestTheTableHasTheTextsOfTheCRDs(t *testing.T) {
	want := map[string]map[string]bool{"EventProcessor": {}, "Replay": {}}
	for _, rule := range rules.All() {
		for _, kind := range rule.Kinds {
			want[kind][rule.Text] = true
		}
	}
	files, err := filepath.Glob("../../config/crd/sluice.dev_*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]map[string]bool{}
	for _, file := range files {
		kind, texts := messages(t, file)
		got[kind] = texts
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-table +CRDs)\n%s", diff)
	}
}

func messages(t *testing.T, file string) (kind string, texts map[string]bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var crd map[string]any
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	texts = map[string]bool{}
	collect(crd, texts)
	return crd["spec"].(map[string]any)["names"].(map[string]any)["kind"].(string), texts
}

func collect(tree any, texts map[string]bool) {
	switch tree := tree.(type) {
	case map[string]any:
		if validations, ok := tree["x-kubernetes-validations"].([]any); ok {
			for _, validation := range validations {
				text, _ := validation.(map[string]any)["message"].(string)
				texts[text] = true
			}
		}
		for _, value := range tree {
			collect(value, texts)
		}
	case []any:
		for _, item := range tree {
			collect(item, texts)
		}
	}
}

func TestTheTableHasEveryConstant(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "rules.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	ast.Inspect(file, func(node ast.Node) bool {
		if declaration, ok := node.(*ast.GenDecl); ok && declaration.Tok == token.CONST {
			for _, spec := range declaration.Specs {
				want = append(want, spec.(*ast.ValueSpec).Names[0].Name)
			}
		}
		return true
	})
	got := map[string]string{}
	for _, rule := range rules.All() {
		got[rule.Name] = rule.Text
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("(-constants +table)\n%s", diff)
	}
}
