package worker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/runtime/handler"
)

const claimTokens = "SET epoch = t.epoch + 1, version = t.version + 1, owner = $3"

// atCommit has a trigger run when a transaction commits that has written into the view.
func (w *world) atCommit(body string) {
	w.t.Helper()
	w.exec(`CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + body + ` RETURN NULL; END $$`)
	w.exec(`CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON stream_view DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (NEW.stream_id = 'stream-0') EXECUTE FUNCTION at_commit()`)
}

// handlers of both kinds, which end their transactions in two ways.
func kinds() map[string]func(t *testing.T, segments int) (*world, *pgproxy.Proxy) {
	return kindsOf(func(groups string) string { return groups })
}

// kindsOf is the same with other groups.
func kindsOf(edit func(groups string) string) map[string]func(t *testing.T, segments int) (*world, *pgproxy.Proxy) {
	return map[string]func(*testing.T, int) (*world, *pgproxy.Proxy){
		"SQL": func(t *testing.T, segments int) (*world, *pgproxy.Proxy) {
			return newWorldBehindProxy(t, edit(fmt.Sprintf(viewOf, segments)))
		},
		"Go": func(t *testing.T, segments int) (*world, *pgproxy.Proxy) {
			w, proxy := newWorldBehindProxy(t, edit(fmt.Sprintf(goViewOf, segments)))
			w.addingUnless(func(handler.Event) error { return nil })
			return w, proxy
		},
	}
}

// TestACommitThatStillRunsIsWaitedFor cuts a worker off while the server commits its batch, and lets the commit take its time. The
// worker is back at once, and what it reads tells nothing: it must not have the segment before the outcome is certain. Then it goes
// on from there, whatever that is. Its other segments do not wait.
func TestACommitThatStillRunsIsWaitedFor(t *testing.T) {
	t.Parallel()
	const open = `SELECT pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE datname = current_database() AND locktype = 'advisory' AND objid = 7 AND NOT granted`
	for outcome, endIt := range map[string]string{
		"and succeeds": `SELECT pg_advisory_unlock(7)`,
		"and fails":    `SELECT pg_terminate_backend(pid) FROM (` + open + `) AS o`,
	} {
		for kind, newWorld := range kinds() {
			t.Run(kind+" "+outcome, func(t *testing.T) {
				t.Parallel()
				w, proxy := newWorld(t, 4)
				w.appendSome()
				w.start("a")
				w.caughtUp()
				w.atCommit(`PERFORM pg_advisory_xact_lock_shared(7);`)
				defer w.watch()()
				test := w.session()
				test(`SELECT pg_advisory_lock(7)`)
				before := w.tokenOf("stream-0")
				batch := proxy.Set(pgproxy.Rule{Do: pgproxy.Swallow, When: func(m pgproxy.Message) bool {
					return m.Commits() && m.Ran("advance(", "INTO stream_view")
				}})
				w.appendTo(1, 1)
				batch.WaitFired()
				w.until("the commit to wait", `SELECT EXISTS (`+open+`)`)
				batch.Cut()
				proxy.Set(pgproxy.Rule{Nth: 3, When: func(m pgproxy.Message) bool { return m.Runs() && m.Ran(claimTokens) }}).WaitFired()
				w.appendTo(8, 1)
				w.until("the other segments to go on", `SELECT count(*) > 0 AND bool_and(coalesce(v.events, 0) = s.events)
					FROM (SELECT stream_id, slice, count(*) AS events FROM sluice.event GROUP BY 1, 2) AS s LEFT JOIN stream_view v USING (stream_id)
					WHERE slice & 3 <> $1`, before.segment)
				if during := w.tokenOf("stream-0"); during != before {
					t.Fatalf("the token of the batch was %+v, and is %+v while its commit waits", before, during)
				}
				test(endIt)
				if answer := batch.WaitSettled(); answer.OK() != (outcome == "and succeeds") {
					t.Fatalf("vacuous: the server has answered %+v", answer)
				}
				test(`SELECT pg_advisory_unlock_all()`)
				w.caughtUp()
				w.atRest()
				if after := w.tokenOf("stream-0"); after.epoch <= before.epoch {
					t.Errorf("the segment was not claimed again: %+v before, %+v after", before, after)
				}
			})
		}
	}
}

// TestACommitMayFail has the server refuse a commit, after all statements have succeeded.
func TestACommitMayFail(t *testing.T) {
	t.Parallel()
	for kind, newWorld := range kinds() {
		t.Run(kind+" for now", func(t *testing.T) {
			t.Parallel()
			w, _ := newWorld(t, 2)
			w.exec(`CREATE SEQUENCE refused; CREATE TABLE failed AS SELECT FROM sluice.failure`)
			w.exec(`CREATE FUNCTION failed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO failed DEFAULT VALUES; RETURN NULL; END $$`)
			w.exec(`CREATE TRIGGER failed AFTER INSERT ON sluice.failure FOR EACH ROW EXECUTE FUNCTION failed()`)
			w.atCommit(`IF nextval('refused') <= 8 THEN RAISE 'not now' USING ERRCODE = '40001'; END IF;`)
			defer w.watch()()
			w.appendSome()
			w.start("a")
			w.caughtUp()
			w.until("eight refusals, none of them taken for a fault of an event", `SELECT last_value > 8 AND (SELECT count(*) = 0 FROM failed) FROM refused`)
			w.atRest()
		})
		t.Run(kind+" because of an event", func(t *testing.T) {
			t.Parallel()
			w, _ := newWorld(t, 2)
			w.atCommit(`IF NEW.events > 2 THEN RAISE 'too many' USING ERRCODE = '23514'; END IF;`)
			defer w.watch()()
			w.start("a")
			w.appendTo(8, 4)
			w.until("the attempts to be stored, at the third event of its stream", `SELECT EXISTS (SELECT FROM sluice.failure f JOIN sluice.event e USING (position)
				WHERE f.attempts >= 2 AND e.stream_id = 'stream-0' AND e.version = 3 AND f.message LIKE '%too many%')`)
			w.exec(`DROP TRIGGER at_commit ON stream_view`)
			w.caughtUp()
			w.atRest()
		})
	}
}

// session is a connection of the test's own.
func (w *world) session() (exec func(sql string)) {
	w.t.Helper()
	conn, err := w.pool.Acquire(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(conn.Release)
	return func(sql string) {
		w.t.Helper()
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			w.t.Fatal(err)
		}
	}
}

// standing is where a token stands.
type standing struct{ segment, epoch, version, position int64 }

// tokenOf returns the token of a stream's segment.
func (w *world) tokenOf(stream string) (s standing) {
	w.t.Helper()
	err := w.pool.QueryRow(context.Background(), `SELECT t.segment, t.epoch, t.version, t.position FROM sluice.event e JOIN sluice.token t ON e.slice & t.mask = t.segment
		WHERE e.stream_id = $1 LIMIT 1`, stream).Scan(&s.segment, &s.epoch, &s.version, &s.position)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}
