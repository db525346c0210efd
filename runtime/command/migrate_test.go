package command_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/command"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestTheSecondMigrationHasNothingToDo(t *testing.T) {
	out, err := run(command.Migrate(), "", "--database-url", migrated(t))
	if err != nil || !strings.Contains(out, "nothing to do\nschema sluice is at version ") {
		t.Fatalf("%s, %v", out, err)
	}
}

// TestWorkersRunWithWhatTheyAreGranted migrates by the printed script as a role that owns the tables, and runs a worker as
// one that does not.
func TestWorkersRunWithWhatTheyAreGranted(t *testing.T) {
	url := postgrestest.New(t)
	admin := connect(t, url)
	unique := time.Now().UnixNano()
	owner, runner := fmt.Sprintf("owner_%d", unique), fmt.Sprintf("runner_%d", unique)
	execute(t, admin, fmt.Sprintf(`CREATE ROLE %[1]s; CREATE ROLE %[2]s LOGIN; CREATE SCHEMA app AUTHORIZATION %[2]s;
		DO $$ BEGIN EXECUTE 'GRANT CREATE ON DATABASE ' || current_database() || ' TO %[1]s'; END $$`, owner, runner))
	script, err := run(command.Migrate(), "", "--print", "--owner-role", owner, "--worker-role", runner)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, connect(t, url), script)
	asRunner := strings.Replace(url, "postgres@", runner+"@", 1)

	def, done := declared(t, asRunner)
	target, err := access.FromURL(asRunner)
	if err != nil {
		t.Fatal(err)
	}
	batches := make(chan worker.Batch, 10)
	w := worker.New(worker.Options{Processor: "test/default/p", Pod: "pod", Definition: def, DefinitionID: def.ID(),
		Backend: backend.Postgres{Target: target, Schema: postgres.DefaultSchema, Migrate: true}, DrainTimeout: time.Millisecond, OnBatch: func(b worker.Batch) { batches <- b }})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the worker: %v", err)
		}
	}()
	if _, err := run(command.Append(), "", "s", "T", "--database-url", asRunner); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-batches:
		if b.Err != nil || b.Events != 1 {
			t.Fatalf("got %+v", b)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no batch within 30 s")
	}
	done()
	if _, err := connect(t, asRunner).Exec(context.Background(), "UPDATE sluice.event SET type = 'X'"); err == nil {
		t.Error("the workers' role may change events")
	}
}

// declared makes a processor with one group, and returns what checks the view.
func declared(t *testing.T, url string) (definition.Definition, func()) {
	t.Helper()
	ctx := context.Background()
	document, err := definition.ParseYAML([]byte(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: p}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}
  processingGroups:
  - name: g
    segments: 1
    handler: {type: SQL, sql: {setup: "CREATE TABLE IF NOT EXISTS app.seen (n bigint)", statements: [{eventTypes: [T], batch: INSERT INTO app.seen SELECT position FROM events}]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	target, err := access.FromURL(url)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(postgres.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	def := document.Spec.Definition()
	p := declare.Processor{Owner: tokenstore.Owner{Processor: "test/default/p"}, Spec: document.Spec, Definition: def.ID(), Live: document.Spec.Live(1), Replicas: 1}
	err = declare.Write(ctx, postgres.NewStore(pool, postgres.DefaultSchema), postgres.NewDirectory(pool, postgres.DefaultSchema), p,
		func(string, progress.StartPosition) (progress.Progress, error) { return progress.Progress{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	return def, func() {
		var n int
		if err := pool.QueryRow(ctx, "SELECT count(*) FROM app.seen").Scan(&n); err != nil || n != 1 {
			t.Errorf("the view has %d rows, %v", n, err)
		}
	}
}
