package worker

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/internal/docstest"
	"github.com/sluice-project/sluice/tokenstore"
)

func TestTheDocsHaveEveryMetricOfWorkers(t *testing.T) {
	registry := &docstest.Registry{}
	newMetrics(registry)
	docs := docstest.FirstCells(docstest.Section(t, "../../docs/operations/operator.md", "### Metrics of workers"))
	if diff := cmp.Diff(docstest.Metrics(registry.Collectors...), docs); diff != "" {
		t.Errorf("-code +docs:\n%s", diff)
	}
}

// TestTheDocsHaveEveryReasonOfAFault: conditions and kubectl sluice status name them.
func TestTheDocsHaveEveryReasonOfAFault(t *testing.T) {
	code := []string{tokenstore.SequencingChanged}
	for _, folder := range []string{".", "../handler", "../../tokenstore", "../../tokenstore/postgres"} {
		code = append(code, reasonsIn(t, folder)...)
	}
	var docs []string
	for name := range docstest.FirstCells(docstest.Section(t, "../../docs/operations/failures.md", "## Reasons")) {
		docs = append(docs, name)
	}
	slices.Sort(code)
	slices.Sort(docs)
	if diff := cmp.Diff(slices.Compact(code), docs); diff != "" {
		t.Errorf("-code +docs:\n%s", diff)
	}
}

var (
	camelCase   = regexp.MustCompile(`^([A-Z][a-z]+)+$`)
	faultKind   = regexp.MustCompile(`^(Event|Definition|Contention|Infrastructure)Fault$`)
	namesReason = regexp.MustCompile(`^[rR]eason[A-Z]|^events?Unreadable$|^setupRuns$`)
)

// reasonsIn are the reasons of faults in a package's code: texts beside a kind of fault, and
// constants that are named so.
func reasonsIn(t *testing.T, folder string) (reasons []string) {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	add := func(e ast.Expr) {
		if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if text, err := strconv.Unquote(literal.Value); err == nil && camelCase.MatchString(text) {
				reasons = append(reasons, text)
			}
		}
	}
	beside := func(values []ast.Expr) {
		if len(values) < 2 {
			return
		}
		if kind, ok := values[0].(*ast.SelectorExpr); ok && faultKind.MatchString(kind.Sel.Name) {
			add(values[1])
		}
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(folder, f.Name()), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.ReturnStmt:
				beside(n.Results)
			case *ast.AssignStmt:
				beside(n.Rhs)
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) && namesReason.MatchString(name.Name) {
						add(n.Values[i])
					}
				}
			}
			return true
		})
	}
	return reasons
}
