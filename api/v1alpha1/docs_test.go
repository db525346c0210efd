package v1alpha1_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/api/rules"
	"github.com/sluice-project/sluice/internal/docstest"
)

var specs = map[string]string{
	"EventProcessor": "../../docs/spec/eventprocessor.md",
	"Replay":         "../../docs/spec/replay.md",
}

func text(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheDocsHaveEveryRule(t *testing.T) {
	for _, rule := range rules.All() {
		for _, kind := range rule.Kinds {
			if !strings.Contains(text(t, specs[kind]), "| "+rule.Text+" |") {
				t.Errorf("%s has no rule %q", specs[kind], rule.Text)
			}
		}
	}
}

// reasons are the conditions and reasons of the API: their texts, with the names of their
// constants.
func reasons(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "conditions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(node ast.Node) bool {
		if constant, ok := node.(*ast.ValueSpec); ok {
			name, err := strconv.Unquote(constant.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			found[name] = constant.Names[0].Name
		}
		return true
	})
	return found
}

var (
	bold = regexp.MustCompile(`(?m)^\*\*([A-Za-z]+)\*\*`)
	// camelCase is how reasons are written.
	camelCase = regexp.MustCompile(`^([A-Z][a-z]+)+(URL)?$`)
	// settings are words of the spec and statuses that the docs of reasons mention.
	settings = []string{"Timestamp", "Manual", "Allow", "Deny", "Latest", "Earliest", "Auto"}
)

func TestTheDocsHaveEveryConditionAndReasonAndNoOther(t *testing.T) {
	docs := docstest.Section(t, specs["EventProcessor"], "## Conditions and their reasons") + docstest.Section(t, specs["Replay"], "## Status")
	named := docstest.Quoted(docs)
	for _, match := range bold.FindAllStringSubmatch(docs, -1) {
		named = append(named, match[1])
	}
	known := reasons(t)
	for name, constant := range known {
		if !slices.Contains(named, name) && !strings.Contains(docs, "**"+name+"**") {
			t.Errorf("docs/spec does not name %s (%s)", name, constant)
		}
	}
	for _, name := range named {
		if known[name] == "" && camelCase.MatchString(name) && !slices.Contains(settings, name) {
			t.Errorf("docs/spec names %s, which is no condition or reason", name)
		}
	}
}

// TestTheOperatorsGuideNamesReasonsThatThereAre, and those that somebody has to act on.
func TestTheOperatorsGuideNamesReasonsThatThereAre(t *testing.T) {
	table := docstest.FirstCells(docstest.Section(t, "../../docs/operations/operator.md", "## Conditions: what they mean, what to do"))
	known := reasons(t)
	for name := range table {
		if known[name] == "" {
			t.Errorf("docs/operations/operator.md names %s, which is no reason", name)
		}
	}
	for name := range docstest.FirstCells(docstest.Section(t, specs["EventProcessor"], "## Conditions and their reasons")) {
		if _, there := table[name]; !there && !slices.Contains(fine, name) {
			t.Errorf("docs/operations/operator.md does not say what to do about %s", name)
		}
	}
}

// fine are reasons about which nobody has to do anything.
var fine = []string{"Ready", "Paused", "Valid", "Unknown", "Reachable", "Healthy", "AllSegmentsOwned", "ReplayRunning", "NotReplaying"}

// TestEveryReasonIsUsed: a reason that nothing says any more is not to be waited for.
func TestEveryReasonIsUsed(t *testing.T) {
	var code strings.Builder
	for _, folder := range []string{"../../controllers", "../../tokenstore", "../../runtime", "../../definition"} {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				code.WriteString(text(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, constant := range reasons(t) {
		used := regexp.MustCompile(`v1alpha1\.` + constant + `\b`).MatchString(code.String())
		if !used && !strings.Contains(code.String(), strconv.Quote(name)) {
			t.Errorf("nothing says %s (%s)", name, constant)
		}
	}
}

// Each row of the table of fields has the field's path, default, bounds and what a change is.
func TestTheDocsHaveEveryFieldAndWhatItsChangeIs(t *testing.T) {
	rows := map[string][]string{}
	for line := range strings.Lines(text(t, specs["EventProcessor"])) {
		if cells := strings.Split(line, "|"); len(cells) == 7 && strings.HasPrefix(cells[1], " `spec.") {
			rows[strings.Trim(cells[1], " `")] = cells
		}
	}
	fields := 0
	for line := range strings.Lines(text(t, "../../definition/testdata/effects.txt")) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		fields++
		row, found := rows[words[0]]
		if !found {
			t.Errorf("no row for %s", words[0])
			continue
		}
		effects := strings.Join(words[1:], " ")
		for effect, word := range map[string]string{"definition": "rollout", "live": "live"} {
			if strings.Contains(effects, effect) != strings.Contains(row[4], word) {
				t.Errorf("a change of %s alters %s, and its row says %q", words[0], effects, row[4])
			}
		}
	}
	if fields != len(rows) {
		t.Errorf("the table has %d rows, the spec %d fields", len(rows), fields)
	}
}
