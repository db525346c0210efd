package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource/postgres"
)

// subject is a table of events as the tests of the order write and read it: Sluice's own, or a user's.
type subject struct {
	db       *pgxpool.Pool
	source   *postgres.Source
	append   func(ctx context.Context, stream string, n int) error
	appendTx func(ctx context.Context, tx pgx.Tx, stream string, n int) error
	insert   string // without rows: of stream, version, type and data
	copyTo   pgx.Identifier
	columns  []string
	truth    string        // position, stream and version of all events
	during   time.Duration // for which is written
	// unordered says that positions are not taken in the order of a stream's events.
	unordered bool
}

var subjects = map[string]func(testing.TB) *subject{
	"own table":             ownTable,
	"outbox":                func(t testing.TB) *subject { return outboxTable(t, "nextval('outbox_id_seq')", false) },
	"positions taken early": func(t testing.TB) *subject { return outboxTable(t, "early()", true) },
	"positions reserved":    func(t testing.TB) *subject { return outboxTable(t, "reserved()", true) },
}

func ownTable(t testing.TB) *subject { return ownSubject(t, database(t)) }

func ownSubject(t testing.TB, db *pgxpool.Pool) *subject {
	log := newLog(t, db)
	return &subject{
		db: db, source: postgres.NewSource(db, schema), during: 8 * time.Second,
		append: func(ctx context.Context, stream string, n int) error {
			_, err := log.Append(ctx, stream, postgres.Any, events(n)...)
			return err
		},
		appendTx: func(ctx context.Context, tx pgx.Tx, stream string, n int) error {
			_, err := log.AppendTx(ctx, tx, stream, postgres.Any, events(n)...)
			return err
		},
		insert: "INSERT INTO sluice.event (stream_id, version, type, data)",
		copyTo: pgx.Identifier{"sluice", "event"}, columns: []string{"stream_id", "version", "type", "data"},
		truth: "SELECT position, stream_id, version FROM sluice.event",
	}
}

func events(n int) []postgres.NewEvent {
	return []postgres.NewEvent{happened, happened, happened, happened, happened}[:n]
}

// outbox is a mapping of the table that createOutbox makes.
var outbox = definition.Table{Name: "public.outbox", Positions: definition.PositionsInserted,
	Columns: definition.TableColumns{Position: "id", Transaction: "txid", Stream: "aggregate", Version: "number", Type: "type", RecordedAt: "at"},
	Data:    definition.Payload{Column: "payload", Type: definition.PayloadJSONB, Content: definition.ContentJSON}}

// createOutbox makes a table as anybody might have it, with a function that appends n events to a stream. Others take an id at the
// start of their transaction, or a client's next one out of a block of ten.
const createOutbox = `
CREATE TABLE outbox (id serial PRIMARY KEY, aggregate text NOT NULL, number integer NOT NULL, type varchar(255) NOT NULL, payload jsonb, at timestamptz NOT NULL DEFAULT clock_timestamp(), UNIQUE (aggregate, number));
CREATE SEQUENCE blocks;
CREATE FUNCTION early() RETURNS integer LANGUAGE plpgsql AS $$ DECLARE v integer; BEGIN
  v := nextval('outbox_id_seq'); PERFORM pg_sleep(random() * 0.01); RETURN v; END $$;
CREATE FUNCTION reserved() RETURNS integer LANGUAGE plpgsql AS $$ DECLARE v integer := nullif(current_setting('test.next', true), ''); BEGIN
  IF v IS NULL OR v % 10 = 0 THEN v := nextval('blocks') * 10; END IF;
  PERFORM set_config('test.next', (v + 1)::text, false);
  RETURN v + 1; END $$;
CREATE FUNCTION outbox_append(p_aggregate text, p_n integer) RETURNS void LANGUAGE plpgsql AS $$ DECLARE v integer; BEGIN
  LOOP
    SELECT coalesce(max(number), 0) INTO v FROM outbox WHERE aggregate = p_aggregate;
    INSERT INTO outbox (aggregate, number, type, payload) VALUES (p_aggregate, v + 1, 'Happened', '{}') ON CONFLICT (aggregate, number) DO NOTHING;
    EXIT WHEN FOUND;
  END LOOP;
  INSERT INTO outbox (aggregate, number, type, payload) SELECT p_aggregate, v + i, 'Happened', '{}' FROM generate_series(2, p_n) AS i;
END $$`

func outboxTable(t testing.TB, position string, unordered bool) *subject {
	db := database(t)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	mapping := outbox
	if unordered {
		exec(t, db, "ALTER TABLE outbox ALTER COLUMN id SET DEFAULT "+position)
		mapping.Positions = definition.PositionsReserved
	}
	prepare(t, db, mapping)
	on := outboxSubject(db, mapping)
	on.unordered = unordered
	if err := on.source.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return on
}

func outboxSubject(db *pgxpool.Pool, mapping definition.Table) *subject {
	return &subject{
		db: db, source: postgres.Open(db, schema, definition.Source{Type: definition.SourceTable, Table: &mapping}), during: 4 * time.Second,
		append: func(ctx context.Context, stream string, n int) error {
			_, err := db.Exec(ctx, "SELECT outbox_append($1, $2)", stream, n)
			return err
		},
		appendTx: func(ctx context.Context, tx pgx.Tx, stream string, n int) error {
			_, err := tx.Exec(ctx, "SELECT outbox_append($1, $2)", stream, n)
			return err
		},
		insert: "INSERT INTO outbox (aggregate, number, type, payload)",
		copyTo: pgx.Identifier{"outbox"}, columns: []string{"aggregate", "number", "type", "payload"},
		truth: "SELECT id::bigint, aggregate, number::bigint FROM outbox",
	}
}

func prepare(t testing.TB, db *pgxpool.Pool, table definition.Table) {
	t.Helper()
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := postgres.Prepare(t.Context(), conn.Conn(), table, func(string) {}); err != nil {
		t.Fatal(err)
	}
}
