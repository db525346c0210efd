package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const manifest = `
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: orders}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}
  processingGroups:
  - name: orders
    handler: {type: SQL, sql: {setup: CREATE TABLE IF NOT EXISTS orders (id text), statements: [{eventTypes: [OrderPlaced], batch: INSERT INTO orders SELECT stream_id FROM events}]}}
`

// workshop is a folder with the binary, for a user without privileges.
type workshop struct {
	dir        string
	credential *syscall.Credential
}

func newWorkshop(t *testing.T) workshop {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-binary-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "sluice"), ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "processor.yaml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	w := workshop{dir: dir}
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		w.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w workshop) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "./sluice", args...)
	cmd.Dir = w.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.credential}
	return cmd
}

// TestTheBinaryRunsAProcessorWithoutPrivileges takes an event from `sluice append` to a batch of `sluice dev`, and ends it
// by SIGINT.
func TestTheBinaryRunsAProcessorWithoutPrivileges(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	w := newWorkshop(t)
	dev := w.command(ctx, "dev")
	var stderr bytes.Buffer
	dev.Stderr = &stderr
	stdout, err := dev.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	until := func(text string) {
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("dev ended without showing %q\n%s", text, stderr.String())
	}
	until("orders runs")
	if out, err := w.command(ctx, "append", "order-1", "OrderPlaced", `{"total": 12}`).CombinedOutput(); err != nil || string(out) != "order-1 1\n" {
		t.Fatalf("append: %v\n%s", err, out)
	}
	until("1 event → position 1")
	conflict := w.command(ctx, "append", "order-1", "OrderPlaced", "--expected-version", "none")
	if out, err := conflict.CombinedOutput(); err == nil || conflict.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "is at version 1") {
		t.Errorf("a conflict: %v\n%s", err, out)
	}
	wrong := w.command(ctx, "append", "order-1")
	if out, err := wrong.CombinedOutput(); err == nil || wrong.ProcessState.ExitCode() != 2 {
		t.Errorf("a wrong call: %v\n%s", err, out)
	}
	if err := dev.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := dev.Wait(); err != nil {
		t.Errorf("dev after SIGINT: %v\n%s", err, stderr.String())
	}
	if strings.Contains(stderr.String(), "rror") {
		t.Errorf("dev warned of:\n%s", stderr.String())
	}
}

// TestASecondInterruptEndsAtOnce has a statement that runs for longer than anybody waits. The URL
// that is left behind is not used any more: it may be another server's by then.
func TestASecondInterruptEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	w := newWorkshop(t)
	slow := strings.Replace(manifest, "batch: INSERT INTO orders SELECT stream_id FROM events", "batch: SELECT pg_sleep(600) FROM events", 1)
	if err := os.WriteFile(filepath.Join(w.dir, "processor.yaml"), []byte(slow), 0o644); err != nil {
		t.Fatal(err)
	}
	dev := w.command(ctx, "dev")
	stdout, err := dev.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	until := func(text string) {
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("dev ended without showing %q", text)
	}
	until("orders runs")
	if out, err := w.command(ctx, "append", "order-1", "OrderPlaced").CombinedOutput(); err != nil {
		t.Fatalf("append: %v\n%s", err, out)
	}
	url, err := os.ReadFile(filepath.Join(w.dir, ".sluice", "url"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, strings.TrimSpace(string(url)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for sleeping := false; !sleeping; time.Sleep(10 * time.Millisecond) {
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").Scan(&sleeping); err != nil {
			t.Fatal(err)
		}
	}
	if err := dev.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	until("press Ctrl-C again to end at once")
	began := time.Now()
	if err := dev.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := dev.Wait(); err == nil {
		t.Error("dev ended as if nothing had been interrupted")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := os.Stat(filepath.Join(w.dir, ".sluice", "url")); err != nil {
		t.Errorf("this test is about a URL that is left behind: %v", err)
	}
	late := w.command(ctx, "append", "order-1", "OrderPlaced")
	out, err := late.CombinedOutput()
	if err == nil || late.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "no sluice dev runs in this folder") {
		t.Errorf("append after the end: %v\n%s", err, out)
	}
}

func TestThePluginCallsItselfAsKubectlDoes(t *testing.T) {
	w := newWorkshop(t)
	if err := os.Symlink("sluice", filepath.Join(w.dir, "kubectl-sluice")); err != nil {
		t.Fatal(err)
	}
	cmd := w.command(context.Background(), "status", "--help")
	cmd.Path, cmd.Args[0] = filepath.Join(w.dir, "kubectl-sluice"), "kubectl-sluice"
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "kubectl sluice status [NAME]") {
		t.Fatalf("%v\n%s", err, out)
	}
}
