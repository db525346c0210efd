package worker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// setupWorld has a group with a setup and a time limit of half a second, beside one that needs nothing, and waits until events are handled there.
func setupWorld(t *testing.T, setup string) *world {
	t.Helper()
	w := newWorld(t, `
  - name: beside
    segments: 1`+strings.ReplaceAll(view, "stream_view", "beside_view")+`
  - name: view
    segments: 1
    timeout: 500ms
    handler:
      type: SQL
      sql:
        setup: |
          `+setup+`
        statements:
        - {eventTypes: [Counted], each: "INSERT INTO seen SELECT position FROM event"}`)
	w.sql(`CREATE TABLE seen (position bigint)`)
	w.sql(`CREATE TABLE gate (open boolean)`)
	return w
}

// until the report of a group's fault holds a text, after some attempts at least.
func (w *world) reportsFault(group, reason, says string, attempts int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s of %s that says %q after %d attempts", reason, group, says, attempts), `SELECT count(*) > 0 FROM sluice.worker, LATERAL (SELECT report -> 'groups' -> $1 -> 'fault' AS fault) AS f
		WHERE fault ->> 'reason' = $2 AND fault ->> 'message' LIKE '%handler.sql.setup%' AND position($3 in fault ->> 'message') > 0 AND coalesce((fault ->> 'attempts')::int, 0) >= $4`, group, reason, says, attempts)
}

func TestASetupThatMisbehavesIsReportedAndItsGroupBeginsAfterwards(t *testing.T) {
	t.Parallel()
	const closed = `IF NOT EXISTS (SELECT FROM gate) THEN `
	for name, bad := range map[string]struct{ sql, reason, says string }{
		"updates a row twice":          {`DO 'BEGIN ` + closed + `RAISE EXCEPTION USING ERRCODE = ''21000'', MESSAGE = ''twice''; END IF; END'`, "SetupFailed", "twice"},
		"raises a SQLSTATE of its own": {`DO 'BEGIN ` + closed + `RAISE EXCEPTION USING ERRCODE = ''EV001'', MESSAGE = ''not now''; END IF; END'`, "SetupFailed", "not now"},
		"sleeps":                       {`DO 'BEGIN ` + closed + `PERFORM pg_sleep(600); END IF; END'`, "SetupTimedOut", "time limit of 500ms"},
		"has the server not look":      {`SET client_connection_check_interval = 0; SET statement_timeout = 0; DO 'BEGIN ` + closed + `PERFORM pg_sleep(600); END IF; END'`, "SetupTimedOut", "time limit of 500ms"},
		"terminates its backend":       {`DO 'BEGIN ` + closed + `PERFORM pg_terminate_backend(pg_backend_pid()); END IF; END'`, "SetupFailed", "57P01"},
		"commits, and fails":           {`COMMIT; DO 'BEGIN ` + closed + `RAISE EXCEPTION USING ERRCODE = ''22012'', MESSAGE = ''half''; END IF; END'`, "TransactionEnded", "one transaction"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setupWorld(t, bad.sql)
			w.appendTo(5, 1)
			w.start("a")
			w.reportsFault("view", bad.reason, bad.says, 2)
			w.until("the other group's events", `SELECT sum(events) = 5 FROM beside_view`)
			w.until("no setup noted that has not been run", `SELECT count(*) = 0 FROM sluice.setup WHERE group_name = 'view'`)
			w.until("at most one backend that works for the setup", `SELECT count(*) <= 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`)
			w.sql(`INSERT INTO gate VALUES (true)`)
			if strings.HasPrefix(bad.sql, "COMMIT") {
				return // it stays refused
			}
			w.until("the group's events", `SELECT count(*) = 5 FROM seen`)
		})
	}
}

func TestASetupThatWaitsForALockNamesWhoHasIt(t *testing.T) {
	t.Parallel()
	w := setupWorld(t, "ALTER TABLE gate ADD COLUMN IF NOT EXISTS more int")
	w.edit(strings.Replace(w.groups, "500ms", "1m", 1))
	reader, err := pgx.Connect(context.Background(), w.url+"&application_name=nightly-report")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.Background())
	if _, err := reader.Exec(context.Background(), `BEGIN; SELECT * FROM gate`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	w.appendTo(5, 1)
	w.start("a")
	w.reportsFault("view", "LockNotAvailable", "nightly-report", 0)
	w.until("the other group's events", `SELECT sum(events) = 5 FROM beside_view`)
	if _, err := w.pool.Exec(context.Background(), `SELECT * FROM gate`); err != nil { // in the queue behind the setup, but not for long
		t.Fatal(err)
	}
	if _, err := reader.Exec(context.Background(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	w.until("the group's events", `SELECT count(*) = 5 FROM seen`)
}

func TestASetupThatRunsElsewhereIsNamedAndReported(t *testing.T) {
	t.Parallel()
	w := setupWorld(t, "SELECT 1")
	elsewhere, err := postgres.Open(postgres.Options{Target: w.target(), Application: "another-worker"})
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- postgres.NewDirectory(elsewhere, postgres.DefaultSchema).SetupOnce(ctx, processor, "other", "view", "SELECT pg_sleep(600)", 0)
	}()
	w.until("the other setup", `SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'another-worker' AND wait_event = 'PgSleep'`)
	w.appendTo(5, 1)
	w.start("a")
	w.reportsFault("view", "SetupRuns", "another-worker", 0)
	began := time.Now()
	cancel()
	if err := <-ended; err == nil {
		t.Error("the other setup is done")
	}
	w.until("the group's events", `SELECT count(*) = 5 FROM seen`)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestASetupThatRunsForLongIsInTheReport(t *testing.T) {
	t.Parallel()
	w := setupWorld(t, "DO 'BEGIN IF NOT EXISTS (SELECT FROM gate) THEN PERFORM pg_sleep(600); END IF; END'")
	w.edit(strings.Replace(w.groups, "500ms", "0s", 1))
	w.start("a")
	w.until("the call in the report", `SELECT count(*) = 1 FROM sluice.worker, jsonb_array_elements(report -> 'groups' -> 'view' -> 'calls') AS call
		WHERE call ->> 'kind' = 'Setup' AND (call ->> 'running')::float8 >= 5 AND call ->> 'attempt' = '1'`)
	w.drains["a"]() // does not wait for the setup
}
