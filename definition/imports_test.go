package definition_test

import (
	"os/exec"
	"strings"
	"testing"
)

// Programs with Go handlers import this package; they must not inherit Kubernetes' modules.
func TestImportsNothingOfKubernetes(t *testing.T) {
	output, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, path := range strings.Fields(string(output)) {
		if strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/controller-runtime") {
			t.Errorf("package definition depends on %s", path)
		}
	}
}
