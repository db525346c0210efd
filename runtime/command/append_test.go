package command_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/command"
)

// run runs a command with arguments and returns what it wrote.
func run(cmd *cobra.Command, input string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(input))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

func migrated(t *testing.T) string {
	t.Helper()
	url := postgrestest.New(t)
	if out, err := run(command.Migrate(), "", "--database-url", url); err != nil || !strings.Contains(out, "applied 0001_store") {
		t.Fatalf("migrating: %v\n%s", err, out)
	}
	return url
}

func TestAppendPrintsTheVersionAndRefusesAConflict(t *testing.T) {
	url := migrated(t)
	appendTo := func(args ...string) (string, error) {
		return run(command.Append(), "", append(args, "--database-url", url)...)
	}
	if out, err := appendTo("order-1", "OrderPlaced", `{"total": 12}`, "--expected-version", "none", "--metadata", `{"by": "me"}`); err != nil || out != "order-1 1\n" {
		t.Fatalf("%q, %v", out, err)
	}
	if out, err := appendTo("order-1", "OrderPaid", "--expected-version", "1"); err != nil || out != "order-1 2\n" {
		t.Fatalf("%q, %v", out, err)
	}
	_, err := appendTo("order-1", "OrderPaid", "--expected-version", "1")
	if !errors.Is(err, eventspostgres.ErrConflict) || !strings.Contains(err.Error(), "is at version 2 (expected: version 1)") {
		t.Fatalf("got %v", err)
	}
}

// TestAppendWritesWhereTheEventsAre also if the store is named.
func TestAppendWritesWhereTheEventsAre(t *testing.T) {
	store, events := migrated(t), migrated(t)
	t.Setenv("SLUICE_SOURCE_URL", events)
	for name, args := range map[string][]string{
		"order-1": {"--source-url", events},
		"order-2": {"--source-url", events, "--database-url", store},
		"order-3": {"--database-url", store}, // and the variable
	} {
		if out, err := run(command.Append(), "", append([]string{name, "OrderPlaced"}, args...)...); err != nil || out != name+" 1\n" {
			t.Errorf("%q, %v", out, err)
		}
	}
	holds(t, store, "")
	holds(t, events, "order-1 order-2 order-3")
}

// TestAppendFindsTheEventsOfTheDevThatRuns: the folder has the URLs of both databases.
func TestAppendFindsTheEventsOfTheDevThatRuns(t *testing.T) {
	store, events := migrated(t), migrated(t)
	t.Setenv("SLUICE_SOURCE_URL", "")
	t.Setenv("SLUICE_DATABASE_URL", "")
	t.Chdir(t.TempDir())
	if err := os.Mkdir(".sluice", 0o755); err != nil {
		t.Fatal(err)
	}
	publish := func(name, url string) {
		file, err := os.Create(filepath.Join(".sluice", name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		if _, err := file.WriteString(url + "\n"); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			t.Fatal(err)
		}
	}
	publish("url", store)
	if out, err := run(command.Append(), "", "order-1", "OrderPlaced"); err != nil || out != "order-1 1\n" {
		t.Fatalf("%q, %v", out, err)
	}
	publish("source-url", events)
	if out, err := run(command.Append(), "", "order-2", "OrderPlaced"); err != nil || out != "order-2 1\n" {
		t.Fatalf("%q, %v", out, err)
	}
	holds(t, store, "order-1")
	holds(t, events, "order-2")
}

// holds checks which streams a database has events of.
func holds(t *testing.T, url, want string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var streams string
	if err := conn.QueryRow(ctx, "SELECT coalesce(string_agg(stream_id, ' ' ORDER BY stream_id), '') FROM sluice.event").Scan(&streams); err != nil {
		t.Fatal(err)
	}
	if streams != want {
		t.Errorf("%s has events of %q, want %q", url, streams, want)
	}
}

func TestAppendTakesAFileWhollyOrNotAtAll(t *testing.T) {
	url := migrated(t)
	file := filepath.Join(t.TempDir(), "events.jsonl")
	lines := `{"stream":"a","type":"T"}` + "\n" + `{"stream":"a","type":"T"}` + "\n" + `{"stream":"b","type":"T","data":{"n":1}}` + "\n"
	if err := os.WriteFile(file, []byte(lines+`{"stream":"b"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(command.Append(), "", "--file", file, "--database-url", url); err == nil || !strings.Contains(err.Error(), `line 4: field "type"`) {
		t.Fatalf("got %v", err)
	}
	if out, err := run(command.Append(), lines, "--file", "-", "--database-url", url); err != nil || out != "a 2\nb 1\n" {
		t.Fatalf("%q, %v", out, err)
	}
}

func TestAppendSaysWhatIsWrongWithACall(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("SLUICE_DATABASE_URL", "")
	for want, args := range map[string][]string{
		"expected STREAM TYPE [DATA]":   {"order-1"},
		"DATA is not JSON":              {"order-1", "T", "{total: 1}"},
		"--metadata is not JSON":        {"order-1", "T", "--metadata", "x"},
		"--expected-version is":         {"order-1", "T", "--expected-version", "-1"},
		"give either --file or STREAM":  {"order-1", "T", "--file", "x"},
		"no sluice dev runs in this":    {"order-1", "T"},
		"has no event table: run `slui": {"order-1", "T", "--database-url", postgrestest.New(t)},
		"--source-url: the source's UR": {"order-1", "T", "--source-url", "mysql://db"},
	} {
		if _, err := run(command.Append(), "", args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
}
