package command

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
)

func runSource(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := Source()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

const outboxSample = "../../config/samples/outbox.yaml"

// What is printed is what is done: by hand, it leaves nothing to do.
func TestWhatSourcePreparePrintsIsAllThatATableNeeds(t *testing.T) {
	url := postgrestest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), `CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL,
		payload jsonb NOT NULL, headers jsonb, created_at timestamptz NOT NULL DEFAULT now())`)
	if err != nil {
		t.Fatal(err)
	}
	script, err := runSource(t, "prepare", "-f", outboxSample, "--print", "--worker-role", "public")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(script, `GRANT SELECT ON "public"."outbox" TO "public";`) {
		t.Errorf("no grant in\n%s", script)
	}
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "--") || strings.HasPrefix(line, "GRANT") {
			continue
		}
		if _, err := conn.Exec(t.Context(), line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	out, err := runSource(t, "prepare", "-f", outboxSample, "--database-url", url)
	if err != nil || out != "events can be read from public.outbox\n" {
		t.Errorf("afterwards %q, error %v", out, err)
	}
}

func TestSourcePrepareSaysWhatItNeeds(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store.yaml")
	text := "apiVersion: sluice.dev/v1alpha1\nkind: EventProcessor\nmetadata: {name: a}\nspec:\n  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}\n  processingGroups: [{name: a, handler: {type: Go}}]\n"
	if err := os.WriteFile(store, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--file is missing":              {"prepare"},
		"only a Table has to be":         {"prepare", "-f", store},
		"has no table public.outbox":     {"prepare", "-f", outboxSample, "--database-url", postgrestest.New(t)},
		"reading the manifest: open no.": {"prepare", "-f", "no.yaml"},
	} {
		if _, err := runSource(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
