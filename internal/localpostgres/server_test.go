package localpostgres_test

import (
	"context"
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
