package worker_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// starting runs a worker whose process began an hour ago, and has not got to know its store since.
func starting(t *testing.T, url string) *worker.Worker {
	t.Helper()
	target, err := access.FromURL(url)
	if err != nil {
		t.Fatal(err)
	}
	w := worker.New(worker.Options{Processor: "test/default/orders", Backend: backend.Postgres{Target: target, Schema: postgres.DefaultSchema, Migrate: true}, Log: slog.New(slog.DiscardHandler)})
	w.Age(time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestAWorkerIsAliveWhileOthersMigrate(t *testing.T) {
	ctx := context.Background()
	url := postgrestest.New(t)
	other, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	class, key := postgres.MigrationLock(postgres.DefaultSchema)
	if _, err := other.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", class, key); err != nil {
		t.Fatal(err)
	}
	w := starting(t, url)
	for waits := 0; waits == 0; time.Sleep(5 * time.Millisecond) {
		err := other.QueryRow(ctx, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&waits)
		if err != nil {
			t.Fatal(err)
		}
	}
	if !w.Alive() {
		t.Error("a worker that waits for a migration is not alive")
	}
}

func TestAWorkerIsAliveWhileItsDatabaseIsSilent(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	w := starting(t, "postgres://app@"+silent.Addr().String()+"/app?sslmode=disable&connect_timeout=300")
	conn, err := silent.Accept() // and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if !w.Alive() {
		t.Error("a worker that waits for an answer is not alive")
	}
}

func TestAWorkerWhoseControlLoopHangsIsNotAlive(t *testing.T) {
	w := worker.New(worker.Options{})
	w.Age(time.Hour)
	w.Hang()
	if w.Alive() {
		t.Error("a control loop that does not turn is taken for alive")
	}
	if w.Turn(); !w.Alive() {
		t.Error("a control loop that turns is not taken for alive")
	}
}
