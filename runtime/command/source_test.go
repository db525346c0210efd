package command

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/definition"
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

// separateOutbox is the outbox's manifest with the table in a database of its own.
func separateOutbox(t *testing.T) string {
	t.Helper()
	return rewritten(t, outboxSample, "    type: Table\n", "    type: Table\n    postgres: {urlSecretRef: {name: events}}\n")
}

// rewritten is a file with one text replaced.
func rewritten(t *testing.T, file, before, after string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(text, []byte(before)) != 1 {
		t.Fatalf("%s does not have %q once", file, before)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(path, bytes.Replace(text, []byte(before), []byte(after), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSourcePreparePreparesTheTableWhereItIs(t *testing.T) {
	store, events := postgrestest.New(t), postgrestest.New(t)
	conn, err := pgx.Connect(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), `CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL,
		payload jsonb NOT NULL, headers jsonb, created_at timestamptz NOT NULL DEFAULT now())`)
	if err != nil {
		t.Fatal(err)
	}
	manifest := separateOutbox(t)
	if _, err := runSource(t, "prepare", "-f", manifest, "--database-url", store); err == nil || !strings.Contains(err.Error(), "set --source-url or SLUICE_SOURCE_URL") {
		t.Errorf("without the source's URL: %v", err)
	}
	out, err := runSource(t, "prepare", "-f", manifest, "--database-url", store, "--source-url", events)
	if err != nil || !strings.HasSuffix(out, "events can be read from public.outbox\n") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestCommandsAboutTheStoreRefuseEventsOfAnotherDatabase(t *testing.T) {
	url := postgrestest.New(t)
	for name, tc := range map[string]struct {
		cmd  *cobra.Command
		args []string
		want string
	}{
		"rebase": {Rebase(), []string{"-f", separateOutbox(t)}, "the table of spec.source is in a database of its own (spec.source.postgres), and rebase is about the store: leave the manifest out"},
		"import": {Import(), []string{"axon", "--processor", "cards", "-f", rewritten(t, axonSample, "    type: Table\n", "    type: Table\n    postgres: {urlSecretRef: {name: events}}\n")},
			"the events are in a database of their own (spec.source.postgres), and tokens are taken over only where events and store are in one"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.cmd.SetArgs(append(tc.args, "--database-url", url))
			tc.cmd.SilenceErrors, tc.cmd.SilenceUsage = true, true
			if err := tc.cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestAWorkerFindsTheSourceByItsSecretsOrByAURL: the operator mounts the Secrets.
func TestAWorkerFindsTheSourceByItsSecretsOrByAURL(t *testing.T) {
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "events"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "events", "uri"), []byte("postgres://app@mounted/events"), 0o600); err != nil {
		t.Fatal(err)
	}
	declared := definition.SourcePostgres{Database: definition.Database{URLSecretRef: &definition.SecretKey{Name: "events", Key: "uri"}}}
	for host, f := range map[string]workerFlags{
		"mounted": {secrets: folder},
		"given":   {secrets: folder, sourceURL: "postgres://app@given/events"},
	} {
		way, err := f.source(declared)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := way(t.Context()); err != nil || got.Host != host {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	if _, err := (workerFlags{sourceURL: "mysql://db"}).source(declared); err == nil || !strings.Contains(err.Error(), "--source-url: the source's URL must begin") {
		t.Errorf("a URL that is none: %v", err)
	}
}

func TestImportAxonSaysWhatItNeeds(t *testing.T) {
	for want, args := range map[string][]string{
		"--processor is missing":            {"axon", "-f", axonSample},
		"--file is missing":                 {"axon", "--processor", "cards"},
		"processor_name\n--file is missing": {"axon"},
		"3 things keep the tokens from being taken over, and nothing was changed:\n- " + storeManifest + ": spec.source.type is Store": {"axon", "-f", storeManifest, "--processor", "cards"},
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

const storeManifest = "../../config/samples/sql.yaml"

// TestImportAxonNamesAllThatIsMissing has tokens that nothing is right with, in a database that
// nothing is prepared in.
func TestImportAxonNamesAllThatIsMissing(t *testing.T) {
	url := postgrestest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	execute := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	execute(`
		CREATE TABLE domain_event_entry (global_index bigint PRIMARY KEY, event_identifier varchar(255) NOT NULL, meta_data oid, payload oid NOT NULL, payload_type varchar(255) NOT NULL,
		  time_stamp varchar(255) NOT NULL, aggregate_identifier varchar(255) NOT NULL, sequence_number bigint NOT NULL);
		CREATE TABLE token_entry (processor_name varchar(255), segment integer, token bytea, token_type varchar(255), timestamp varchar(255), owner varchar(255));
		INSERT INTO token_entry VALUES ('cards', 0, '{"positions":{}}', 'x', '2026-01-01T00:00:00Z', 'a'), ('cards', 1, NULL, NULL, '2026-01-01T00:00:00Z', 'b'),
		  ('cards', 2, 'x', 'x', '2026-01-01T00:00:00Z', 'b'), ('other', 0, NULL, NULL, '2026-01-01T00:00:00Z', 'c');
		CREATE TABLE dead_letter_entry (dead_letter_id varchar(255) PRIMARY KEY, processing_group varchar(255) NOT NULL);
		INSERT INTO dead_letter_entry VALUES (1, 'cards'), (2, 'cards'), (3, 'other'), (4, 'renamed')`)
	manifest := filepath.Join(t.TempDir(), "cards.yaml")
	sample, err := os.ReadFile(axonSample)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, bytes.Replace(sample, []byte("hash: Java"), []byte("hash: Default"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	importAxon := func(args ...string) (string, error) {
		cmd := Import()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append([]string{"axon", "-f", manifest, "--processor", "cards", "--database-url", url}, args...))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	const letters = ": neither they nor the events behind them would ever be handled. Have Axon process or evict them, by its SequencedDeadLetterProcessor, or give --leave-dead-letters"
	const claimed = ": stop the processor in every instance of the application; where that node has ended without releasing it, give --ended-node "
	_, err = importAxon()
	if err == nil {
		t.Fatal("taken over")
	}
	lines := strings.Split(err.Error(), "\n- ")
	for i, want := range []string{
		"9 things keep the tokens from being taken over, and nothing was changed:",
		manifest + ": group card-balances has the hash Default, and Axon's segments mean something by Java's only: set sequencing.hash to Java",
		"schema sluice has no event table: run `sluice migrate` with this database, or correct --schema",
		"spec.source: ",
		"public.dead_letter_entry has dead letters of the processing group cards (2)" + letters,
		"public.dead_letter_entry has dead letters of the processing group renamed (1)" + letters,
		"segment 0 of cards is claimed by the node a" + claimed + "a",
		"segments 1, 2 of cards are claimed by the node b" + claimed + "b",
		`segment 0 of cards: token "{\"positions\":{}}": its kind is not known`,
		`segment 2 of cards: token "x" is neither JSON nor XML`,
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d: want %q\n%v", i, want, err)
		}
	}
	if len(lines) != 10 {
		t.Errorf("%d lines\n%v", len(lines), err)
	}

	// One after the other is put right.
	execute(`UPDATE token_entry SET owner = NULL, token = NULL`)
	if err := os.WriteFile(manifest, sample, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Migrate(t.Context(), conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	if out, err := runSource(t, "prepare", "-f", manifest, "--database-url", url); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err = importAxon(); err == nil || !strings.HasPrefix(err.Error(), "2 things keep") || strings.Count(err.Error(), letters) != 2 {
		t.Errorf("with dead letters: %v", err)
	}
	execute(`DELETE FROM dead_letter_entry WHERE processing_group = 'renamed'`)
	want := "segment 0/3 goes on after position 0\nsegment 1/1 goes on after position 0\nsegment 2/3 goes on after position 0\n" +
		"dead letters of cards stay in public.dead_letter_entry (2), and nobody handles them\ngroup card-balances has taken over 3 tokens of cards: apply the EventProcessor\n"
	if out, err := importAxon("--leave-dead-letters"); err != nil || out != want {
		t.Errorf("leaving dead letters: %v\n%s", err, out)
	}
	if _, err = importAxon("--leave-dead-letters"); err == nil || err.Error() != "the tokens of cards have been taken over already" {
		t.Errorf("twice: %v", err)
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

// A table that cannot be read afterwards is left as it is, with all that is wrong with it named.
func TestSourcePrepareChecksBeforeItAlters(t *testing.T) {
	const rest = "aggregate_id text NOT NULL, event_type text NOT NULL, payload jsonb NOT NULL, headers jsonb, created_at timestamptz NOT NULL DEFAULT now()"
	for name, c := range map[string]struct {
		table string
		args  []string
		want  []string
	}{
		"a uuid":              {"CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), " + rest + ")", nil, []string{"table.columns.position: the column id has the type uuid"}},
		"a numeric":           {"CREATE TABLE outbox (id numeric PRIMARY KEY, " + rest + ")", nil, []string{"the column id has the type numeric"}},
		"partitions of lists": {"CREATE SEQUENCE s; CREATE TABLE outbox (id bigint DEFAULT nextval('s'), " + rest + ", PRIMARY KEY (id, event_type)) PARTITION BY LIST (event_type); CREATE TABLE outbox_a PARTITION OF outbox FOR VALUES IN ('a')", nil, []string{"no unique index on id alone"}},
		"partitions of time":  {"CREATE TABLE outbox (id bigint, " + rest + ", PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at); CREATE TABLE outbox_a PARTITION OF outbox DEFAULT", nil, []string{"no unique index on id alone", "Inserted needs a column id that takes its default"}},
		"several":             {"CREATE TABLE outbox (id bigint, aggregate_id text, event_type text NOT NULL, payload bytea)", nil, []string{"no column created_at", "aggregate_id may be null", "payload has the type bytea", "no unique index on id alone", "no column headers"}},
		"a cache":             {"CREATE TABLE outbox (id bigserial PRIMARY KEY, " + rest + "); ALTER SEQUENCE outbox_id_seq CACHE 10", nil, []string{"CACHE 10"}},
		"positions below 1":   {"CREATE TABLE outbox (id bigserial PRIMARY KEY, " + rest + "); INSERT INTO outbox (id, aggregate_id, event_type, payload) VALUES (0, 'a', 'b', '{}')", nil, []string{"positions below 1"}},
		"another txid":        {"CREATE TABLE outbox (id bigserial PRIMARY KEY, " + rest + ", txid bigint)", nil, []string{"txid has the type int8"}},
		"no such role":        {"CREATE TABLE outbox (id bigserial PRIMARY KEY, " + rest + ")", []string{"--worker-role", "nobody_has_this"}, []string{"CREATE ROLE \"nobody_has_this\" LOGIN"}},
	} {
		t.Run(name, func(t *testing.T) {
			url := postgrestest.New(t)
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.WithoutCancel(t.Context()))
			if _, err := conn.Exec(t.Context(), c.table); err != nil {
				t.Fatal(err)
			}
			const catalogs = "SELECT (SELECT string_agg(attname || atttypid, ',' ORDER BY attname) FROM pg_attribute WHERE attrelid = 'outbox'::regclass), (SELECT count(*) FROM pg_index WHERE indrelid = 'outbox'::regclass)"
			look := func() (columns string, indexes int) {
				if err := conn.QueryRow(t.Context(), catalogs).Scan(&columns, &indexes); err != nil {
					t.Fatal(err)
				}
				return columns, indexes
			}
			columns, indexes := look()
			_, err = runSource(t, append([]string{"prepare", "-f", outboxSample, "--database-url", url}, c.args...)...)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
			if after, n := look(); after != columns || n != indexes {
				t.Errorf("the table was altered: %s, %d indexes", after, n)
			}
		})
	}
}
