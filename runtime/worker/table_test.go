package worker_test

import (
	"context"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
)

// userTable is a table of a user's, and the sample that reads it.
type userTable struct {
	sample, event string
	// create makes the table, and a function append_one(stream, n) that inserts as an application would.
	create  string
	payload string // type of data and metadata, where the sample's is another
	// positions says how they are taken, where that is not as in the sample.
	positions string
}

const outboxTable = `
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload jsonb NOT NULL,
  headers jsonb, created_at timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION append_one(p_stream text, p_n integer) RETURNS void LANGUAGE sql AS $$
  INSERT INTO outbox (aggregate_id, event_type, payload) VALUES (p_stream, 'OrderPlaced', jsonb_build_object('n', p_n, 'amount', p_n)) $$`

// axonTable is what Axon Framework 4's JPA mapping is on PostgreSQL, with {{bytes}} for what Hibernate makes of a byte array.
const axonTable = `
CREATE SEQUENCE domain_event_entry_seq;
CREATE TABLE domain_event_entry (
  global_index bigint NOT NULL PRIMARY KEY, event_identifier varchar(255) NOT NULL UNIQUE, meta_data {{bytes}}, payload {{bytes}} NOT NULL, payload_revision varchar(255),
  payload_type varchar(255) NOT NULL, time_stamp varchar(255) NOT NULL, aggregate_identifier varchar(255) NOT NULL, sequence_number bigint NOT NULL,
  type varchar(255), UNIQUE (aggregate_identifier, sequence_number));
CREATE FUNCTION append_one(p_stream text, p_n integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v_index bigint := nextval('domain_event_entry_seq'); -- as Hibernate does, before the insert
BEGIN
  INSERT INTO domain_event_entry (global_index, event_identifier, meta_data, payload, payload_type, time_stamp, aggregate_identifier, sequence_number, type)
  VALUES (v_index, gen_random_uuid(), {{bytes_of}}convert_to('{"traceId": "t"}', 'UTF8')),
    {{bytes_of}}convert_to(format('{"n": %s, "amount": %s, "who": "Ærø"}', p_n, p_n), 'UTF8')), 'com.example.cards.CardIssued',
    to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), p_stream, p_n - 1, 'Card');
END $$`

func axonSchema(bytes, bytesOf string) string {
	return strings.NewReplacer("{{bytes}}", bytes, "{{bytes_of}}", bytesOf).Replace(axonTable)
}

// axonBlocks is the same written by two instances of an application, which take turns and have their positions in blocks of fifty, as Hibernate does by default: each
// event of a stream has a position in another block than the one before.
func axonBlocks() string {
	return "CREATE SEQUENCE node_0; CREATE SEQUENCE node_1;" + strings.NewReplacer(
		"v_index bigint := nextval('domain_event_entry_seq'); -- as Hibernate does, before the insert", "v_node bigint := p_n % 2; v_taken bigint := nextval('node_' || v_node) - 1;",
		"VALUES (v_index,", "VALUES ((v_taken / 50 * 2 + v_node) * 50 + v_taken % 50 + 1,").Replace(axonSchema("bytea", "("))
}

var userTables = map[string]userTable{
	"outbox":                  {"outbox.yaml", "OrderPlaced", outboxTable, definition.PayloadJSONB, ""},
	"Axon with large objects": {"axon.yaml", "com.example.cards.CardIssued", axonSchema("oid", "lo_from_bytea(0, "), definition.PayloadLargeObject, ""},
	"Axon with bytea":         {"axon.yaml", "com.example.cards.CardIssued", axonSchema("bytea", "("), definition.PayloadBytea, ""},
	"outbox, unaltered":       {"outbox-unaltered.yaml", "OrderPlaced", outboxTable, definition.PayloadJSONB, ""},
	"Axon, blocks of fifty":   {"axon-unaltered.yaml", "com.example.cards.CardIssued", axonBlocks(), definition.PayloadBytea, definition.PositionsReserved},
	"Axon, unaltered":         {"axon-unaltered.yaml", "com.example.cards.CardIssued", axonSchema("bytea", "("), definition.PayloadBytea, ""},
}

// TestAUsersTableIsFolded reads tables of users by the samples' mappings, while late transactions end and segments move.
func TestAUsersTableIsFolded(t *testing.T) {
	t.Parallel()
	for name, table := range userTables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
			w.sql(table.create)
			source, group := sampleOf(t, table)
			w.appendOne(0, 10, 5) // before the table is prepared
			w.prepare(*source.Table)
			counted := strings.ReplaceAll(view, "Counted", table.event)
			groups := fmt.Sprintf("\n  - name: folded\n    segments: 4%s\n  - %s\n  source: %s\n", counted, asJSON(t, group), asJSON(t, source))
			w.edit(groups)
			w.start("a")
			w.handled(50)

			late, err := w.begin(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			defer late.Rollback(context.Background())
			if _, err := late.Exec(context.Background(), "SELECT append_one('late', n) FROM generate_series(1, 20) AS n"); err != nil {
				t.Fatal(err)
			}
			w.appendOne(5, 10, 5)
			w.handled(100)
			drain := w.start("b")
			w.until("two owners", `SELECT count(DISTINCT owner) = 2 FROM sluice.token WHERE group_name = 'folded' AND owner <> 0`)
			if err := late.Commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			drain()
			w.appendOne(10, 10, 5)
			w.handled(170)
			w.chained(10, 15)
			w.until("the sample's view", fmt.Sprintf(`SELECT count(*) = 11 AND sum(total) = 10 * 120 + 210 FROM (SELECT * FROM %s) AS v (id, total)`,
				map[string]string{"OrderPlaced": "order_totals", "com.example.cards.CardIssued": "card_balances"}[table.event]))
		})
	}
}

// A worker does not read a table that is not as its definition says, and tells why; it goes on when that is repaired.
func TestAWorkerWaitsForATableToBePrepared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
	w.sql(outboxTable)
	w.appendOne(0, 3, 2)
	source, _ := sampleOf(t, userTables["outbox"])
	w.edit(fmt.Sprintf("\n  - name: folded\n    segments: 2%s\n  source: %s\n", strings.ReplaceAll(view, "Counted", "OrderPlaced"), asJSON(t, source)))
	w.start("a")
	w.until("workers that tried", `SELECT last_value >= 2 FROM sluice.incarnation`)
	var workers int
	if err := w.pool.QueryRow(context.Background(), "SELECT count(*) FROM sluice.worker").Scan(&workers); err != nil || workers != 0 {
		t.Fatalf("%d workers (%v), though none can read", workers, err)
	}
	w.prepare(*source.Table)
	w.handled(6)
	w.chained(3, 2)
}

// sampleOf returns the source of a table's sample, and its group.
func sampleOf(t *testing.T, table userTable) (definition.Source, definition.Group) {
	t.Helper()
	data, err := os.ReadFile("../../config/samples/" + table.sample)
	if err != nil {
		t.Fatal(err)
	}
	document, err := definition.ParseYAML(data)
	if err != nil {
		t.Fatal(err)
	}
	source := document.Spec.Source
	source.Table.Data.Type, source.Table.Metadata.Type = table.payload, table.payload
	if table.positions != "" {
		source.Table.Positions, source.Table.Sequence = table.positions, ""
	}
	return source, document.Spec.ProcessingGroups[0]
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (w *world) sql(text string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), text, args...); err != nil {
		w.t.Fatal(err)
	}
}

// appendOne appends events from+1 to from+n to each of some streams, one a transaction.
func (w *world) appendOne(from, streams, n int) {
	w.t.Helper()
	for i := range n {
		for s := range streams {
			w.sql("SELECT append_one($1, $2)", fmt.Sprint("stream-", s), from+i+1)
		}
	}
}

func (w *world) prepare(table definition.Table) {
	w.t.Helper()
	conn, err := w.pool.Acquire(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Release()
	if err := eventspostgres.Prepare(context.Background(), conn.Conn(), table, func(string) {}); err != nil {
		w.t.Fatal(err)
	}
}

// chained fails unless each of the streams has the chain of n events.
func (w *world) chained(streams, n int) {
	w.t.Helper()
	sum := func(text string) string { return fmt.Sprintf("%x", md5.Sum([]byte(text))) }
	want := sum("1")
	for i := 2; i <= n; i++ {
		want = sum(want + sum(fmt.Sprint(i)))
	}
	var right int
	err := w.pool.QueryRow(context.Background(), "SELECT count(*) FROM stream_view WHERE stream_id LIKE 'stream-%' AND events = $1 AND chain = $2", n, want).Scan(&right)
	if err != nil {
		w.t.Fatal(err)
	}
	if right != streams {
		w.t.Fatalf("%d streams of %d are the fold over the table", right, streams)
	}
}
