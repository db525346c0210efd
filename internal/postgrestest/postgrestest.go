// Package postgrestest gives tests a real PostgreSQL.
package postgrestest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/localpostgres"
)

const testDirPrefix = "sluice-test-postgres-"

var (
	testServer = sync.OnceValues(startTestServer)
	databases  atomic.Int64
)

// New returns the URL of a new, empty database on a server that all tests of this process share. The server ends with
// the process. A machine without PostgreSQL fails the test.
func New(t testing.TB) string {
	t.Helper()
	s, err := testServer()
	if err != nil {
		t.Fatalf("these tests need a PostgreSQL server (`make test` installs it): %v", err)
	}
	name := fmt.Sprintf("test_%d", databases.Add(1))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatalf("connecting to the test server: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("creating a database for the test: %v", err)
	}
	return s.URL(name)
}

// Start starts a server that the test has for itself, to stop, freeze or restart it.
func Start(t testing.TB) *localpostgres.Server {
	t.Helper()
	s, err := startServer()
	if err != nil {
		t.Fatalf("these tests need a PostgreSQL server (`make test` installs it): %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stopping the test's PostgreSQL: %v", err)
		}
	})
	return s
}

func startTestServer() (*localpostgres.Server, error) {
	if err := removeOld(); err != nil {
		return nil, err
	}
	return startServer()
}

// BinDir is the folder of the programs of the PostgreSQL that tests use: the one that
// SLUICE_TEST_POSTGRES_BIN names, or else the machine's.
func BinDir() (string, error) {
	if bin := os.Getenv("SLUICE_TEST_POSTGRES_BIN"); bin != "" {
		return bin, nil
	}
	return localpostgres.Find()
}

// startServer starts a server on data that no other process has used: numbers of processes come
// again.
func startServer() (*localpostgres.Server, error) {
	bin, err := BinDir()
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", testDirPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	// A crash of the machine is not what tests are about, so nothing is synced to the disk.
	return localpostgres.Start(context.Background(), localpostgres.Options{BinDir: bin, DataDir: data, Settings: map[string]string{
		"fsync": "off", "full_page_writes": "off", "max_connections": "300", "shared_buffers": "128MB",
		"max_prepared_transactions": "50", "log_min_messages": "warning",
	}})
}

// removeOld deletes the directories of test processes that are gone: a process cannot clean up after its own end.
func removeOld() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), testDirPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), testDirPrefix), ".log"), "-")
		if pid, err := strconv.Atoi(owner); err == nil && pid != os.Getpid() && syscall.Kill(pid, 0) == syscall.ESRCH {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}
