// Package binaries builds the programs of a cluster from source, through the Go module proxy, and keeps them in the
// user's cache.
//
// What always holds: a file in the cache under its final name is a whole program of exactly the version in its folder's
// name. Builds write beside it and rename; a lock per folder keeps two callers from building the same thing.
package binaries

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// Program is one that can be built.
type Program struct {
	Name    string // of the file
	Module  string // folder below binaries/, each a Go module of its own so that versions do not fight
	Package string // what go build is given
	Source  string // the module whose version is the program's version
	Stamps  []string
}

// kubernetesStamps and helmStamps are the variables that the projects' own build scripts set.
var (
	kubernetesStamps = []string{
		"k8s.io/component-base/version.gitVersion={version}",
		"k8s.io/component-base/version.gitMajor={major}",
		"k8s.io/component-base/version.gitMinor={minor}",
		"k8s.io/component-base/version.gitTreeState=clean",
	}
	helmStamps = []string{
		"helm.sh/helm/v4/internal/version.version={version}",
		"helm.sh/helm/v4/internal/version.gitTreeState=clean",
	}
)

// Catalogue is everything that can be built, in the order in which it is wanted first.
var Catalogue = []Program{
	kubernetes("kube-apiserver"),
	{Name: "etcd", Module: "etcd", Package: "go.etcd.io/etcd/server/v3", Source: "go.etcd.io/etcd/server/v3"},
	kubernetes("kubectl"),
	kubernetes("kubelet"),
	kubernetes("kube-controller-manager"),
	kubernetes("kube-scheduler"),
	kubernetes("kube-proxy"),
	{Name: "coredns", Module: "coredns", Package: ".", Source: "github.com/coredns/coredns"},
	{Name: "helm", Module: "helm", Package: "helm.sh/helm/v4/cmd/helm", Source: "helm.sh/helm/v4", Stamps: helmStamps},
	{Name: "kind", Module: "kind", Package: "sigs.k8s.io/kind", Source: "sigs.k8s.io/kind"},
}

func kubernetes(name string) Program {
	return Program{
		Name: name, Module: "kubernetes", Package: "k8s.io/kubernetes/cmd/" + name,
		Source: "k8s.io/kubernetes", Stamps: kubernetesStamps,
	}
}

// Find returns the program called name.
func Find(name string) (Program, error) {
	names := make([]string, 0, len(Catalogue))
	for _, p := range Catalogue {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Program{}, fmt.Errorf("no program is called %q; there are %s", name, strings.Join(names, ", "))
}

// version reads the version of p.Source from the go.mod that requires it, the only place that names it.
func (p Program) version(sources string) (string, error) {
	path := filepath.Join(sources, p.Module, "go.mod")
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", p.Name, err)
	}
	mod, err := modfile.Parse(path, content, nil)
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", p.Name, err)
	}
	for _, r := range mod.Require {
		if r.Mod.Path == p.Source {
			return r.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("%s does not require %s: run `go get %s` in its folder", path, p.Source, p.Source)
}

// ldflags strips what only a debugger reads, and stamps the version.
func (p Program) ldflags(version string) string {
	parts := append(strings.Split(strings.TrimPrefix(version, "v"), "."), "", "")
	fill := strings.NewReplacer("{version}", version, "{major}", parts[0], "{minor}", parts[1])
	flags := []string{"-s", "-w"}
	for _, stamp := range p.Stamps {
		flags = append(flags, "-X", fill.Replace(stamp))
	}
	return strings.Join(flags, " ")
}
