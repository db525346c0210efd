package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	store "github.com/sluice-project/sluice/tokenstore/postgres"
)

// moved is a table of events whose database is dumped and restored into another server.
type moved struct {
	make    func(testing.TB) *subject
	again   func(testing.TB, *pgxpool.Pool) *subject // in the restored database
	prepare func(testing.TB, *pgxpool.Pool)          // makes the table there, where it is copied
	tables  []definition.Table
}

var movable = map[string]moved{
	"own table": {make: ownTable, again: ownSubject, prepare: func(testing.TB, *pgxpool.Pool) {}},
	"outbox": {make: subjects["outbox"], again: func(_ testing.TB, db *pgxpool.Pool) *subject { return outboxSubject(db, outbox) },
		prepare: func(t testing.TB, db *pgxpool.Pool) {
			exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
			prepare(t, db, outbox)
		}, tables: []definition.Table{outbox}},
}

// Who reads gets every event once and in order, across a dump and restore into a server with transaction ids of its own. Readers have stopped at
// different times, with writers open that then committed before the dump, or after it, and so are not in it.
func TestReadersGetEveryEventOnceAcrossADumpAndRestore(t *testing.T) {
	t.Parallel()
	for name, table := range movable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			readersGetEveryEventAcross(t, table)
		})
	}
}

func readersGetEveryEventAcross(t *testing.T, table moved) {
	on := table.make(t)
	exec(t, on.db, "CREATE TABLE burnt (n integer)")
	burn(t, on.db, 5_000) // the other server has not had any of the ids to come
	w := &writers{t: t, on: on}
	var readers []*reader
	stop := func() { // one that has read everything so far, and has its own snapshot
		r := newReader(t, on.source, progress.StartPosition{Type: progress.Earliest}, segment.Root)
		r.given = r.all()
		readers = append(readers, r)
	}
	var held []pgx.Tx
	hold := func(stream string) {
		tx, err := on.db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tx.Rollback(context.Background()) })
		if err := on.appendTx(t.Context(), tx, stream, 3); err != nil {
			t.Fatal(err)
		}
		held = append(held, tx)
	}
	commit := func(n int) {
		if err := held[n].Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	hold("first")
	hold("second")
	hold("not in the dump")
	hold("rolled back after it")
	hold("third")
	var writing sync.WaitGroup
	writing.Go(func() { w.run(6, time.Second) })
	for n := range 12 {
		time.Sleep(80 * time.Millisecond)                                           // of other writers' work
		if err := on.append(t.Context(), fmt.Sprint("passes ", n), 1); err != nil { // what is held lies below this, however little the others get done
			t.Fatal(err)
		}
		stop()
		switch n {
		case 4:
			commit(0)
		case 6:
			commit(4)
		case 8:
			commit(1)
		}
	}
	writing.Wait()
	stop()
	far := newReader(t, on.source, progress.StartPosition{Type: progress.Earliest}, segment.Root) // far behind
	far.given = far.next(100).Events
	unread := newReader(t, on.source, progress.StartPosition{Type: progress.Earliest}, segment.Root)
	readers = append(readers, far, unread)
	storeTokens(t, on.db, readers)

	server := postgrestest.Start(t)
	url := restored(t, on.db, server, func(url string) { migrate(t, url, schema); table.prepare(t, pool(t, url)) })
	commit(2)
	db := pool(t, url)
	again := table.again(t, db)
	if err := again.source.Check(t.Context()); !errors.Is(err, postgres.ErrStoreChanged) {
		t.Errorf("before it is rebased: %v", err)
	}
	if err := again.append(t.Context(), "written before it is rebased", 2); err != nil {
		t.Fatal(err)
	}
	told := rebase(t, url, table.tables)
	t.Logf("%+v", told)
	if last := told[len(told)-1]; last.Late < 3 || !last.Rewritten {
		t.Errorf("%+v: this run says nothing", last)
	}
	if err := again.source.Check(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	progress := loadTokens(t, db, len(readers))
	w.on = again
	w.run(4, 300*time.Millisecond)
	truth := committed(t, again)
	late := 0
	for i, r := range readers {
		r.source = again.source
		r.resume(progress[i])
		passed := r.coverage.Position()
		m := &segmentReader{segment: segment.Root, given: append(r.given, r.all()...)}
		lost, twice, invented, disordered := m.compare(truth)
		if lost+twice+invented+disordered > 0 {
			t.Errorf("reader %d: lost %d, twice %d, never committed %d, out of order %d", i, lost, twice, invented, disordered)
		}
		if len(m.given) > len(r.given) && m.given[len(r.given)].Position < passed {
			late++
		}
	}
	t.Logf("%d events, %d readers, %d of them with late events after the restore", len(truth), len(readers), late)
	if late < 5 {
		t.Error("too few readers had late events: this run says nothing")
	}
}

// burn uses transaction ids up.
func burn(t testing.TB, db postgres.DB, n int) {
	t.Helper()
	exec(t, db, fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP BEGIN INSERT INTO burnt VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$", n))
}

// storeTokens writes each reader's progress as the token of a group: the odd ones as the boundary of a replay, too.
func storeTokens(t testing.TB, db postgres.DB, readers []*reader) {
	t.Helper()
	for i, r := range readers {
		p := r.coverage.Progress()
		exec(t, db, "INSERT INTO sluice.processing_group (name, processor, segments, sequencing, hash) VALUES ($1, 'p', 1, 'Stream', 'pg1')", fmt.Sprint("g", i))
		exec(t, db, "INSERT INTO sluice.token (group_name, segment, mask, position, snapshot, epoch, version, owner) VALUES ($1, 0, 0, $2, $3, 7, 8, 9)", fmt.Sprint("g", i), p.Position, p.State)
		if i%2 == 1 {
			exec(t, db, "INSERT INTO sluice.replay_boundary (group_name, segment, mask, start, position, snapshot) VALUES ($1, 0, 0, 1, $2, $3)", fmt.Sprint("g", i), p.Position, p.State)
			exec(t, db, "INSERT INTO sluice.token_part (group_name, segment, part_segment, part_mask, position, snapshot) VALUES ($1, 0, 0, 0, $2, $3)", fmt.Sprint("g", i), p.Position, p.State)
		}
	}
}

// loadTokens returns their progress, and looks that boundaries and parts have the same, and that claims are fenced off.
func loadTokens(t testing.TB, db postgres.DB, n int) []progress.Progress {
	t.Helper()
	all := make([]progress.Progress, n)
	for i := range all {
		var others, claimed int
		err := db.QueryRow(t.Context(), `SELECT position, snapshot, (SELECT count(*) FROM (SELECT position, snapshot, group_name FROM sluice.token_part UNION ALL SELECT position, snapshot, group_name FROM sluice.replay_boundary) AS o
			  WHERE (o.position, o.snapshot) = (t.position, t.snapshot) AND o.group_name = t.group_name), CASE WHEN (epoch, version, owner) = (8, 9, 0) THEN 0 ELSE 1 END
			FROM sluice.token t WHERE group_name = $1`, fmt.Sprint("g", i)).Scan(&all[i].Position, &all[i].State, &others, &claimed)
		if err != nil || others != i%2*2 || claimed > 0 {
			t.Fatalf("token %d: %v, %d others, %d claimed", i, err, others, claimed)
		}
	}
	return all
}

// rebase does what sluice rebase does.
func rebase(t testing.TB, url string, tables []definition.Table) (told []postgres.Rebased) {
	t.Helper()
	err := store.Rebase(t.Context(), session(t, url, "rebase"), schema, func(ctx context.Context, tx pgx.Tx, before []progress.Progress) (after []progress.Progress, err error) {
		after, told, err = postgres.Rebase(ctx, tx, schema, tables, before)
		return after, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return told
}

func TestRebaseIsRefused(t *testing.T) {
	const elsewhere = "UPDATE sluice.meta SET system_identifier = 1"
	token := func(group, snapshot string) string {
		return fmt.Sprintf(`INSERT INTO sluice.processing_group (name, processor, segments, sequencing, hash) VALUES ('%[1]s', 'p', 1, 'Stream', 'pg1');
			INSERT INTO sluice.token (group_name, segment, mask, position, snapshot, epoch, version) VALUES ('%[1]s', 0, 0, 5, '%[2]s', 1, 1)`, group, snapshot)
	}
	for name, tc := range map[string]struct {
		sql  []string
		want string
	}{
		"at home": {nil, "nothing to rebase"},
		"while a worker lives": {[]string{elsewhere, `INSERT INTO sluice.worker (incarnation, nonce, processor, pod, definition, handlers, version, protocol, session_lock, state, lease_until)
			VALUES (1, gen_random_uuid(), 'p', 'orders-1', 'd', '{}', '1', 1, false, 'Active', clock_timestamp() + interval '1 min')`}, "workers use the store (orders-1)"},
		"where another table's manifest is missing": {[]string{elsewhere, token("a", "public.outbox.id 7:7:")}, "progress in the positions public.outbox.id: name the manifest"},
		"where tokens come from two servers": {[]string{elsewhere, token("a", "900:902:900"), token("b", "900:902:901"),
			"INSERT INTO sluice.event (txid, stream_id, version, type, data) VALUES ('900', 's', 1, 'T', '{}'), ('901', 's', 2, 'T', '{}')"}, "more than one server"},
	} {
		t.Run(name, func(t *testing.T) {
			url := migrated(t, schema)
			conn := session(t, url, "rebase")
			for _, sql := range tc.sql {
				exec(t, conn, sql)
			}
			before := query[string](t, conn, "SELECT coalesce(string_agg(t::text, ';' ORDER BY group_name), '') || (SELECT count(*) FROM sluice.event WHERE txid = '3') || (SELECT system_identifier FROM sluice.meta) FROM sluice.token t")
			err := store.Rebase(t.Context(), conn, schema, func(ctx context.Context, tx pgx.Tx, all []progress.Progress) ([]progress.Progress, error) {
				after, _, err := postgres.Rebase(ctx, tx, schema, nil, all)
				return after, err
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, store.ErrAtHome) != (name == "at home") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if after := query[string](t, conn, "SELECT coalesce(string_agg(t::text, ';' ORDER BY group_name), '') || (SELECT count(*) FROM sluice.event WHERE txid = '3') || (SELECT system_identifier FROM sluice.meta) FROM sluice.token t"); after != before {
				t.Error("something was changed")
			}
		})
	}
}

// What depends on the column of transactions is named before anything is changed, and does not hinder once it is gone.
func TestRebaseNamesWhatDependsOnTransactions(t *testing.T) {
	for name, dependent := range map[string]struct{ make, want, drop string }{
		"a view":              {"CREATE VIEW latest AS SELECT id, txid FROM outbox", "view latest", "DROP VIEW latest"},
		"a materialized view": {"CREATE MATERIALIZED VIEW counted AS SELECT count(txid) FROM outbox", "materialized view counted", "DROP MATERIALIZED VIEW counted"},
		"a trigger": {"CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER looks BEFORE UPDATE OF txid ON outbox FOR EACH ROW EXECUTE FUNCTION nothing()",
			"trigger looks on table outbox", "DROP TRIGGER looks ON outbox"},
		"a policy":           {"CREATE POLICY few ON outbox USING (txid > '5')", "policy few on table outbox", "DROP POLICY few ON outbox"},
		"a generated column": {"ALTER TABLE outbox ADD COLUMN old boolean GENERATED ALWAYS AS (txid < '5') STORED", "generated column old of table outbox", "ALTER TABLE outbox DROP COLUMN old"},
		"a publication":      {"CREATE PUBLICATION few FOR TABLE outbox WHERE (txid IS NULL)", "publication of table outbox in publication few", "DROP PUBLICATION few"},
		"a function":         {"CREATE FUNCTION highest() RETURNS xid8 LANGUAGE sql BEGIN ATOMIC SELECT txid FROM outbox ORDER BY txid DESC LIMIT 1; END", "function highest()", "DROP FUNCTION highest()"},
		"what is made anew":  {"CREATE INDEX more ON outbox (txid) WHERE txid > '5'; ALTER TABLE outbox ADD CHECK (txid > '0'); CREATE STATISTICS pairs ON id, txid FROM outbox", "", "SELECT"},
	} {
		t.Run(name, func(t *testing.T) {
			on := subjects["outbox"](t)
			if err := on.append(t.Context(), "a", 2); err != nil {
				t.Fatal(err)
			}
			exec(t, on.db, "UPDATE sluice.meta SET system_identifier = 1; UPDATE outbox SET txid = '99999999'; "+dependent.make, pgx.QueryExecModeSimpleProtocol)
			conn := session(t, on.db.Config().ConnConfig.ConnString(), "rebase")
			try := func() error {
				return store.Rebase(t.Context(), conn, schema, func(ctx context.Context, tx pgx.Tx, all []progress.Progress) ([]progress.Progress, error) {
					after, _, err := postgres.Rebase(ctx, tx, schema, []definition.Table{outbox}, all)
					return after, err
				})
			}
			const rewritten = "SELECT count(*) FROM outbox WHERE txid = '3'"
			if dependent.want != "" {
				if err := try(); err == nil || !strings.Contains(err.Error(), "depends on it: "+dependent.want+". Nothing was changed") {
					t.Errorf("got %v, want %q to be named", err, dependent.want)
				}
				if n := query[int](t, on.db, rewritten); n > 0 {
					t.Errorf("%d events were changed", n)
				}
			}
			exec(t, on.db, dependent.drop)
			if err := try(); err != nil {
				t.Errorf("without it: %v", err)
			}
			if n := query[int](t, on.db, rewritten); n != 2 {
				t.Errorf("%d events were changed, want 2", n)
			}
		})
	}
}

// As after pg_upgrade: another server, which has had all the transactions. Nothing is late, so nothing is rewritten.
func TestRebaseLeavesEventsAloneThatEveryTokenHasHad(t *testing.T) {
	url := migrated(t, schema)
	db := pool(t, url)
	source := postgres.NewSource(db, schema)
	if _, err := newLog(t, db).Append(t.Context(), "a", postgres.Any, happened, happened); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, source, progress.StartPosition{Type: progress.Earliest})
	r.all()
	storeTokens(t, db, []*reader{r})
	// Positions mean the same everywhere.
	const gapped = "public.orders.id gaps"
	exec(t, db, "INSERT INTO sluice.processing_group (name, processor, segments, sequencing, hash) VALUES ('gapped', 'p', 1, 'Stream', 'pg1')")
	exec(t, db, "INSERT INTO sluice.token (group_name, segment, mask, position, snapshot, epoch, version) VALUES ('gapped', 0, 0, 5, $1, 1, 1)", gapped)
	exec(t, db, "UPDATE sluice.meta SET system_identifier = 1")
	if told := rebase(t, url, nil); len(told) != 1 || told[0].Rewritten || told[0].Late > 0 {
		t.Errorf("%+v", told)
	}
	if got := query[string](t, db, "SELECT snapshot FROM sluice.token WHERE group_name = 'gapped'"); got != gapped {
		t.Errorf("progress in a table without transactions has become %q", got)
	}
	r.resume(loadTokens(t, db, 1)[0])
	if n := len(r.all()); n > 0 {
		t.Errorf("%d events again", n)
	}
}
