package binaries

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// newStore returns a store whose kubernetes module is a program of our own, which go build makes in a moment.
func newStore(t *testing.T, main string) *Store {
	t.Helper()
	dir := t.TempDir()
	module := filepath.Join(dir, "binaries", "kubernetes")
	write(t, filepath.Join(module, "go.mod"), "module k8s.io/kubernetes\n\ngo 1.24\n\nrequire k8s.io/kubernetes v1.2.3\n")
	write(t, filepath.Join(module, "cmd", "kubectl", "main.go"), main)
	return &Store{
		Sources: filepath.Join(dir, "binaries"),
		Cache:   filepath.Join(dir, "cache"),
		Log:     &progress.Log{Out: io.Discard, Now: time.Now},
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

const working = "package main\n\nfunc main() { println(\"works\") }\n"

func TestEnsureBuildsOnceUnderTheVersion(t *testing.T) {
	store := newStore(t, working)
	path, err := store.Ensure(context.Background(), "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	if folder := filepath.Base(filepath.Dir(path)); !strings.HasPrefix(folder, "kubernetes-v1.2.3-") {
		t.Errorf("built into %s, which does not name the version", folder)
	}
	if out, err := exec.Command(path).CombinedOutput(); err != nil || string(out) != "works\n" {
		t.Fatalf("the program says %q, %v", out, err)
	}
	write(t, filepath.Join(store.Sources, "kubernetes", "cmd", "kubectl", "main.go"), "not Go")
	if _, err := store.Ensure(context.Background(), "kubectl"); err != nil {
		t.Errorf("built again although the cache holds it: %v", err)
	}
}

func TestFailedBuildLeavesNothingUnderTheFinalName(t *testing.T) {
	store := newStore(t, "package main\n\nfunc main() { undefined() }\n")
	if _, err := store.Ensure(context.Background(), "kubectl"); err == nil {
		t.Fatal("a program that does not compile was built")
	}
	missing, err := store.Missing("kubectl")
	if err != nil || len(missing) != 1 {
		t.Fatalf("missing is %v, %v; want kubectl", missing, err)
	}
}

func TestInterruptedBuildIsNotTakenForAWholeOne(t *testing.T) {
	store := newStore(t, working)
	p, err := Find("kubectl")
	if err != nil {
		t.Fatal(err)
	}
	path, err := store.Path(p)
	if err != nil {
		t.Fatal(err)
	}
	leftover := path + ".unfinished-4711"
	write(t, leftover, "half a program")
	if err := os.Chmod(leftover, 0o755); err != nil {
		t.Fatal(err)
	}
	if missing, _ := store.Missing("kubectl"); len(missing) != 1 {
		t.Fatal("half a program counts as built")
	}
	if _, err := store.Ensure(context.Background(), "kubectl"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftover); !os.IsNotExist(err) {
		t.Errorf("the leftover of the interrupted build is still there (%v)", err)
	}
}

func TestConcurrentCallersGetTheSameProgram(t *testing.T) {
	store := newStore(t, working)
	results := make(chan error, 4)
	for range cap(results) {
		go func() {
			_, err := store.Ensure(context.Background(), "kubectl")
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	leftovers, _ := filepath.Glob(filepath.Join(store.Cache, "*", "*.unfinished-*"))
	if len(leftovers) != 0 {
		t.Errorf("left %v", leftovers)
	}
}

func TestVersionsComeFromTheModules(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	sources, err := findSources(wd)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Catalogue {
		version, err := p.version(sources)
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(version, "v") {
			t.Errorf("%s has version %q", p.Name, version)
		}
	}
}

func TestStampsNameTheVersion(t *testing.T) {
	p, err := Find("kubelet")
	if err != nil {
		t.Fatal(err)
	}
	flags := p.ldflags("v1.36.3")
	for _, want := range []string{"gitVersion=v1.36.3", "gitMajor=1 ", "gitMinor=36 "} {
		if !strings.Contains(flags, want) {
			t.Errorf("%q lacks %q", flags, want)
		}
	}
}

func TestUnknownProgramNamesTheKnownOnes(t *testing.T) {
	_, err := Find("docker")
	if err == nil || !strings.Contains(err.Error(), "kube-apiserver") {
		t.Errorf("got %v", err)
	}
}
