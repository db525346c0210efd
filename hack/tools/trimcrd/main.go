// Trimcrd makes generated CRDs fit for use: below the pod template it drops descriptions, which would make the CRD too
// large for a client-side kubectl apply, and fields that the operator sets itself; and it writes the same CRDs as
// templates of the chart sluice-crds.
//
//	trimcrd -crds config/crd -chart charts/sluice-crds/templates
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

func main() {
	log.SetFlags(0)
	crds := flag.String("crds", "config/crd", "folder with the generated CRDs, rewritten in place")
	chart := flag.String("chart", "charts/sluice-crds/templates", "folder that the chart's templates are written to")
	flag.Parse()
	if err := run(*crds, *chart); err != nil {
		log.Fatalf("trimcrd: %v", err)
	}
}

func run(crds, chart string) error {
	files, err := filepath.Glob(filepath.Join(crds, "sluice.dev_*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no CRDs in %s", crds)
	}
	if err := os.MkdirAll(chart, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		if err := rewrite(file, filepath.Join(chart, filepath.Base(file))); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func rewrite(file, template string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(data, &crd); err != nil {
		return err
	}
	for _, version := range at(crd, "spec")["versions"].([]any) {
		spec := at(version.(map[string]any), "schema", "openAPIV3Schema", "properties", "spec", "properties")
		if pod, ok := spec["template"].(map[string]any); ok {
			trimPod(pod)
		}
	}
	data, err = yaml.Marshal(crd)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return err
	}
	return os.WriteFile(template, []byte(chartTemplate(string(data))), 0o644)
}

// at follows keys down a tree of objects; a schema that lacks one is not ours, and a panic is the right answer.
func at(object map[string]any, keys ...string) map[string]any {
	for _, key := range keys {
		object = object[key].(map[string]any)
	}
	return object
}

func trimPod(pod map[string]any) {
	description := pod["description"]
	dropDescriptions(pod)
	pod["description"] = description

	// The operator names the pods. What cannot have an effect is refused as an unknown field.
	metadata := at(pod, "properties", "metadata", "properties")
	for _, field := range []string{"name", "namespace", "finalizers"} {
		delete(metadata, field)
	}
	// A template may hold a node selector, say, and leave the container to the operator.
	spec := at(pod, "properties", "spec")
	required := slices.DeleteFunc(spec["required"].([]any), func(field any) bool { return field == "containers" })
	if spec["required"] = required; len(required) == 0 {
		delete(spec, "required")
	}
	// CEL rules walk over these, and the API server wants to know how far.
	at(spec, "properties", "containers")["maxItems"] = 32
	at(spec, "properties", "initContainers")["maxItems"] = 32
	at(metadata, "labels")["maxProperties"] = 64
}

func dropDescriptions(schema any) {
	switch schema := schema.(type) {
	case map[string]any:
		// A property may be called description; its value is then an object.
		if _, text := schema["description"].(string); text {
			delete(schema, "description")
		}
		for _, value := range schema {
			dropDescriptions(value)
		}
	case []any:
		for _, value := range schema {
			dropDescriptions(value)
		}
	}
}

// chartTemplate puts a CRD into a chart. Helm must not read braces in descriptions as its own.
func chartTemplate(crd string) string {
	crd = strings.ReplaceAll(crd, "{{", `{{ "{{" }}`)
	annotations := "metadata:\n  annotations:\n"
	keep := "    {{- if .Values.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}\n"
	labels := "  labels:\n    {{- include \"sluice-crds.labels\" . | nindent 4 }}\n"
	crd = strings.Replace(crd, annotations, annotations+keep, 1)
	return strings.Replace(crd, "  name: ", labels+"  name: ", 1)
}
