// Package charts tests what Helm makes of the charts, with the real helm.
package charts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const (
	sources = "../../charts"
	crds    = "../../config/crd"
	rbac    = "../../config/rbac"
)

// packed is a copy of the charts, the dependency of one on the other built.
var packed = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "sluice-charts-")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(folder, os.DirFS(sources)); err != nil {
		return folder, err
	}
	_, err = helm("dependency", "build", filepath.Join(folder, "sluice"))
	return folder, err
})

func TestMain(m *testing.M) {
	if os.Getenv("HELM") == "" {
		fmt.Fprintln(os.Stderr, "HELM has to be the path of the helm command: run the tests by make test, which builds it")
		os.Exit(1)
	}
	code := m.Run()
	if folder, _ := packed(); folder != "" {
		os.RemoveAll(folder)
	}
	os.Exit(code)
}

func helm(args ...string) ([]byte, error) {
	command := exec.Command(os.Getenv("HELM"), args...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("helm %s: %w: %s%s", strings.Join(args, " "), err, output, &stderr)
	}
	return output, nil
}

func chart(t *testing.T, name string) string {
	t.Helper()
	folder, err := packed()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, name)
}

// objects are those of one rendering, by kind and name, read strictly: an unknown field is an error.
type objects map[string]client.Object

func render(t *testing.T, name string, flags ...string) objects {
	t.Helper()
	args := append([]string{"template", "sluice", chart(t, name), "--namespace", "sluice-system"}, flags...)
	output, err := helm(args...)
	if err != nil {
		t.Fatal(err)
	}
	found := objects{}
	for _, document := range strings.Split("\n"+string(output), "\n---") {
		if object := decode(t, []byte(document)); object != nil {
			key := object.GetObjectKind().GroupVersionKind().Kind + " " + strings.TrimPrefix(object.GetNamespace()+"/", "/") +
				object.GetName()
			found[key] = object
		}
	}
	return found
}

// decode returns nil for a document without an object.
func decode(t *testing.T, document []byte) client.Object {
	t.Helper()
	if data, err := yaml.YAMLToJSON(document); err == nil && string(data) == "null" {
		return nil
	}
	object, kind, err := decoder.Decode(document, nil, nil)
	if err != nil {
		t.Fatalf("%v in\n%.500s", err, document)
	}
	object.GetObjectKind().SetGroupVersionKind(*kind)
	return object.(client.Object)
}

var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// get returns an object of a rendering as its own type.
func get[T client.Object](t *testing.T, from objects, key string) T {
	t.Helper()
	object, found := from[key].(T)
	if !found {
		t.Fatalf("no %s among %v", key, from.keys())
	}
	return object
}

func (o objects) keys() []string {
	var keys []string
	for key := range o {
		keys = append(keys, key)
	}
	return keys
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func compact(t *testing.T, value any) string {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
