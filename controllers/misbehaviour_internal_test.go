package controllers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	eventpostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// callSite is the kind of call in which a group misbehaves.
type callSite string

const (
	sqlEach, sqlBatch, sqlSetup, sqlReset callSite = "SQL each", "SQL batch", "SQL setup", "SQL reset"
	goEach, goSet, goQueue, goReset       callSite = "Go each", "Go set", "Go queue", "Go reset"
)

// expectation is what a condition has to say of a group that misbehaves at an event.
type expectation struct {
	condition, reason string
	passing           bool // counts neither against the event nor the definition; a condition names it all the same
}

func ofEvent(reason string) expectation {
	return expectation{condition: "Degraded=True SegmentBlocked", reason: reason}
}

func passing(reason string) expectation {
	return expectation{condition: "Degraded=True SegmentBlocked", reason: reason, passing: true}
}

func ofDefinition(condition, reason string) expectation {
	return expectation{condition: "HandlerValid=False " + condition, reason: reason}
}

// misbehaviour is what a group does until it is mended.
type misbehaviour struct {
	sql       string // in a function of the database, which the group calls
	statement string // for an event, instead of one that calls the function
	commands  string // of a setup or a reset, which nothing mends but an edit
	do        func(ctx context.Context, r *row, tx pgx.Tx) error
	queue     func(r *row, batch *pgx.Batch) error
	want      expectation
	says      string     // by setups and resets
	often     bool       // the other group has to go on after many attempts, too
	in        []callSite // the calls to test; all that are possible, if empty
	not       []callSite
	cause     func(r *row) // before it begins
}

// sites are the calls in which the group can misbehave in this way.
func (m misbehaviour) sites() (all []callSite) {
	if m.in != nil {
		return m.in
	}
	if m.sql != "" || m.statement != "" {
		all = append(all, sqlEach, sqlBatch)
	}
	if m.sql != "" || m.commands != "" {
		all = append(all, sqlSetup, sqlReset)
	}
	if m.do != nil {
		all = append(all, goSet, goReset)
	}
	if m.do != nil || m.sql != "" {
		all = append(all, goEach)
	}
	if m.queue != nil {
		all = append(all, goQueue)
	}
	return slices.DeleteFunc(all, func(p callSite) bool { return slices.Contains(m.not, p) })
}

// raises is an error with a SQLSTATE.
func raises(code string, want expectation, sites ...callSite) misbehaviour {
	return misbehaviour{sql: "RAISE EXCEPTION 'no' USING ERRCODE = '" + code + "'", want: want, says: code, in: append(sites, sqlEach)}
}

// returns is an error of Go.
func returns(err error, want expectation) misbehaviour {
	return misbehaviour{do: func(context.Context, *row, pgx.Tx) error { return fmt.Errorf("asking: %w", err) }, want: want, says: "asking", in: []callSite{goEach}}
}

// sends is a statement of Go.
func sends(sql string, want expectation, says string) misbehaviour {
	return misbehaviour{do: func(ctx context.Context, r *row, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, r.own(sql))
		return err
	}, want: want, says: says, not: []callSite{goSet}}
}

var (
	failed   = ofEvent(handler.ReasonFailed)
	timedOut = ofEvent(handler.ReasonTimedOut)
	unended  = ofEvent("CallDidNotEnd")
	ending   = ofDefinition("TransactionEnded", "TransactionEnded")
	server   = passing(handler.ReasonServerError)
	invalid  = func(reason string) expectation { return ofDefinition("StatementInvalid", reason) }
)

const instead = "return nil instead"

// nilError panics when it is asked for its text.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// misbehaviours by what the group does.
var misbehaviours = map[string]misbehaviour{
	// Errors.
	"divides by zero":       {sql: "PERFORM 1 / 0", want: failed, says: "22012"},
	"raises an exception":   {sql: "RAISE EXCEPTION 'no'", want: failed, says: "P0001", in: []callSite{sqlEach, sqlBatch}},
	"breaks a unique key":   {sql: "INSERT INTO public.once_{id} VALUES (1), (1)", want: failed, says: "once_{id}_pkey", in: []callSite{sqlEach, sqlBatch, sqlSetup, sqlReset}},
	"breaks it at COMMIT":   {sql: "INSERT INTO public.late_{id} VALUES (1), (1)", want: failed, says: "late_{id}_i_key"},
	"reads no number":       {sql: "PERFORM ('o' || 'ne')::int", want: failed, says: "22P02", in: []callSite{sqlEach}},
	"says very much":        {sql: "RAISE EXCEPTION '%', repeat('no ', 100000)", want: failed, says: "no no no", in: []callSite{sqlEach, sqlSetup, sqlReset}},
	"raises SL001":          raises("SL001", failed, sqlReset), // which is the fence's
	"raises 21000":          raises("21000", failed),
	"raises 54000":          raises("54000", failed),
	"raises AC001":          raises("AC001", failed),
	"raises XX000":          raises("XX000", failed),
	"names a missing table": {sql: "PERFORM FROM public.missing_{id}", want: invalid("TableMissing"), says: "42P01", in: []callSite{sqlEach, sqlBatch, sqlSetup, sqlReset}},
	"is left by its table": {statement: "INSERT INTO public.b_{id} SELECT 1 FROM {events}", want: invalid("TableMissing"), cause: func(r *row) {
		r.exec(`ALTER TABLE b_{id} RENAME TO gone_{id}`)
		r.undo = append(r.undo, `ALTER TABLE gone_{id} RENAME TO b_{id}`)
	}},
	"is left by its column": {statement: "INSERT INTO public.b_{id} (i) SELECT 1 FROM {events}", want: invalid("ColumnMissing"), cause: func(r *row) {
		r.exec(`ALTER TABLE b_{id} RENAME i TO gone`)
		r.undo = append(r.undo, `ALTER TABLE b_{id} RENAME gone TO i`)
	}},
	"names a missing column":     {sql: "PERFORM nothing FROM public.seen_{id}", want: invalid("ColumnMissing"), says: "42703", in: []callSite{sqlEach, sqlReset}},
	"calls a missing function":   {sql: "PERFORM nothing()", want: invalid("StatementInvalid"), says: "42883", in: []callSite{sqlEach}},
	"is no SQL":                  {sql: "EXECUTE 'SELEKT 1'", want: invalid("SyntaxError"), says: "42601", in: []callSite{sqlEach, sqlReset}},
	"has no rights":              {sql: "SET LOCAL ROLE nobody; PERFORM FROM public.seen_{id}", want: invalid("PermissionDenied"), says: "42501", in: []callSite{sqlEach, sqlSetup, sqlReset, goEach}},
	"looks elsewhere for tables": {sql: "PERFORM set_config('search_path', 'pg_temp', false), count(*) FROM public.a_{id}; EXECUTE 'SELECT FROM seen_{id}'", want: invalid("TableMissing"), says: "42P01", in: []callSite{sqlEach, sqlSetup}},
	"raises 0A000":               raises("0A000", invalid("StatementInvalid")),
	"raises 3F000":               raises("3F000", invalid("StatementInvalid")),
	"raises 26000":               raises("26000", invalid("StatementInvalid"), sqlReset),
	"returns an error":           {do: func(context.Context, *row, pgx.Tx) error { return errors.New("no") }, want: failed, says: "no", in: []callSite{goEach, goSet, goReset}},
	"returns context.Canceled":   returns(context.Canceled, failed),
	"returns that it is late":    returns(context.DeadlineExceeded, timedOut),
	"returns io.EOF":             returns(io.EOF, failed),
	"returns net.ErrClosed":      returns(net.ErrClosed, failed),
	"returns pgx.ErrTxClosed":    returns(pgx.ErrTxClosed, failed),
	"returns that it is fenced":  returns(tokenstore.ErrFenced, failed),
	"returns that it is not due": {do: func(context.Context, *row, pgx.Tx) error {
		return &tokenstore.NotDueError{Reason: tokenstore.ReplayMoved, Message: "no"}
	},
		want: failed, says: "no", in: []callSite{goEach, goReset}},
	"returns another server's":    returns(&pgconn.PgError{Severity: "FATAL", Code: "57P01", Message: "no"}, server),
	"returns what is not text":    {do: func(context.Context, *row, pgx.Tx) error { return errors.New(strings.Repeat("no \x00\xff", 100_000)) }, want: failed, says: "no \uFFFD", in: []callSite{goEach, goReset}},
	"returns nothing that speaks": {do: func(context.Context, *row, pgx.Tx) error { return (*nilError)(nil) }, want: ofEvent(handler.ReasonPanicked), says: "nilError", in: []callSite{goEach, goReset}},
	"swallows an error": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		_, _ = tx.Exec(ctx, "SELECT 1 / 0")
		return nil
	}, want: failed, says: "return the statement's error", in: []callSite{goEach, goSet, goReset}},
	"panics": {do: func(context.Context, *row, pgx.Tx) error { panic("no") }, queue: func(*row, *pgx.Batch) error { panic("no") },
		want: ofEvent(handler.ReasonPanicked), says: "panicked"},
	"follows a nil pointer": {do: func(context.Context, *row, pgx.Tx) error {
		var r *row
		r.calls.Add(1)
		return nil
	}, want: ofEvent(handler.ReasonPanicked), says: "nil pointer", in: []callSite{goEach}},
	"calls Goexit": {do: func(context.Context, *row, pgx.Tx) error {
		runtime.Goexit()
		return nil
	}, queue: func(*row, *pgx.Batch) error {
		runtime.Goexit()
		return nil
	}, want: ofEvent(handler.ReasonExited), says: "Goexit"},
	"queues what fails": {queue: func(_ *row, batch *pgx.Batch) error {
		batch.Queue("SELECT 1 / 0")
		return nil
	}, want: failed},
	"returns an error and queues": {queue: func(_ *row, batch *pgx.Batch) error {
		batch.Queue("SELECT 1")
		return errors.New("no")
	}, want: failed},
	"finds a result wrong": {queue: func(_ *row, batch *pgx.Batch) error {
		batch.Queue("SELECT 1").Query(func(pgx.Rows) error { return errors.New("no") })
		return nil
	}, want: failed},

	// Time.
	"sleeps in a statement": {sql: "PERFORM pg_sleep(60)", want: timedOut, says: "time limit",
		queue: func(_ *row, batch *pgx.Batch) error {
			batch.Queue("SELECT pg_sleep(60)")
			return nil
		}},
	"computes for long": {sql: "PERFORM count(*) FROM generate_series(1, 1000000000)", want: timedOut, says: "time limit", in: []callSite{sqlEach, sqlSetup}},
	"waits for its context": {do: func(ctx context.Context, _ *row, _ pgx.Tx) error {
		<-ctx.Done()
		return ctx.Err()
	}, want: timedOut, says: "time limit"},
	"ignores its context": {do: func(ctx context.Context, r *row, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT 1"); err != nil { // it keeps a connection
			return err
		}
		<-r.mended
		return nil
	}, want: timedOut, says: "time limit", often: true},
	"ignores it and spins": {do: func(_ context.Context, r *row, _ pgx.Tx) error {
		for {
			select {
			case <-r.mended:
				return nil
			case <-time.After(time.Millisecond):
			}
		}
	}, want: timedOut, says: "time limit", in: []callSite{goEach}},
	"sleeps in its transaction": {do: func(ctx context.Context, r *row, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT 1"); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}, want: timedOut, says: ".", not: []callSite{goReset}}, // which may be done all the same
	"lets the server end its rest": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET idle_in_transaction_session_timeout = '20ms'"); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		_, err := tx.Exec(ctx, "SELECT 1")
		return err
	}, want: ofEvent("(HandlerTimedOut|CallDidNotEnd)"), says: ".", in: []callSite{goEach}},
	"has a time limit of its own": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SET statement_timeout = '20ms'")
		if err == nil {
			_, err = tx.Exec(ctx, "SELECT pg_sleep(60)")
		}
		return err
	}, want: timedOut, says: "57014", in: []callSite{goEach}},
	"gives a statement no time": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		_, err := tx.Exec(short, "SELECT pg_sleep(60)")
		return err
	}, want: timedOut, says: ".", in: []callSite{goEach}},
	"cancels its statement": {sql: "PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(60)", want: timedOut, says: "57014", in: []callSite{sqlEach, sqlSetup, goEach}},
	"raises 57014":          raises("57014", timedOut, sqlReset),
	"raises 25P03":          raises("25P03", timedOut),
	"raises 25P04":          raises("25P04", timedOut),

	// Others are in the way.
	"waits for a lock": {sql: "LOCK TABLE public.a_{id}", want: timedOut, says: "(time limit|waits for locks)",
		cause: func(r *row) { r.keep("LOCK TABLE a_{id}") }},
	"waits for a lock but shortly": {sql: "SET LOCAL lock_timeout = '20ms'; LOCK TABLE public.a_{id}", want: passing("LockNotAvailable"), says: "(55P03|waits for locks)",
		cause: func(r *row) { r.keep("LOCK TABLE a_{id}") }, in: []callSite{sqlEach, sqlSetup, sqlReset}},
	"deadlocks": {sql: `SET LOCAL deadlock_timeout = '20ms'; LOCK TABLE public.a_{id};
		WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'public.a_{id}'::regclass AND NOT granted) LOOP PERFORM pg_sleep(0.005); END LOOP;
		LOCK TABLE public.b_{id}`, want: passing("TransactionRolledBack"), says: "(40P01|waits for locks)",
		cause: func(r *row) {
			r.keep("SET deadlock_timeout = '1h'; LOCK TABLE b_{id}", "SAVEPOINT s", "LOCK TABLE a_{id}", "ROLLBACK TO s", "SELECT pg_sleep(0.005)")
		}, in: []callSite{sqlEach, sqlSetup, sqlReset, goEach}},
	"cannot be serialized":   raises("40001", passing("TransactionRolledBack"), sqlReset, sqlSetup),
	"appends what conflicts": {sql: `PERFORM sluice.append('conflict-{id}', 77, '[{"type": "None", "data": {}}]')`, want: passing("AppendConflict"), says: "SL002", in: []callSite{sqlEach, sqlReset, goEach}},

	// The server.
	"finds the disk full":    raises("53100", server, sqlReset, sqlSetup),
	"finds no connection":    raises("08006", server),
	"finds a wrong password": raises("28P01", server),
	"finds no database":      raises("3D000", server, sqlReset),
	"finds the server down":  raises("57P03", server, sqlReset),
	"finds a broken disk":    raises("58030", server),
	"may only read":          {sql: "PERFORM set_config('transaction_read_only', 'on', true); INSERT INTO public.once_{id} VALUES (1)", want: passing(handler.ReasonReadOnly), says: "25006", in: []callSite{sqlEach, sqlSetup, sqlReset}},

	// The connection.
	"ends its backend": {sql: "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60)", want: unended, says: "."},
	"ends those of the worker": {sql: `PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid();
		RAISE EXCEPTION 'no'`, want: ofEvent("(HandlerFailed|CallDidNotEnd)"), says: "P0001", in: []callSite{sqlEach, sqlSetup, sqlReset}},
	"closes its connection": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error { return tx.Conn().Close(ctx) }, want: unended, says: "."},
	"takes its connection away": {do: func(_ context.Context, _ *row, tx pgx.Tx) error {
		taken, err := tx.Conn().PgConn().Hijack()
		if err == nil {
			err = taken.Conn.Close()
		}
		return err
	}, want: unended, says: ".", in: []callSite{goEach, goReset}},
	"leaves rows open": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		_, err := tx.Query(ctx, "SELECT generate_series(1, 100000)")
		return err
	}, want: failed, says: ".", in: []callSite{goEach, goReset}},
	"leaves much behind": {do: func(ctx context.Context, r *row, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, r.own("LISTEN here; SELECT pg_advisory_lock({id}); CREATE TEMPORARY TABLE left_{id} (); PREPARE left_{id} AS SELECT 1; SET search_path = nowhere; SET ROLE nobody; SELECT 1 / 0"))
		return err
	}, want: failed, says: "22012", in: []callSite{goEach, goReset}},

	// The transaction.
	"calls tx.Commit":   {do: func(ctx context.Context, _ *row, tx pgx.Tx) error { return tx.Commit(ctx) }, want: ending, says: instead, in: []callSite{goEach, goSet, goReset}},
	"calls tx.Rollback": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error { _ = tx.Rollback(ctx); return nil }, want: ending, says: instead, in: []callSite{goEach, goReset}},
	"sends COMMIT": {do: sends("COMMIT", ending, "").do, commands: "COMMIT", queue: func(_ *row, batch *pgx.Batch) error {
		batch.Queue("COMMIT")
		return nil
	}, want: ending, says: "(" + instead + "|transaction)"},
	"sends COMMIT and is silent": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		_, _ = tx.Exec(ctx, "COMMIT")
		return nil
	}, want: ending, says: instead, in: []callSite{goEach, goSet, goReset}},
	"queries COMMIT": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "COMMIT")
		if err == nil {
			rows.Close()
			err = rows.Err()
		}
		return err
	}, want: ending, says: instead, in: []callSite{goEach}},
	"sends COMMIT in a batch": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue("SELECT 1")
		batch.Queue("COMMIT")
		return tx.SendBatch(ctx, batch).Close()
	}, want: ending, says: instead, in: []callSite{goEach, goReset}},
	"sends COMMIT on the connection": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		_, err := tx.Conn().Exec(ctx, "COMMIT")
		return err
	}, want: ending, says: instead, in: []callSite{goEach, goReset}},
	"sends COMMIT below pgx": {do: func(ctx context.Context, _ *row, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().Exec(ctx, "/**/ commit").ReadAll()
		return err
	}, want: ending, says: instead, in: []callSite{goEach}},
	"sends ROLLBACK and BEGIN":  sends("ROLLBACK; BEGIN", ending, instead),
	"sends BEGIN":               {do: sends("BEGIN", ending, "").do, commands: "BEGIN", want: ending, says: "(" + instead + "|transaction)", not: []callSite{goReset}},
	"prepares its transaction":  {do: sends("PREPARE TRANSACTION 'x'", ending, "").do, commands: "PREPARE TRANSACTION 'x'", want: ending, says: "(" + instead + "|transaction)", not: []callSite{goSet}},
	"releases what is released": sends("SAVEPOINT outside; SAVEPOINT inside; RELEASE SAVEPOINT outside; RELEASE SAVEPOINT inside", failed, "3B001"),
}

// TestWhateverAHandlerDoes has groups misbehave, each in every kind of call. While the cause lasts,
// the operator has to name the group, the event or the setup or reset, the attempts and
// the reason, the other group has to go on, and attempts must not spin. Without the cause
// everything has to recover by itself, with each event handled once and in order.
func TestWhateverAHandlerDoes(t *testing.T) {
	st := newStage(t)
	for name, m := range misbehaviours {
		for _, p := range m.sites() {
			t.Run(name+"/"+string(p), func(t *testing.T) {
				t.Parallel()
				r := st.newRow(t)
				if m.sql != "" {
					r.misbehaves(r.own(m.sql))
				}
				switch p {
				case sqlSetup:
					r.judgeSetup(m)
				case sqlReset, goReset:
					r.judgeReset(m, p)
				default:
					r.judgeEvent(m, p)
				}
			})
		}
	}
}

const (
	limit     = "1s" // of time
	attempts  = `, ([2-9]|[1-9]\d+) or more attempts: `
	many      = `, ([5-9]|[1-9]\d+) or more attempts: `
	recording = `
        - {eventTypes: [Good{id}, Bad{id}], each: INSERT INTO public.seen_{id} (position) SELECT position FROM event}`
)

// group is the manifest of the processing group, with a time limit.
func (m misbehaviour) group(p callSite, timeout string) string {
	text := `
    timeout: ` + timeout
	if strings.HasPrefix(string(p), "Go") {
		return text + `
    handler: {type: Go}`
	}
	commands := m.commands
	if commands == "" {
		commands = "SELECT public.bad_{id}()"
	}
	text += `
    handler:
      type: SQL
      sql:`
	switch p {
	case sqlSetup:
		text += `
        setup: "CREATE TABLE IF NOT EXISTS public.made_{id} (); ` + commands + `"
        statements:` + recording
	case sqlReset:
		text += `
        reset: "DELETE FROM public.seen_{id}; ` + commands + `"
        statements:` + recording
	case sqlEach:
		bad := m.statement
		if bad == "" {
			bad = "SELECT public.bad_{id}() FROM {events}"
		}
		text += `
        statements:` + recording + `
        - {eventTypes: [Bad{id}], each: "` + strings.ReplaceAll(bad, "{events}", "event") + `"}`
	case sqlBatch:
		calls := "CASE WHEN type = 'Bad{id}' THEN public.bad_{id}() = 1 ELSE true END"
		bad := ""
		if m.statement != "" {
			calls, bad = "true", `
        - {eventTypes: [Bad{id}], batch: "`+strings.ReplaceAll(m.statement, "{events}", "events")+`"}`
		}
		text += `
        statements:
        - {eventTypes: [Good{id}, Bad{id}], batch: "INSERT INTO public.seen_{id} (position) SELECT position FROM (SELECT * FROM events ORDER BY ordinal) AS e WHERE ` + calls + `"}` + bad
	default: // Go handlers have none
	}
	return text
}

// act is what a Go handler or reset does while it is not mended.
func (m misbehaviour) act(ctx context.Context, r *row, tx pgx.Tx) error {
	if m.do != nil {
		return m.do(ctx, r, tx)
	}
	_, err := tx.Exec(ctx, r.own("SELECT public.bad_{id}()"))
	return err
}

// handler is the group's handler; nil for one of SQL.
func (m misbehaviour) handler(r *row, p callSite) handler.Handler {
	bad := r.own("Bad{id}")
	wants := []string{bad, r.own("Good{id}")}
	handle := func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		if e.Type == bad && r.isBad() {
			if err := m.act(ctx, r, tx); err != nil {
				return err
			}
		}
		return r.record(ctx, tx, e)
	}
	switch p {
	case goEach:
		return handler.Each(handle, wants...)
	case goSet:
		return handler.Set(func(ctx context.Context, tx pgx.Tx, events []handler.Event) error {
			for _, e := range events {
				if err := handle(ctx, tx, e); err != nil {
					return err
				}
			}
			return nil
		}, wants...)
	case goQueue:
		return handler.Queue(func(batch *pgx.Batch, events []handler.Event) error {
			for _, e := range events {
				if e.Type == bad && r.isBad() {
					if err := m.queue(r, batch); err != nil {
						return err
					}
				}
				batch.Queue(r.own(`INSERT INTO public.seen_{id} (position) VALUES ($1)`), e.Position)
			}
			return nil
		}, wants...)
	case goReset:
		return handler.WithReset(handler.Each(r.record, wants...), func(ctx context.Context, tx pgx.Tx, _ handler.Replay) error {
			if _, err := tx.Exec(ctx, r.own(`DELETE FROM public.seen_{id}`)); err != nil {
				return err
			}
			if r.isBad() {
				return m.act(ctx, r, tx)
			}
			return nil
		})
	default: // SQL handlers are in the definition
		return nil
	}
}

// begins has the cause begin to work.
func (r *row) begins(m misbehaviour) {
	if m.cause != nil {
		m.cause(r)
	}
	r.began = time.Now()
}

func (r *row) judgeEvent(m misbehaviour, p callSite) {
	r.start(m.group(p, limit), m.handler(r, p))
	r.until(patience, "an owner", func() bool { return r.says("Available=True") })
	r.begins(m)
	r.append("bad", "Good", "Bad", "Good")
	at := fmt.Sprintf(`segment 0, event at position %d \(type Bad{id}, stream bad-{id}\)`, r.bad())
	attempts := attempts
	if m.often {
		attempts = many
	}
	r.until(reported, "a condition with "+m.want.reason, func() bool {
		return r.says(m.want.condition, `group calls-{id}, `+at+attempts+m.want.reason+": ")
	})
	r.holds(m)
	r.goesOn()
	if r.query(`SELECT EXISTS (SELECT FROM seen_{id} WHERE position >= (SELECT position FROM sluice.event WHERE type = 'Bad{id}'))`) {
		r.t.Error("the event that fails was handled, or one behind it")
	}
	if !m.want.passing && !r.query(`SELECT count(*) = 1 FROM seen_{id}`) {
		r.t.Error("the event before the one that fails was not handled")
	}
	r.backsOff()
	r.recovers()
}

// holds checks what the worker reports to `kubectl sluice status`.
func (r *row) holds(m misbehaviour) {
	r.t.Helper()
	position := r.bad()
	r.until(patience, "the worker to name the event", func() bool {
		for _, h := range r.worker.Load().Holdings() {
			if b := h.Blocked; h.Group == r.own("calls-{id}") && b != nil {
				return b.Position == position && b.Type == r.own("Bad{id}") && b.Stream == r.own("bad-{id}") && b.Attempts > 0 && b.Reason != ""
			}
		}
		return false
	})
}

func (r *row) judgeSetup(m misbehaviour) {
	r.begins(m)
	r.append("bad", "Good", "Bad", "Good")
	r.start(m.group(sqlSetup, limit), nil)
	r.until(reported, "a condition with "+m.says, func() bool {
		return r.says("HandlerValid=(False|Unknown)", `group calls-{id}`+attempts, `: handler\.sql\.setup: `, m.says)
	})
	r.goesOn()
	r.backsOff()
	if m.commands == "" {
		r.recovers()
	}
}

func (r *row) judgeReset(m misbehaviour, p callSite) {
	r.append("bad", "Good", "Bad", "Good")
	r.start(m.group(p, limit), m.handler(r, p))
	r.handled()
	r.begins(m)
	r.replay("first")
	r.until(reported, "a condition with "+m.says, func() bool {
		return r.says(`the reset of group calls-{id} (run )?(failed (once|twice|\d+ times)|\(attempt \d+\))`, m.says)
	})
	r.goesOn()
	r.backsOff()
	r.mend()
	r.until(patience, "the end of the replay", func() bool { return r.phase("first").Ended() })
	if r.phase("first") == tokenstore.ReplayFailed {
		r.handled() // the group has gone on where it was
		if m.commands != "" {
			return
		}
		r.replay("again")
		r.until(patience, "another replay", func() bool { return r.phase("again") == tokenstore.ReplayComplete })
	}
	r.recovers()
}

// TestWhateverTakesLongIsNamedAtOnce has calls that take long and do not fail.
func TestWhateverTakesLongIsNamedAtOnce(t *testing.T) {
	st := newStage(t)
	m := misbehaviour{sql: "WHILE NOT EXISTS (SELECT FROM public.mended WHERE id = {id}) LOOP PERFORM pg_sleep(0.02); END LOOP",
		do: func(_ context.Context, r *row, _ pgx.Tx) error {
			<-r.mended
			return nil
		}}
	for _, p := range []callSite{sqlEach, sqlBatch, sqlSetup, sqlReset, goEach, goSet, goReset} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			r := st.newRow(t)
			r.misbehaves(r.own(m.sql))
			what := `a batch of group calls-{id}, segment 0, from the event at position \d+ \(type (Good|Bad){id}, stream bad-{id}\)`
			reset := strings.HasSuffix(string(p), "reset")
			if reset || p == sqlSetup {
				r.append("bad", "Good", "Bad", "Good")
			}
			r.start(m.group(p, "0s"), m.handler(r, p))
			switch {
			case p == sqlSetup:
				what = `the setup of group calls-{id}`
			case reset:
				what = `the reset of replay first of group calls-{id}`
				r.handled()
				r.replay("first")
			default:
				r.append("bad", "Good", "Bad", "Good")
			}
			r.until(reported, "the call in a condition", func() bool {
				return r.says("Degraded=False CallRunning", what+`.*, has been running for more than (5|10|30)s in pod a`)
			})
			if len(r.worker.Load().Calls()) != 1 {
				t.Error("the worker does not name the call")
			}
			r.goesOn()
			r.recovers()
		})
	}
}

// TestAReadThatDoesNotComeBackIsReported locks the event table when there are new events. Neither
// workers nor the operator can read them, and a condition says so in time.
func TestAReadThatDoesNotComeBackIsReported(t *testing.T) {
	ctx := t.Context()
	r := newStage(t).newRow(t)
	r.start("\n    handler: {type: Go}", handler.Each(r.record))
	r.append("good", "Good")
	r.handled()
	begin := func() pgx.Tx {
		tx, err := r.pool.Begin(ctx)
		if err == nil {
			_, err = tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = 0")
		}
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	writer, locker, locked := begin(), begin(), make(chan error, 1)
	late := eventpostgres.NewEvent{Type: r.own("Good{id}")}
	if _, err := r.log.AppendTx(ctx, writer, "late", eventpostgres.Any, late); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := locker.Exec(ctx, "LOCK TABLE sluice.event")
		locked <- err
	}()
	r.until(patience, "a lock that is waited for", func() bool {
		return r.query(`SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')`)
	})
	if err := errors.Join(writer.Commit(ctx), <-locked); err != nil {
		t.Fatal(err)
	}
	r.until(reported, "a condition", func() bool {
		return r.says("Degraded=True", "group calls-{id}: EventsUnreadable")
	})
	if err := locker.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	r.handled()
	r.until(patience, "clear conditions", func() bool { return r.says("Degraded=False") })
}
