package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
)

const textOutbox = `CREATE TABLE outbox (id bigserial PRIMARY KEY, agg text NOT NULL, type text NOT NULL DEFAULT 'A', created timestamptz NOT NULL DEFAULT now(), payload text)`

// readsOutbox are groups that note what they handle, over a table with JSON in a column of text.
func readsOutbox(groups ...string) string {
	text := ""
	for _, g := range groups {
		name, sequencing, _ := strings.Cut(g, " ")
		text += fmt.Sprintf(`
  - name: %[1]s
    segments: 4
    sequencing: {%[2]s}
    onError: {backoff: {initial: 100ms, max: 200ms}}
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS got_%[1]s (n bigserial PRIMARY KEY, position bigint, stream text, customer text)
        statements:
        - eventTypes: [A]
          batch: INSERT INTO got_%[1]s (position, stream, customer) SELECT position, stream_id, data ->> 'customer' FROM events ORDER BY ordinal
`, name, sequencing)
	}
	return text + `
  source: {type: Table, table: {name: public.outbox, columns: {position: id, stream: agg, type: type, recordedAt: created}, data: {column: payload, type: Text}}}
`
}

func (w *world) insertText(from, to int) {
	w.t.Helper()
	w.sql(`INSERT INTO outbox (agg, payload) SELECT 's' || n % 10, jsonb_build_object('customer', n % 7) FROM generate_series($1::integer, $2::integer) AS n`, from, to)
}

// A row that cannot be read holds up its own segment, and all of a group by whose sequencing it may belong to any. It is told by its position, and handled when it is repaired. Nobody has to claim anything
// again for it.
func TestAnEventThatCannotBeReadHoldsUpWhatMayDependOnIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
	w.sql(textOutbox)
	w.edit(readsOutbox("a type: Stream", "b type: Property, property: {path: customer}"))
	w.insertText(1, 20)
	w.start("p")
	w.until("the first events", `SELECT (SELECT count(*) FROM got_a) = 20 AND (SELECT count(*) FROM got_b) = 20`)
	epochs := w.epochs()
	w.sql(`INSERT INTO outbox (agg, payload) VALUES ('s3', '<a/>')`)
	w.insertText(22, 41)
	w.until("what does not depend on it",
		`SELECT (SELECT count(*) FROM sluice.failure WHERE position = 21 AND attempts >= 2 AND message LIKE '%position 21%payload%not JSON%' AND group_name = 'a') = 1
		AND (SELECT count(*) FROM sluice.failure WHERE position = 21 AND attempts >= 2 AND group_name = 'b') = 4
		AND (SELECT count(*) FROM got_b) = 20
		AND (SELECT count(DISTINCT segment) FROM sluice.token WHERE group_name = 'a' AND position >= 41) = 3`)
	w.until("it to be told", `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,a,fault,reason}' = 'EventUnreadable' AND report #>> '{groups,a,fault,position}' = '21' AND report #>> '{groups,b,fault,reason}' = 'EventUnreadable')`)
	var after int
	if err := w.pool.QueryRow(context.Background(), `SELECT count(*) FROM got_a WHERE stream = 's3' AND position > 21`).Scan(&after); err != nil || after > 0 {
		t.Errorf("%d later events of its stream were handled (%v)", after, err)
	}
	if now := w.epochs(); now != epochs {
		t.Errorf("epochs went from %d to %d", epochs, now)
	}
	w.sql(`UPDATE outbox SET payload = '{"customer": 1}' WHERE id = 21`)
	for _, g := range []string{"a", "b"} {
		w.until("all events of "+g, `SELECT count(*) = 41 FROM got_`+g)
	}
	w.until("no failure to be left", `SELECT NOT EXISTS (SELECT FROM sluice.failure)`)
	var twice int
	if err := w.pool.QueryRow(context.Background(), `SELECT count(*) FROM (SELECT position FROM got_a GROUP BY 1 HAVING count(*) > 1 UNION ALL SELECT position FROM got_b GROUP BY 1 HAVING count(*) > 1) AS x`).Scan(&twice); err != nil || twice > 0 {
		t.Errorf("%d events were handled twice (%v)", twice, err)
	}
}

// Where pages come without contents, the statement of the handler meets the row itself.
func TestAStatementThatMeetsARowThatCannotBeReadFailsAtIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
	w.sql(textOutbox)
	w.edit(readsOutbox("a type: Stream"))
	w.start("p")
	w.insertText(1, 20)
	w.sql(`INSERT INTO outbox (agg, payload) VALUES ('s3', '<a/>')`)
	w.insertText(22, 41)
	w.until("its segment alone to wait", `SELECT (SELECT count(*) FROM sluice.failure WHERE position = 21 AND attempts >= 1) = 1
		AND (SELECT count(*) FROM sluice.token WHERE position >= 41) = 3`)
	w.sql(`UPDATE outbox SET payload = '{}' WHERE id = 21`)
	w.until("all events", `SELECT count(*) = 41 FROM got_a`)
}

// A table that cannot be read is told of by all groups, and segments stay where they are.
func TestATableThatCannotBeReadIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
	w.sql(textOutbox)
	w.edit(readsOutbox("a type: Stream", "b type: Sequential"))
	w.start("p")
	w.insertText(1, 20)
	w.until("the first events", `SELECT (SELECT count(*) FROM got_a) = 20 AND (SELECT count(*) FROM got_b) = 20`)
	epochs := w.epochs()
	w.sql("ALTER SEQUENCE outbox_id_seq CACHE 20")
	for _, g := range []string{"a", "b"} {
		w.until("it to be told by "+g, `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> ARRAY['groups', $1, 'fault', 'reason'] = 'EventsUnreadable' AND report #>> ARRAY['groups', $1, 'fault', 'message'] LIKE '%CACHE 20%')`, g)
	}
	w.sql("ALTER SEQUENCE outbox_id_seq CACHE 1")
	w.insertText(21, 40)
	w.until("the rest", `SELECT (SELECT count(*) FROM got_a) = 40 AND (SELECT count(*) FROM got_b) = 40`)
	w.until("it to be over", `SELECT NOT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,a,fault}' IS NOT NULL)`)
	w.sql("TRUNCATE outbox RESTART IDENTITY")
	w.until("it to be told", `SELECT EXISTS (SELECT FROM sluice.worker WHERE report #>> '{groups,a,fault,message}' LIKE '%set back%')`)
	w.insertText(1, 60) // beyond where the groups are
	w.until("it to be told again and again", `SELECT EXISTS (SELECT FROM sluice.worker WHERE (report #>> '{groups,a,fault,lasted}')::float > 1)`)
	if now := w.epochs(); now != epochs {
		t.Errorf("epochs went from %d to %d", epochs, now)
	}
}

// TestAReadThatDoesNotComeBackIsReported has somebody lock the table of events just when there are
// new ones: it is reported that events cannot be read, and they are handled when the lock is gone.
func TestAReadThatDoesNotComeBackIsReported(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w := newWorld(t, "\n  - name: view\n    segments: 2"+view)
	w.start("a")
	w.appendTo(5, 1)
	w.handled(5)
	writer, err := w.begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.log.AppendTx(ctx, writer, "stream-0", eventspostgres.Any, eventspostgres.NewEvent{Type: "Counted", Data: map[string]int{"n": 2}}); err != nil {
		t.Fatal(err)
	}
	locker, err := w.begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	locked := make(chan error, 1)
	go func() {
		_, err := locker.Exec(ctx, "LOCK TABLE sluice.event")
		locked <- err
	}()
	w.until("a lock that is waited for", `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')`)
	if err := errors.Join(writer.Commit(ctx), <-locked); err != nil {
		t.Fatal(err)
	}
	w.reports("has not answered a read of events")
	w.until("the group", `SELECT bool_or(report #>> '{groups,view,fault,reason}' = 'EventsUnreadable') FROM sluice.worker`)
	if err := locker.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	w.handled(6)
	w.until("no fault", `SELECT bool_and(report #> '{groups,view,fault}' IS NULL) FROM sluice.worker`)
}
