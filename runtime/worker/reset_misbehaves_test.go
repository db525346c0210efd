package worker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const terminateItself = `SELECT pg_terminate_backend(pg_backend_pid())`

// badResets are SQL resets by what they do.
var badResets = map[string]struct{ sql, says string }{
	"drops what another object needs": {`DROP TABLE seen`, "2BP01"},
	"raises a SQLSTATE of its own":    {`DO 'BEGIN RAISE EXCEPTION USING ERRCODE = ''EV001'', MESSAGE = ''not now''; END'`, "EV001"},
	"updates a row twice":             {`INSERT INTO stream_view VALUES ('a', 1, ''), ('a', 1, '') ON CONFLICT (stream_id) DO UPDATE SET events = 2`, "21000"},
	"has too much for an index":       {`INSERT INTO seen (position, context) SELECT 1, jsonb_build_object('x', repeat('x', 10)); DO 'BEGIN RAISE EXCEPTION USING ERRCODE = ''54000''; END'`, "54000"},
	"is no SQL":                       {`DELETE FORM stream_view`, "42601"},
	"breaks a constraint at the end":  {`DELETE FROM stream_view; INSERT INTO late VALUES (1), (1)`, "23505"},
	"sleeps":                          {`DELETE FROM stream_view; SELECT pg_sleep(600)`, "time limit of 500ms"},
	"has the server not look":         {`SET client_connection_check_interval = 0; SET statement_timeout = 0; SELECT pg_sleep(600)`, "time limit of 500ms"},
	"terminates its backend":          {`DELETE FROM stream_view; ` + terminateItself, "57P01"},
	"loses its rights":                {`DELETE FROM stream_view; CREATE ROLE nobody_%[1]d; SET LOCAL ROLE nobody_%[1]d`, "42501"},
}

// badGoResets are Go resets by what they do.
var badGoResets = map[string]struct {
	reset func(ctx context.Context, tx pgx.Tx) error
	says  string
}{
	"returns an error":              {func(context.Context, pgx.Tx) error { return errors.New("not now") }, "not now"},
	"returns that it was cancelled": {func(context.Context, pgx.Tx) error { return fmt.Errorf("calling: %w", context.Canceled) }, "calling"},
	"panics":                        {func(context.Context, pgx.Tx) error { panic("not now") }, "panicked: not now"},
	"calls Goexit":                  {func(context.Context, pgx.Tx) error { runtime.Goexit(); return nil }, "runtime.Goexit"},
	"closes its connection":         {func(ctx context.Context, tx pgx.Tx) error { return tx.Conn().Close(ctx) }, "clos"},
	"terminates its backend and says nothing": {func(ctx context.Context, tx pgx.Tx) error {
		_, _ = tx.Exec(ctx, terminateItself)
		return nil
	}, ""},
	"swallows an error": {func(ctx context.Context, tx pgx.Tx) error {
		_, _ = tx.Exec(ctx, `SELECT 1 / 0`)
		return nil
	}, "return the statement's error"},
	"sleeps in its transaction": {func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM stream_view`); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}, "time limit of 500ms"},
	"ignores its context": {func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM stream_view`); err != nil {
			return err
		}
		select {}
	}, "ignores that its context has ended"},
	"wraps an error of another server": {func(context.Context, pgx.Tx) error {
		return fmt.Errorf("asking another database: %w", &pgconn.PgError{Code: "XX000", Message: "not mine"})
	}, "not mine"},
}

// badWorld has a group with a time limit of half a second whose reset does what it should not, and one beside it.
func badWorld(t *testing.T, group string) *world {
	t.Helper()
	w := newWorld(t, "\n  - name: view\n    segments: 2\n    timeout: 500ms"+group+"\n  - name: beside\n    segments: 1"+strings.ReplaceAll(view, "stream_view", "beside_view"))
	return w
}

// keepsOn asks that a replay failed as it should, and that nothing of its reset was done: the groups go on where they were.
func (w *world) keepsOn(id, says string) {
	w.t.Helper()
	r := w.replay(id, "failed", in(tokenstore.ReplayFailed))
	if r.Reason != tokenstore.ReplayResetHandlerFails || !strings.Contains(r.Message, "group view") || !strings.Contains(r.Message, says) || r.Attempts < 1 {
		w.t.Errorf("%d attempts, %s: %q does not name the group, or not %q", r.Attempts, r.Reason, r.Message, says)
	}
	w.appendTo(5, 2)
	w.handled(20)
	if n := w.folded(); n != 20 {
		w.t.Errorf("%d events in the view, want 20", n)
	}
	w.until("the tokens under the first generation, and owned", `SELECT bool_and(generation = (SELECT min(generation) FROM sluice.token WHERE group_name = 'beside') AND owner <> 0) FROM sluice.token`)
	w.until("nothing left of the reset", `SELECT count(*) = 0 FROM sluice.processing_group WHERE resetting OR replay IS NOT NULL`)
	w.until("no backend that works for the reset", `SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`)
}

func TestAReplayWhoseResetMisbehavesFailsAndTheGroupGoesOn(t *testing.T) {
	t.Parallel()
	n := 0
	for name, bad := range badResets {
		n++
		sql := bad.sql
		if strings.Contains(sql, "%[1]d") {
			sql = fmt.Sprintf(sql, time.Now().UnixNano())
		}
		t.Run("SQL/"+name, func(t *testing.T) {
			t.Parallel()
			w := badWorld(t, `
    handler:
      type: SQL
      sql:
        setup: |
          CREATE TABLE IF NOT EXISTS stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL);
          CREATE TABLE IF NOT EXISTS seen (n bigserial PRIMARY KEY, position bigint, replay boolean, context jsonb);
          CREATE TABLE IF NOT EXISTS late (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);
          CREATE OR REPLACE VIEW report AS SELECT * FROM seen;
        reset: |
          `+sql+`
        statements:
        - eventTypes: [Counted]
          each: |
            INSERT INTO stream_view AS v (stream_id, events, chain) SELECT stream_id, 1, md5(data ->> 'n') FROM event
            ON CONFLICT (stream_id) DO UPDATE SET events = v.events + 1, chain = md5(v.chain || excluded.chain)`)
			w.appendTo(5, 2)
			w.start("a")
			w.handled(10)
			w.ask(tokenstore.ReplayRequest{ID: "bad"})
			w.keepsOn("bad", bad.says)
		})
	}
	for name, bad := range badGoResets {
		t.Run("Go/"+name, func(t *testing.T) {
			t.Parallel()
			w := badWorld(t, "\n    handler: {type: Go}")
			w.sql(`CREATE TABLE stream_view (stream_id text PRIMARY KEY, events bigint, chain text)`)
			w.handlers = map[string]handler.Handler{"view": handler.WithReset(folding(), func(ctx context.Context, tx pgx.Tx, _ handler.Replay) error { return bad.reset(ctx, tx) })}
			w.appendTo(5, 2)
			w.start("a")
			w.handled(10)
			w.ask(tokenstore.ReplayRequest{ID: "bad"})
			w.keepsOn("bad", bad.says)
		})
	}
}

// folding folds streams as the view's SQL does.
func folding() handler.Handler {
	return handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		_, err := tx.Exec(ctx, `INSERT INTO stream_view AS v (stream_id, events, chain) VALUES ($1, 1, md5($2::jsonb ->> 'n'))
			ON CONFLICT (stream_id) DO UPDATE SET events = v.events + 1, chain = md5(v.chain || excluded.chain)`, e.StreamID, string(e.Data))
		return err
	}, "Counted")
}

// hanging is a reset that ignores its context until the gate opens.
func (w *world) hanging(gate chan struct{}) {
	w.sql(`CREATE TABLE IF NOT EXISTS stream_view (stream_id text PRIMARY KEY, events bigint, chain text)`)
	w.handlers = map[string]handler.Handler{"view": handler.WithReset(folding(), func(ctx context.Context, tx pgx.Tx, _ handler.Replay) error {
		if _, err := tx.Exec(ctx, `DELETE FROM stream_view`); err != nil {
			return err
		}
		<-gate
		return nil
	})}
}

// TestAResetThatHangsIsReportedAndCanBeCancelled has no time limit: nothing but the user ends the reset.
func TestAResetThatHangsIsReportedAndCanBeCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 2\n    timeout: 0s\n    handler: {type: Go}\n  - name: beside\n    segments: 1"+strings.ReplaceAll(view, "stream_view", "beside_view"))
	gate := make(chan struct{})
	defer close(gate)
	w.hanging(gate)
	w.appendTo(5, 2)
	w.start("a")
	w.start("b")
	w.handled(10)
	w.ask(tokenstore.ReplayRequest{ID: "hangs"})
	w.replay("hangs", "running for some time", waitsFor(tokenstore.ReplayResetRuns))
	w.until("the call in a report", `SELECT count(*) = 1 FROM sluice.worker, jsonb_array_elements(report -> 'groups' -> 'view' -> 'calls') AS call
		WHERE call ->> 'kind' = 'Reset' AND call ->> 'replay' = 'hangs' AND (call ->> 'running')::float8 >= 5 AND call ->> 'attempt' = '1'`)
	w.appendTo(5, 2)
	w.until("the other group going on", `SELECT sum(events) = 20 FROM beside_view`)
	began := time.Now()
	w.ask(tokenstore.ReplayRequest{ID: "hangs", State: tokenstore.ReplayToBeCancelled})
	w.replay("hangs", "cancelled", in(tokenstore.ReplayCancelled))
	w.handled(20)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := w.folded(); n != 20 {
		t.Errorf("%d events in the view, want 20", n)
	}
}

// TestAnyWorkerEndsAResetThatIsCancelled has the worker that carries replays out hang: it lives, but does nothing.
func TestAnyWorkerEndsAResetThatIsCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 2"+witnessed)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.registerAlive(ctx)
	w.appendTo(5, 2)
	w.start("a")
	w.until("the view", `SELECT to_regclass('stream_view') IS NOT NULL`)
	w.ask(tokenstore.ReplayRequest{ID: "hangs"})
	r := w.replay("hangs", "pending", in(tokenstore.ReplayPending))
	if err := w.store().BeginReset(ctx, processor, r); err != nil {
		t.Fatal(err)
	}
	try, err := w.store().TryReset(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer try.Close(context.Background())
	called, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- try.Run(ctx, processor, r, nil, progress.Progress{}, tokenstore.ResetRun{Handlers: func(ctx context.Context, tx tokenstore.Tx) error {
			close(called)
			_, err := tx.(pgx.Tx).Exec(ctx, `DELETE FROM stream_view; SELECT pg_sleep(600)`, pgx.QueryExecModeSimpleProtocol)
			return err
		}})
	}()
	<-called
	w.ask(tokenstore.ReplayRequest{ID: "hangs", State: tokenstore.ReplayToBeCancelled})
	if r := w.replay("hangs", "cancelled", in(tokenstore.ReplayCancelled)); !strings.Contains(r.Message, "nothing has happened") {
		t.Errorf("the message is %q", r.Message)
	}
	if err := <-ended; err == nil {
		t.Error("the reset has committed")
	}
	w.until("no group in a reset", `SELECT bool_and(replay IS NULL AND NOT resetting) FROM sluice.processing_group`)
}

// registerAlive registers a worker that was the first to begin, and does nothing but live.
func (w *world) registerAlive(ctx context.Context) {
	w.t.Helper()
	directory := postgres.NewDirectory(w.pool, postgres.DefaultSchema)
	idle := tokenstore.Worker{Incarnation: 0, Nonce: "00000000-0000-4000-8000-000000000000", Pod: "idle", Definition: w.spec.Definition().ID(),
		Handlers: []string{}, Version: "test", Protocol: tokenstore.Protocol, State: tokenstore.Active, Report: tokenstore.Report{Groups: map[string]tokenstore.GroupReport{"view": {Refused: true}}}}
	if err := directory.Register(ctx, processor, idle); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		for ctx.Err() == nil {
			_, _ = directory.Heartbeat(ctx, idle) // the test sees it end where it fails
			time.Sleep(tokenstore.Heartbeat)
		}
	}()
}

// TestAResetThatEndsItsWorkerFails counts the calls that no worker has come back from, which the ledger alone tells.
func TestAResetThatEndsItsWorkerFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 2"+witnessed)
	w.appendTo(5, 2)
	w.ask(tokenstore.ReplayRequest{ID: "kills"})
	r := w.replay("kills", "pending", in(tokenstore.ReplayPending))
	if err := w.store().BeginReset(context.Background(), processor, r); err != nil {
		t.Fatal(err)
	}
	for gone := range int64(5) {
		if _, _, err := w.store().MarkReset(context.Background(), r, 1_000_000+gone); err != nil {
			t.Fatal(err)
		}
	}
	w.start("a")
	if r := w.replay("kills", "failed", in(tokenstore.ReplayFailed)); !strings.Contains(r.Message, "the worker that ran it ended") || r.Attempts < 5 {
		t.Errorf("%d attempts: %q", r.Attempts, r.Message)
	}
	w.handled(10)
}

// TestAResetIsTriedAgainWhileTheDatabaseRefusesIt has no room on the disk, as far as the reset can tell.
func TestAResetIsTriedAgainWhileTheDatabaseRefusesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 2"+strings.Replace(witnessed, "TRUNCATE stream_view;",
		`DO 'BEGIN IF to_regclass(''room'') IS NULL THEN RAISE EXCEPTION USING ERRCODE = ''53100'', MESSAGE = ''no room''; END IF; END'; TRUNCATE stream_view;`, 1))
	w.appendTo(5, 2)
	w.start("a")
	w.handled(10)
	w.ask(tokenstore.ReplayRequest{ID: "waits"})
	r := w.replay("waits", "tried six times", func(r tokenstore.Replay) bool { return r.Attempts >= 6 })
	if r.Phase != tokenstore.ReplayResetting || r.Reason != tokenstore.ReplayWaitsForStore || !strings.Contains(r.Message, "no room") {
		t.Errorf("%s, %s: %q", r.Phase, r.Reason, r.Message)
	}
	w.sql(`CREATE TABLE room ()`)
	w.replay("waits", "complete", in(tokenstore.ReplayComplete))
	if n := w.folded(); n != 10 {
		t.Errorf("%d events in the view", n)
	}
}
