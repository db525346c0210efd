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
