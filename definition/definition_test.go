package definition_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/definition"
)

func exampleSpec() definition.Spec {
	return definition.Spec{
		Store: definition.Store{Type: definition.StorePostgres, Postgres: &definition.Postgres{
			Database: definition.Database{URLSecretRef: &definition.SecretKey{Name: "db"}}}},
		ProcessingGroups: []definition.Group{
			{Name: "view", Handler: definition.Handler{Type: definition.HandlerSQL, SQL: &definition.SQLHandler{
				Statements: []definition.Statement{{EventTypes: []string{"Created", "Validated"}, Batch: "SELECT 1 < 2"}}}}},
			{Name: "validation", Handler: definition.Handler{Type: definition.HandlerGo}},
		},
		Template: json.RawMessage(`{"spec": {"nodeSelector": {"a": "1", "b": "2"}, "priority": 9007199254740993}}`),
	}
}

// The id is in the names of ConfigMaps and in stores, so it must not change from one version to the next.
func TestIDStaysTheSameFromVersionToVersion(t *testing.T) {
	const want = "4ab6d67e42"
	if got := exampleSpec().Definition().ID(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSpecsThatMeanTheSameHaveTheSameID(t *testing.T) {
	want := exampleSpec().Definition().ID()
	for name, edit := range map[string]func(*definition.Spec){
		"defaults filled in":      (*definition.Spec).Default,
		"groups in another order": func(s *definition.Spec) { slices.Reverse(s.ProcessingGroups) },
		"event types in another order": func(s *definition.Spec) {
			slices.Reverse(s.ProcessingGroups[0].Handler.SQL.Statements[0].EventTypes)
		},
		"template in another spelling": func(s *definition.Spec) {
			s.Template = json.RawMessage("{\"spec\":{\n\"priority\":9007199254740993,\"nodeSelector\":{\"b\":\"\\u0032\",\"a\":\"1\"}}}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := exampleSpec()
			edit(&spec)
			if got := spec.Definition().ID(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// TestTheDatabaseOfASourceIsPartOfTheDefinition: workers learn of it by their definition alone.
func TestTheDatabaseOfASourceIsPartOfTheDefinition(t *testing.T) {
	spec := exampleSpec()
	spec.Source = definition.Source{Type: definition.SourceStore, Postgres: &definition.SourcePostgres{
		Database: definition.Database{URLSecretRef: &definition.SecretKey{Name: "events"}}}}
	data, err := json.Marshal(spec.Definition())
	if err != nil {
		t.Fatal(err)
	}
	got, err := definition.ParseDefinition(data)
	if err != nil {
		t.Fatal(err)
	}
	want := &definition.SourcePostgres{Database: definition.Database{URLSecretRef: &definition.SecretKey{Name: "events", Key: "uri"}}, Schema: "sluice"}
	if diff := cmp.Diff(want, got.Source.Postgres); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.ID() == exampleSpec().Definition().ID() {
		t.Error("it does not count")
	}
}

func TestLargeNumbersOfTheTemplateCount(t *testing.T) {
	spec := exampleSpec()
	spec.Template = json.RawMessage(strings.Replace(string(spec.Template), "0993", "0992", 1))
	if spec.Definition().ID() == exampleSpec().Definition().ID() {
		t.Error("9007199254740992 and 9007199254740993 give the same id")
	}
}

func TestAnInvalidTemplateHasAnIDToo(t *testing.T) {
	spec := exampleSpec()
	spec.Template = json.RawMessage(`{"spec":`)
	if id := spec.Definition().ID(); len(id) != 10 || id == exampleSpec().Definition().ID() {
		t.Errorf("got id %q", id)
	}
}

func TestDefinitionLeavesTheSpecAlone(t *testing.T) {
	spec := exampleSpec()
	spec.Definition()
	spec.Live(1)
	if diff := cmp.Diff(exampleSpec(), spec); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
}

func TestDefinitionSurvivesJSON(t *testing.T) {
	want := exampleSpec().Definition()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := definition.ParseDefinition(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.ID(), got.ID()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(want.Groups, got.Groups); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseDefinitionIsStrict(t *testing.T) {
	for name, test := range map[string]struct{ data, want string }{
		"unknown field": {`{"source":{"type":"Store"},"groups":[{"name":"a","hander":{}}]}`, `unknown field "groups[0].hander"`},
		"no groups":     {`{"source":{"type":"Store"},"groups":[]}`, "groups: should have at least 1 items"},
		"two handlers":  {`{"source":{"type":"Store"},"groups":[{"name":"a","handler":{"type":"SQL"}}]}`, "groups[0].handler: exactly one"},
		"not JSON":      {`source`, "reading a definition"},
		"more after it": {`{"source":{"type":"Store"},"groups":[]} {}`, "reading a definition"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := definition.ParseDefinition([]byte(test.data)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}
