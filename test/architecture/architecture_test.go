// Package architecture compares the picture of the packages in docs/design/architecture.md with what
// they import.
package architecture

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	module = "github.com/sluice-project/sluice"
	page   = "../../docs/design/architecture.md"
)

// boxes are packages that the picture has as one, by the beginning of their path. An empty box is
// not in the picture.
var boxes = []struct{ prefix, box string }{
	{"test/", ""}, {"hack/", ""}, {"internal/", ""}, {"examples/", ""}, {"tokenstore/memory", ""}, {"tokenstore/tokenstoretest", ""}, {"eventsource/sourcetest", ""},
	{"eventsource/memory", ""}, {"runtime/backend/memory", ""},
	{"api/", "api"}, {"controllers", "controllers"}, {"cmd/", "cmd"}, {"tokenstore/postgres", "tokenstore/postgres"},
	{"runtime/command", "commands"}, {"runtime/dev", "commands"}, {"runtime/eventfile", "commands"}, {"runtime/axon", "commands"}, {"runtime/access", "commands"},
}

// boxOf returns the box of a package, and whether it is in the picture.
func boxOf(path string) (box string, shown bool) {
	path, own := strings.CutPrefix(path, module)
	path = strings.TrimPrefix(path, "/")
	for _, b := range boxes {
		if strings.HasPrefix(path, b.prefix) {
			return b.box, own && b.box != ""
		}
	}
	if path == "" {
		path = "sluice"
	}
	return path, own
}

// graph has, for each box, those that it imports.
type graph map[string]map[string]bool

// imports are those of the production code.
func imports(t *testing.T) graph {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	g := graph{}
	for line := range strings.Lines(string(out)) {
		paths := strings.Fields(line)
		from, shown := boxOf(paths[0])
		if !shown {
			continue
		}
		if g[from] == nil {
			g[from] = map[string]bool{}
		}
		for _, path := range paths[1:] {
			if to, shown := boxOf(path); shown && to != from {
				g[from][to] = true
			}
		}
	}
	return g
}

// reaches reports whether a box imports another one, by way of others too. Boxes have several
// packages, so they may import each other.
func (g graph) reaches(from, to string) bool {
	seen, next := map[string]bool{from: true}, []string{from}
	for len(next) > 0 {
		at := next[0]
		next = next[1:]
		if g[at][to] {
			return true
		}
		for box := range g[at] {
			if !seen[box] {
				seen[box] = true
				next = append(next, box)
			}
		}
	}
	return false
}

// arrows are the imports that do not follow from others: the transitive reduction of the graph.
func (g graph) arrows() (arrows []string) {
	for from := range g {
		for to := range g[from] {
			follows := false
			for other := range g[from] {
				follows = follows || other != to && g.reaches(other, to)
			}
			if !follows {
				arrows = append(arrows, from+" --> "+to)
			}
		}
	}
	slices.Sort(arrows)
	return arrows
}

var arrow = regexp.MustCompile(`(?m)^ *([a-z/]+) --> ([a-z/]+)$`)

func TestThePictureOfThePackagesIsWhatTheyImport(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var drawn []string
	for _, match := range arrow.FindAllStringSubmatch(string(text), -1) {
		drawn = append(drawn, match[1]+" --> "+match[2])
	}
	slices.Sort(drawn)
	imported := imports(t).arrows()
	if len(imported) < 20 {
		t.Fatalf("vacuous: only %d imports were found", len(imported))
	}
	if diff := cmp.Diff(imported, drawn); diff != "" {
		t.Errorf("-imports +%s\n%s\nThe picture has to have:\n    %s", page, diff, strings.Join(imported, "\n    "))
	}
}
