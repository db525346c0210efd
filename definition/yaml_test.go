package definition_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/definition"
)

// The first line of each manifest is the problem that it has. The API server is held to the same manifests.
func TestParseYAMLRefusesWhatTheAPIServerRefuses(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, _, _ := strings.Cut(strings.TrimPrefix(string(data), "# "), "\n")
			_, err = definition.ParseYAML(data)
			var invalid *definition.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got error %v, want problem %q", err, want)
			}
			got := make([]string, len(invalid.Problems))
			for i, problem := range invalid.Problems {
				got[i] = problem.String()
			}
			if !slices.Equal(got, []string{want}) {
				t.Errorf("got problems\n%s\nwant only\n%s", strings.Join(got, "\n"), want)
			}
		})
	}
}

const minimal = `
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: payments, namespace: shop, labels: {team: money}}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}
  processingGroups:
  - name: view
    handler: {type: Go}
    onError: {backoff: {max: 90s}}
`

func TestASequencingWithoutATypeIsByStream(t *testing.T) {
	got, err := definition.ParseYAML([]byte(strings.Replace(minimal, "    handler:", "    sequencing: {hash: Java}\n    handler:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if by := got.Spec.ProcessingGroups[0].Sequencing.Policy().String(); by != "Stream/java" {
		t.Errorf("got %s", by)
	}
}

func TestAStatementWithoutEventTypesIsForAll(t *testing.T) {
	const sql = "{type: SQL, sql: {statements: [{batch: SELECT}]}}"
	got, err := definition.ParseYAML([]byte(strings.Replace(minimal, "{type: Go}", sql, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if types := got.Spec.ProcessingGroups[0].Handler.SQL.Statements[0].EventTypes; types != nil {
		t.Errorf("got %q", types)
	}
}

func TestParseYAMLFillsInDefaults(t *testing.T) {
	got, err := definition.ParseYAML([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	one := int32(1)
	want := definition.Document{Name: "payments", Namespace: "shop", Spec: definition.Spec{
		DesiredState:   definition.Running,
		Replicas:       &one,
		DeletionPolicy: definition.Retain,
		Lease:          "5s",
		ErrorDetails:   definition.DetailsHidden,
		Store: definition.Store{Type: definition.StorePostgres, Postgres: &definition.Postgres{
			Database:   definition.Database{URLSecretRef: &definition.SecretKey{Name: "db", Key: "uri"}},
			Schema:     "sluice",
			Migrations: definition.MigrationsAuto,
		}},
		Source: definition.Source{Type: definition.SourceStore},
		ProcessingGroups: []definition.Group{{
			Name:            "view",
			Segments:        16,
			Sequencing:      definition.Sequencing{Type: definition.PerStream, Hash: definition.HashDefault},
			InitialPosition: definition.InitialPosition{Type: definition.Earliest},
			MaxBatchSize:    5000,
			Timeout:         "1m0s",
			DesiredState:    definition.Running,
			Handler:         definition.Handler{Type: definition.HandlerGo, Rows: definition.RowsShared, Go: &definition.GoHandler{Handler: "view"}},
			OnError: definition.OnError{
				MaxAttempts: 5,
				Backoff:     definition.Backoff{Initial: "1s", Max: "1m30s"},
				Then:        definition.ThenBlock,
			},
		}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	again := got.Spec
	again.Default()
	if diff := cmp.Diff(got.Spec, again); diff != "" {
		t.Errorf("Default changes a spec that has its defaults (-before +after)\n%s", diff)
	}
}

func TestParseYAMLFillsInDefaultsOfASourceInADatabaseOfItsOwn(t *testing.T) {
	const source = "{postgres: {connection: {host: events, database: shop, usernameSecretRef: {name: events, key: user}}, tls: {}}}"
	got, err := definition.ParseYAML([]byte(strings.Replace(minimal, "  processingGroups:", "  source: "+strings.Replace(source, "{", "{type: Store, ", 1)+"\n  processingGroups:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := definition.Source{Type: definition.SourceStore, Postgres: &definition.SourcePostgres{Schema: "sluice", Database: definition.Database{
		Connection: &definition.Connection{Host: "events", Port: 5432, Database: "shop", UsernameSecretRef: definition.SecretKey{Name: "events", Key: "user"}},
		TLS:        &definition.TLS{Mode: definition.TLSVerifyFull},
	}}}
	if diff := cmp.Diff(want, got.Spec.Source); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseYAMLKeepsZeroReplicas(t *testing.T) {
	got, err := definition.ParseYAML([]byte(strings.Replace(minimal, "spec:", "spec:\n  replicas: 0", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if *got.Spec.Replicas != 0 {
		t.Errorf("got %d replicas, want 0", *got.Spec.Replicas)
	}
}

func TestParseYAMLPicksTheProcessorOfAManifest(t *testing.T) {
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {note: '--- not a separator', " +
		"text: \"a\\n---\\nb\"}\n"
	for name, manifest := range map[string]string{
		"alone":               minimal,
		"after another kind":  secret + "---" + minimal,
		"before another kind": "---" + minimal + "--- # the rest\n" + secret,
		"with empty ones":     "# a comment\n---\n---" + minimal + "---\n",
		"with Windows lines":  strings.ReplaceAll("---"+minimal+"---\n"+secret, "\n", "\r\n"),
		"on a separator's line": secret + "--- {apiVersion: sluice.dev/v1alpha1, kind: EventProcessor, metadata: {name: payments}, " +
			"spec: {store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}, processingGroups: [{name: a, handler: {type: Go}}]}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := definition.ParseYAML([]byte(manifest))
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != "payments" {
				t.Errorf("got name %q", got.Name)
			}
		})
	}
}

func TestParseYAMLNamesWhatIsWrongWithAFile(t *testing.T) {
	for name, test := range map[string]struct{ manifest, want string }{
		"none":          {"kind: ConfigMap\napiVersion: v1\n", "has 0 objects of kind EventProcessor"},
		"two":           {minimal + "---" + minimal, "has 2 objects of kind EventProcessor"},
		"other version": {strings.Replace(minimal, "v1alpha1", "v2", 1), "use sluice.dev/v1alpha1"},
		"broken YAML":   {"kind: EventProcessor\n  a: b\n", "document 1"},
		"repeated key":  {minimal + "    name: other\n", `"name" already set`},
		"wrong type":    {strings.Replace(minimal, "{type: Go}", "{type: Go}\n    segments: many", 1), "spec.processingGroups[0].segments: must be of type integer, not string"},
		"wrong type, in lists": {strings.Replace(minimal, "{type: Go}", "{type: Go}\n  - name: other\n    handler: {type: SQL, sql: {statements: [{batch: SELECT}, {eventTypes: [A, {b: 1}, C]}]}}", 1),
			"spec.processingGroups[1].handler.sql.statements[1].eventTypes[1]: must be of type string, not object"},
		"an object for a list": {strings.Replace(minimal, "{type: Go}", "{type: SQL, sql: {statements: {batch: SELECT}}}", 1), "spec.processingGroups[0].handler.sql.statements: must be of type array, not object"},
		"a fraction":           {strings.Replace(minimal, "{type: Go}", "{type: Go}\n    segments: 1.5", 1), "spec.processingGroups[0].segments: must be of type integer, not number 1.5"},
		"a text for an object": {strings.Replace(minimal, "{type: Go}", "Go", 1), "spec.processingGroups[0].handler: must be of type object, not string"},
		"a truth value":        {strings.Replace(minimal, "name: view", "name: true", 1), "spec.processingGroups[0].name: must be of type string, not bool"},
		"byte order mark":      {"\ufeff" + strings.Replace(minimal, "name: view", "name: 1", 1), "spec.processingGroups[0].name: must be of type string"},
		"unknown at root":      {minimal + "extra: 1\n", `unknown field "extra"`},
		"other case":           {strings.Replace(minimal, "handler:", "Handler:", 1), `unknown field "spec.processingGroups[0].Handler"`},
		"no spec":              {"apiVersion: sluice.dev/v1alpha1\nkind: EventProcessor\nmetadata: {name: a}\n", "spec.store.type: Required value"},
		"template":             {minimal + "  template: [1]\n", "spec.template: must be a pod template"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := definition.ParseYAML([]byte(test.manifest))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestParseSpecReadsWhatParseYAMLReads(t *testing.T) {
	want, err := definition.ParseYAML([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(want.Spec)
	if err != nil {
		t.Fatal(err)
	}
	got, err := definition.ParseSpec(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Spec, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for data, want := range map[string]string{
		`{"extra": 1}`: `unknown field "spec.extra"`,
		`{}`:           "spec.store.type: Required value",
		`[]`:           "spec: must be of type object, not array",
		`{`:            "reading an object of kind EventProcessor",
	} {
		if _, err := definition.ParseSpec([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", data, err, want)
		}
	}
}
