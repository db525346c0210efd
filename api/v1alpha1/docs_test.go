package v1alpha1_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/api/rules"
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

func TestTheDocsHaveEveryConditionAndReason(t *testing.T) {
	docs := text(t, specs["EventProcessor"]) + text(t, specs["Replay"])
	file, err := parser.ParseFile(token.NewFileSet(), "conditions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		constant, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		name, err := strconv.Unquote(constant.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(docs, "`"+name+"`") && !strings.Contains(docs, "**"+name+"**") {
			t.Errorf("docs/spec does not name %s (%s)", name, constant.Names[0].Name)
		}
		return true
	})
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
