package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
)

// subject is a table of events as the tests of the order write and read it: Sluice's own, or a user's.
type subject struct {
	db       *pgxpool.Pool
	source   *postgres.Source
	separate *postgres.Separate // read in place of source, if the tokens are elsewhere
	append   func(ctx context.Context, stream string, n int) error
	appendTx func(ctx context.Context, tx pgx.Tx, stream string, n int) error
	insert   string // without rows: of stream, version, type and data
	copyTo   pgx.Identifier
	columns  []string
	truth    string        // position, stream and version of all events
	during   time.Duration // for which is written
	// unordered says that the order of a stream's events is not promised.
	unordered bool
	// waits tells which errors of a read pass; none where it is nil. written is called when the
	// writers have ended.
	waits   func(error) bool
	written func()
	// enough reports whether there was enough of what happens beside the writers; nothing does
	// where it is nil.
	enough func() bool
	// early says that positions are not in the order of a stream's events.
	early bool
}

var subjects = map[string]func(testing.TB) *subject{
	"own table": ownTable,
	"outbox":    func(t testing.TB) *subject { return outboxTable(t, "") },
	"partitioned by range": func(t testing.TB) *subject {
		return partitionedOutbox(t, "RANGE", "FROM (MINVALUE) TO (3000)", "FROM (3000) TO (6000)", "FROM (6000) TO (MAXVALUE)")
	},
	"partitioned by hash": func(t testing.TB) *subject {
		return partitionedOutbox(t, "HASH", "WITH (MODULUS 3, REMAINDER 0)", "WITH (MODULUS 3, REMAINDER 1)", "WITH (MODULUS 3, REMAINDER 2)")
	},
	"own table, separate":   func(t testing.TB) *subject { return separate(ownTable(t), definition.Source{}) },
	"outbox, separate":      func(t testing.TB) *subject { return separate(outboxTable(t, ""), declared(outbox)) },
	"positions taken early": func(t testing.TB) *subject { return outboxTable(t, takeFirst) },
	"positions reserved":    func(t testing.TB) *subject { return outboxTable(t, reserveBlocks) },
}

// separate has a subject be read as if the tokens were in another database.
func separate(on *subject, source definition.Source) *subject {
	on.separate = postgres.OpenSeparate(on.db, schema, source)
	return on
}

// reads is what is read.
func (s *subject) reads() eventsource.Source {
	if s.separate != nil {
		return s.separate
	}
	return s.source
}

// narrow is what is read, but looks at fewer positions at once.
func (s *subject) narrow(window int64) eventsource.Source {
	if s.separate != nil {
		return s.separate.WithWindow(window)
	}
	return s.source.WithWindow(window)
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
  v := nextval('outbox_id_seq'); IF random() < 0.2 THEN PERFORM pg_sleep(random() * 0.01); END IF; RETURN v; END $$;
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

// outboxTable is the outbox, prepared, and altered such that positions are not in the order of a stream's events, unless alter is empty.
func outboxTable(t testing.TB, alter string) *subject {
	db := database(t)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	mapping := outbox
	if alter != "" {
		exec(t, db, alter, pgx.QueryExecModeSimpleProtocol)
		mapping.Positions, mapping.Order = definition.PositionsReserved, definition.OrderNone
	}
	prepare(t, db, mapping)
	on := outboxSubject(db, mapping)
	on.unordered, on.early = alter != "", alter != ""
	if err := on.source.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return on
}

// createPartitioned makes the same table in partitions. No key of it can be without the position, so a row for each stream says which
// number comes next.
const createPartitioned = `
CREATE SEQUENCE outbox_id_seq;
CREATE TABLE outbox (id bigint PRIMARY KEY DEFAULT nextval('outbox_id_seq'), aggregate text NOT NULL, number integer NOT NULL, type varchar(255) NOT NULL, payload jsonb, at timestamptz NOT NULL DEFAULT clock_timestamp()) PARTITION BY %s (id);
ALTER SEQUENCE outbox_id_seq OWNED BY outbox.id;
CREATE TABLE next (aggregate text PRIMARY KEY, number integer NOT NULL);
CREATE FUNCTION outbox_append(p_aggregate text, p_n integer) RETURNS void LANGUAGE plpgsql AS $$ DECLARE v integer; BEGIN
  INSERT INTO next AS n VALUES (p_aggregate, p_n) ON CONFLICT (aggregate) DO UPDATE SET number = n.number + p_n RETURNING number INTO v;
  INSERT INTO outbox (aggregate, number, type, payload) SELECT p_aggregate, v - p_n + i, 'Happened', '{}' FROM generate_series(1, p_n) AS i;
END $$`

func partitionedOutbox(t testing.TB, by string, bounds ...string) *subject {
	db := database(t)
	exec(t, db, fmt.Sprintf(createPartitioned, by))
	for i, bound := range bounds {
		exec(t, db, fmt.Sprintf("CREATE TABLE outbox_%d PARTITION OF outbox FOR VALUES %s", i, bound))
	}
	prepare(t, db, outbox)
	on := outboxSubject(db, outbox)
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
