package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/segment"
	store "github.com/sluice-project/sluice/tokenstore/postgres"
)

// session opens a connection with an application's name.
func session(t testing.TB, address, application string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(address)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = application
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

const insertInto = `INSERT INTO sluice.event (stream_id, version, type, data) VALUES ('s', $1, 'T', '{}')`

// TestOpenWritersAreNamed has transactions that write to the event table, and others that only look as if they did.
func TestOpenWritersAreNamed(t *testing.T) {
	address := migrated(t, schema)
	begun := func(application string) *pgx.Conn {
		c := session(t, address, application)
		exec(t, c, "BEGIN")
		return c
	}
	savepoint := begun("importer")
	exec(t, savepoint, "SAVEPOINT a")
	exec(t, savepoint, insertInto, 1)
	exec(t, savepoint, "SAVEPOINT b")
	exec(t, savepoint, insertInto, 2)
	prepared := begun("two-phase")
	exec(t, prepared, insertInto, 3)
	exec(t, prepared, "PREPARE TRANSACTION 'left-behind'")
	t.Cleanup(func() {
		if _, err := prepared.Exec(context.Background(), "ROLLBACK PREPARED 'left-behind'"); err != nil {
			t.Error(err)
		}
	})

	elsewhere := begun("elsewhere")
	exec(t, elsewhere, "CREATE TABLE other (n int)")
	reader := begun("reader")
	exec(t, reader, "SELECT pg_current_xact_id(), count(*) FROM sluice.event")
	ended := begun("ended")
	exec(t, ended, insertInto, 4)
	exec(t, ended, "ROLLBACK")
	undone := begun("undone")
	exec(t, undone, "SELECT nextval('sluice.event_position_seq')")

	var xid, preparedXID string
	if err := savepoint.QueryRow(t.Context(), "SELECT pg_current_xact_id()::xid::text").Scan(&xid); err != nil {
		t.Fatal(err)
	}
	if err := prepared.QueryRow(t.Context(), "SELECT transaction::text FROM pg_prepared_xacts WHERE gid = 'left-behind'").Scan(&preparedXID); err != nil {
		t.Fatal(err)
	}
	open, now, err := postgres.NewSource(session(t, address, "self"), schema).OpenWriters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []eventsource.OpenWriter{{Transaction: xid, PID: int32(savepoint.PgConn().PID()), Application: "importer", User: "postgres"},
		{Transaction: preparedXID, Prepared: "left-behind", User: "postgres"}}
	for i := range open {
		if age := now.Sub(open[i].Since); age < 0 || age > time.Minute {
			t.Errorf("%+v is open since %s, and it is %s", open[i], open[i].Since, now)
		}
		open[i].Since = time.Time{}
	}
	if diff := cmp.Diff(want, open); diff != "" {
		t.Error(diff)
	}
}

// TestOpenWritersThatAnotherRoleHas can be named by every role, and since when by members of pg_read_all_stats.
func TestOpenWritersThatAnotherRoleHas(t *testing.T) {
	address := migrated(t, schema)
	owner := session(t, address, "owner")
	exec(t, owner, fmt.Sprintf(`CREATE ROLE watching_%d LOGIN`, owner.PgConn().PID()))
	role := fmt.Sprintf("watching_%d", owner.PgConn().PID())
	exec(t, owner, store.Grants(schema, role))
	t.Cleanup(func() {
		if _, err := owner.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	writer := session(t, address, "importer")
	exec(t, writer, "BEGIN")
	exec(t, writer, insertInto, 1)

	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	source := postgres.NewSource(session(t, u.String(), "self"), schema)
	look := func() eventsource.OpenWriter {
		open, _, err := source.OpenWriters(t.Context())
		if err != nil || len(open) != 1 {
			t.Fatalf("%d writers, %v", len(open), err)
		}
		if open[0].Application != "importer" || open[0].User != "postgres" || open[0].PID != int32(writer.PgConn().PID()) {
			t.Errorf("named as %+v", open[0])
		}
		return open[0]
	}
	if open := look(); !open.Since.IsZero() {
		t.Errorf("a role without grants knows since when: %s", open.Since)
	}
	exec(t, owner, "GRANT pg_read_all_stats TO "+role)
	if open := look(); open.Since.IsZero() {
		t.Error("a member of pg_read_all_stats does not know since when")
	}
}

// TestOpenWritersOfPartitions write to a partition, by way of the table or not.
func TestOpenWritersOfPartitions(t *testing.T) {
	address := postgrestest.New(t)
	owner := session(t, address, "owner")
	exec(t, owner, `CREATE TABLE outbox (id bigint PRIMARY KEY, aggregate text NOT NULL) PARTITION BY RANGE (id);
		CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES FROM (1) TO (1000); CREATE TABLE outbox_2 PARTITION OF outbox FOR VALUES FROM (1000) TO (2000)`)
	exec(t, owner, "BEGIN")
	exec(t, owner, "INSERT INTO outbox_2 VALUES (1500, 's')")
	source := postgres.Open(session(t, address, "self"), schema, declared(outbox))
	if open, _, err := source.OpenWriters(t.Context()); err != nil || len(open) != 1 {
		t.Errorf("%+v, %v", open, err)
	}
}

// TestWhoKeepsAGapOpenIsNamed has transactions that have taken a position of a table that does not tell rows' transactions, and have not inserted anything.
func TestWhoKeepsAGapOpenIsNamed(t *testing.T) {
	on := withoutTransactions["taken early"](t)
	r := newReader(t, on.source, earliest, segment.Root)
	holder, _ := begin(t, on, "SET application_name = 'takes a number'", "SELECT early()")
	prepared, _ := begin(t, on, "SELECT early()")
	exec(t, prepared, fmt.Sprintf("PREPARE TRANSACTION 'gap-%d'", prepared.PgConn().PID()))
	t.Cleanup(func() {
		if _, err := prepared.Exec(context.Background(), fmt.Sprintf("ROLLBACK PREPARED 'gap-%d'", prepared.PgConn().PID())); err != nil {
			t.Error(err)
		}
	})
	_, looks := begin(t, on, "SELECT count(*) FROM outbox", "SELECT last_value FROM outbox_id_seq")
	defer looks.Rollback(context.Background())
	exec(t, on.db, insertEvent)
	first, second := r.next(10), r.next(10)
	if p := r.coverage.Progress(); len(first.Events)+len(second.Events) != 1 || !strings.Contains(p.State, "gaps ") {
		t.Fatalf("%d events, then %d, and %+v: no gap is open", len(first.Events), len(second.Events), p)
	}
	open, _, err := on.source.OpenWriters(t.Context())
	if err != nil || len(open) != 2 {
		t.Fatalf("%+v, %v; want the two that have taken a number", open, err)
	}
	for _, w := range open {
		named := w.PID == int32(holder.PgConn().PID()) && w.Application == "takes a number" || w.Prepared == fmt.Sprintf("gap-%d", prepared.PgConn().PID())
		if !named || w.Transaction == "" || w.User != "postgres" || w.Since.IsZero() {
			t.Errorf("named as %+v", w)
		}
	}
}
