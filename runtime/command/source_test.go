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
	"github.com/sluice-project/sluice/tokenstore/postgres"
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

func TestImportAxonSaysWhatItNeeds(t *testing.T) {
	for want, args := range map[string][]string{
		"--processor is missing":                          {"axon", "-f", axonSample},
		"--file is missing":                               {"axon", "--processor", "cards"},
		"has no processing group \"balances\"":            {"axon", "-f", axonSample, "--processor", "cards", "--group", "balances"},
		"set sequencing.hash to Java":                     {"axon", "-f", outboxSample, "--processor", "cards"},
		"schema sluice has no event table: run `sluice m": {"axon", "-f", axonSample, "--processor", "cards", "--database-url", postgrestest.New(t)},
	} {
		cmd := Import()
		cmd.SetArgs(args)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

const axonSample = "../../config/samples/axon.yaml"

// The command prepares, takes over and says where each segment goes on.
func TestImportAxonTakesOver(t *testing.T) {
	url := postgrestest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := postgres.Migrate(t.Context(), conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), `
		CREATE TABLE domain_event_entry (global_index bigint PRIMARY KEY, event_identifier varchar(255) NOT NULL, meta_data oid, payload oid NOT NULL, payload_type varchar(255) NOT NULL,
		  time_stamp varchar(255) NOT NULL, aggregate_identifier varchar(255) NOT NULL, sequence_number bigint NOT NULL);
		INSERT INTO domain_event_entry SELECT n, n, NULL, lo_from_bytea(0, '{}'), 'T', '2026-01-01T00:00:00Z', n, 0 FROM generate_series(1, 9) AS n;
		CREATE TABLE tokenentry (processorname varchar(255), segment integer, mask integer, token oid, tokentype varchar(255), timestamp varchar(255), owner varchar(255));
		INSERT INTO tokenentry VALUES ('cards', 0, 1, lo_from_bytea(0, '{"globalIndex":5}'), 'x', '2026-01-01T00:00:00Z', NULL), ('cards', 1, 1, NULL, NULL, '2026-01-01T00:00:00Z', NULL)`)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := runSource(t, "prepare", "-f", axonSample, "--database-url", url); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := Import()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"axon", "-f", axonSample, "--processor", "cards", "--token-table", "public.tokenentry", "--database-url", url})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "segment 0/1 goes on after position 5\nsegment 1/1 goes on after position 0\ngroup card-balances has taken over 2 tokens of cards: apply the EventProcessor\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
