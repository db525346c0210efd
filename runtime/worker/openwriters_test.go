package worker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestAWriterThatStaysOpenIsNamed has one that has begun before the worker and ends before it, and another that was prepared. Their events
// wait for them, and others' do not.
func TestAWriterThatStaysOpenIsNamed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, fmt.Sprintf(viewOf, 4))
	insert := `INSERT INTO sluice.event (stream_id, version, type, data) VALUES ($1, 1, 'Counted', '{"n": 1}')`
	config, err := pgx.ParseConfig(w.url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = "nightly-import"
	importer, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer importer.Close(ctx)
	do := func(sql string, args ...any) {
		t.Helper()
		if _, err := importer.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	gid := fmt.Sprint("forgotten-", importer.PgConn().PID())
	do("BEGIN")
	do(insert, "prepared")
	do(fmt.Sprintf("PREPARE TRANSACTION '%s'", gid))
	end := func() { _, err = importer.Exec(ctx, fmt.Sprintf("COMMIT PREPARED '%s'", gid)) }
	t.Cleanup(func() {
		if end != nil {
			end()
		}
	})
	do("BEGIN")
	do(insert, "open")

	w.start("a")
	w.appendTo(5, 5)
	w.handled(25)
	w.until("both to be named", `SELECT EXISTS (SELECT FROM sluice.worker w, pg_stat_activity a WHERE a.pid = $1
		AND jsonb_path_exists(w.report, '$.openWriters[*] ? (@.pid == $pid && @.application == "nightly-import" && @.user == "postgres")', jsonb_build_object('pid', a.pid))
		AND jsonb_path_exists(w.report, '$.openWriters[*] ? (@.prepared == $gid)', jsonb_build_object('gid', $2::text))
		AND (w.report #>> '{openWriters,1,since}')::timestamptz BETWEEN a.xact_start - interval '1 ms' AND a.xact_start + interval '1 ms')`, importer.PgConn().PID(), gid)
	if n := w.folded(); n != 25 {
		t.Errorf("%d events were handled, want those of nobody who is open", n)
	}
	do("COMMIT")
	if end(); err != nil {
		t.Fatal(err)
	}
	end = nil
	w.handled(27)
	w.until("nobody to be named", `SELECT NOT bool_or(report ? 'openWriters') FROM sluice.worker`)
}
