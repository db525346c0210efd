package localpostgres_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
)

func TestARestartedServerKeepsItsData(t *testing.T) {
	ctx := context.Background()
	s := postgrestest.Start(t)
	execute(t, s.URL("postgres"), "CREATE TABLE kept AS SELECT 42 AS n")
	again, err := s.Restart(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	conn, err := pgx.Connect(ctx, again.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var n int
	if err := conn.QueryRow(ctx, "SELECT n FROM kept").Scan(&n); err != nil || n != 42 {
		t.Fatalf("after the restart: %d, %v", n, err)
	}
}

// A shell may have variables for another server.
func TestAServerStartsWhateverVariablesThereAre(t *testing.T) {
	for name, value := range map[string]string{"PGSERVICE": "other", "PGPORT": "1", "PGDATA": "/nowhere", "PGREQUIREAUTH": "md5", "PGDATESTYLE": "other"} {
		t.Setenv(name, value)
	}
	postgrestest.Start(t)
}

func TestEveryTestHasADatabaseOfItsOwn(t *testing.T) {
	execute(t, postgrestest.New(t), "CREATE TABLE mine (n int)")
	execute(t, postgrestest.New(t), "CREATE TABLE mine (n int)")
}

func TestAServerThatCannotStartSaysWhy(t *testing.T) {
	s := postgrestest.Start(t)
	bin, err := localpostgres.Find()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := localpostgres.Start(context.Background(), localpostgres.Options{BinDir: bin, DataDir: s.DataDir()}); err == nil {
		t.Fatal("two servers run on one data directory")
	} else {
		t.Log(err)
	}
}

func TestAServerWhosePortIsInUseNamesTheProcessThatHasIt(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = localpostgres.Start(context.Background(), options(t, taken.Addr().(*net.TCPAddr).Port))
	if err == nil {
		t.Fatal("two servers run on one port")
	}
	for _, part := range []string{taken.Addr().String(), fmt.Sprintf("process %d", os.Getpid())} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
}

// options are those of a server with data of its own.
func options(t *testing.T, port int) localpostgres.Options {
	t.Helper()
	bin, err := localpostgres.Find()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sluice-localpostgres-test-") // t.TempDir's cannot be entered by the server's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return localpostgres.Options{BinDir: bin, DataDir: filepath.Join(dir, "data"), Port: port}
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}
