package postgres

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
)

// mapping says how events stand in a table: Sluice's own, or one of the user's. Both are read by the same statements.
type mapping struct {
	table    *definition.Table // nil for Sluice's own
	relation string            // the table, quoted
	position string            // its column, quoted; so are the next ones
	txid     string
	time     string // an expression, of the row e
	since    string // a condition: the time is not before $1
	events   string // the columns of a page, of the row e, but for the time and those of the next two
	place    string // of those, the position and the transaction
	fields   []field
	contents string // more of them, of the row e: an event's version, id, data and metadata; empty where they are not read
	before   string // the last one, where an event waits for the one before it
	head     string // a query for the highest position that the statement's snapshot can see, or a higher one
	// state is empty, or says what keeps the server from being read; it is asked with each page.
	state string
	// sliced says that the database can tell which segments an event belongs to.
	sliced bool
	// separate says that each page tells where it comes from, as the store is in another database.
	separate bool
	// timed says that the time of an event is the same for whoever reads it. That of a column without
	// a time zone depends on the settings of the role.
	timed   bool
	deleted string // a query for the highest position of events that were deleted; "NULL" if nobody notes them
	// Of a user's table, once the catalogs have been looked at:
	shape string // an expression for its shape
	mark  string // a query for the last number of the sequence that gaps are proved by; "NULL" where none are
	taken string // that sequence, quoted
}

// What keeps a server from being read.
const (
	standby = "standby"
	below   = "below"
	secured = "secured"
)

// ownMapping is that of Sluice's own table in a schema.
func ownMapping(schema string) mapping {
	quoted := pgx.Identifier{schema}.Sanitize()
	return mapping{
		relation: quoted + ".event", position: "position", txid: "txid", time: "e.recorded_at", since: "recorded_at >= $1::timestamptz", sliced: true,
		place:  "e.position, e.txid",
		events: "e.position, e.txid, e.stream_id, e.type",
		fields: []field{{name: eventsource.FieldStream, column: "stream_id", expression: "e.stream_id"}, {name: eventsource.FieldType, column: "type", expression: "e.type"},
			{name: "columns.recordedAt", column: "recorded_at", expression: "e.recorded_at"}, {name: "columns.version", column: "version", expression: "e.version", content: true},
			{name: "columns.id", column: "id", expression: "e.id::text", content: true},
			{name: eventsource.FieldData, column: "data", expression: "e.data::text", content: true}, {name: eventsource.FieldMetadata, column: "metadata", expression: "e.metadata::text", content: true}},
		contents: ", e.version, e.id, e.data, e.metadata",
		timed:    true,
		deleted:  "SELECT max(position) FROM " + quoted + ".event_deleted",
		head:     "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM " + quoted + ".event_position_seq",
		state:    "CASE WHEN pg_is_in_recovery() THEN '" + standby + "' WHEN row_security_active(" + literal(quoted+".event") + ") THEN '" + secured + "' ELSE '' END",
	}
}

// tableMapping is that of a user's table. Its head is its highest position that is visible: what takes a lower one, and is not visible
// yet, is found by its transaction.
func tableMapping(t definition.Table) mapping {
	c := t.Columns
	m := mapping{table: &t, deleted: "NULL", relation: identifier(t.Name), position: column(c.Position), txid: column(c.Transaction), time: recordedAt("e", t)}
	m.since = column(c.RecordedAt) + "::timestamptz >= $1::timestamptz"
	if t.TimeZone != "" {
		m.since = column(c.RecordedAt) + " >= $1::timestamptz AT TIME ZONE " + literal(t.TimeZone) // an index on the column can answer that
	}
	txid := "e." + m.txid
	if m.gapped() {
		txid = "'3'::xid8" // one that every snapshot sees
	}
	m.place = fmt.Sprintf("e.%s::bigint AS position, %s AS txid", m.position, txid)
	m.events = fmt.Sprintf("%s, %s AS stream_id, %s AS type", m.place, text("e", c.Stream), text("e", c.Type))
	metadataColumn := ""
	if t.Metadata != nil {
		metadataColumn = t.Metadata.Column
	}
	m.fields = []field{{name: eventsource.FieldStream, column: c.Stream, expression: text("e", c.Stream)}, {name: eventsource.FieldType, column: c.Type, expression: text("e", c.Type)},
		{name: "columns.recordedAt", column: c.RecordedAt, expression: m.time}, {name: "columns.version", column: c.Version, expression: version("e", c), content: true},
		{name: "columns.id", column: cmp.Or(c.ID, c.Position), expression: id("e", c), content: true},
		{name: eventsource.FieldData, column: t.Data.Column, expression: payload("e", t.Data, "null"), content: true, json: mayBeNoJSON(&t.Data)},
		{name: eventsource.FieldMetadata, column: metadataColumn, expression: metadata("e", t.Metadata), content: true, json: mayBeNoJSON(t.Metadata)}}
	m.contents = fmt.Sprintf(", %s AS version, %s AS id, %s AS data, %s AS metadata", version("e", c), id("e", c), payload("e", t.Data, "null"), metadata("e", t.Metadata))
	if m.ordered() {
		stream, number := column(c.Stream), column(c.Version)
		m.before = fmt.Sprintf(", coalesce((SELECT b.%s::bigint FROM %s b WHERE b.%[3]s = e.%[3]s AND b.%[4]s < e.%[4]s ORDER BY b.%[4]s DESC LIMIT 1), 0) AS before",
			m.position, m.relation, stream, number)
	}
	m.head = fmt.Sprintf("SELECT coalesce(max(%s), 0)::bigint FROM %s", m.position, m.relation)
	m.shape, m.mark = "NULL::text", "NULL::bigint"
	m.state = fmt.Sprintf("CASE WHEN pg_is_in_recovery() THEN '%s' WHEN %s THEN '%s' ELSE '' END", standby, m.belowOne(), below)
	return m
}

// of is the mapping of a table that was looked at.
func (m mapping) of(f *tableFacts, zone string) mapping {
	t := *m.table
	t.TimeZone = zone
	separate := m.separate
	m = tableMapping(t)
	m.separate, m.timed = separate, f.columns[t.Columns.RecordedAt].kind == "timestamptz"
	m.shape = shapeOf(m, f)
	if m.gapped() && m.table.Positions != definition.PositionsReserved {
		m.taken, m.mark = f.sequences[0].name, markOf(f.sequences[0].name)
	}
	return m
}

// statements are those that read the table.
func (m mapping) statements() statements {
	return statements{page: m.in(m.page()), bare: m.withoutContents().in(m.page()), start: m.in(startStatement), time: m.in(timeStatement), waiting: m.in(waitingStatement), round: m.in(roundStatement),
		witnesses: m.in(witnessesStatement), newest: "SELECT " + m.newest(), mapping: m, skeleton: m.positions().in(m.page()), rows: m.in(rowsStatement), bareRows: m.withoutContents().in(rowsStatement), fields: m.fields}
}

// rowsStatement gives the events at some positions as a page does.
const rowsStatement = "SELECT {{columns}} FROM (SELECT {{events}} FROM {{table}} e WHERE e.{{position}} = ANY ($1::bigint[]) ORDER BY e.{{position}} OFFSET 0) AS u ORDER BY u.position"

// positions is the mapping without anything that could fail to be read.
func (m mapping) positions() mapping {
	m = m.withoutContents()
	m.events, m.time = m.place+", NULL::text AS stream_id, NULL::text AS type", "'epoch'::timestamptz"
	return m
}

// limitAt is which of a page's parameters is the limit.
func (m mapping) limitAt() int {
	if m.gapped() {
		return 3
	}
	return 4
}

// belowOne tells whether there are positions below 1, which would never be read. By EXISTS PostgreSQL reads all rows, where it has not counted them and
// believes that a third are there; and a minimum is looked for among the rows that were deleted.
func (m mapping) belowOne() string {
	return fmt.Sprintf("(SELECT %[1]s FROM %[2]s WHERE %[1]s < 1 ORDER BY %[1]s LIMIT 1) IS NOT NULL", m.position, m.relation)
}

// gapped reports whether rows do not tell their transaction.
func (m mapping) gapped() bool { return m.table != nil && m.table.Columns.Transaction == "" }

// ordered reports whether an event waits for the one before it in its stream, as positions are not in the order of the streams.
func (m mapping) ordered() bool {
	return m.gapped() && m.table.Positions != definition.PositionsInserted && m.table.Order == definition.OrderStream
}

// withoutContents is the mapping with events that have no version, no id, no data and no metadata.
func (m mapping) withoutContents() mapping {
	m.contents = ""
	return m
}

// page is the statement that reads one.
func (m mapping) page() string {
	if m.gapped() {
		return readGapsStatement
	}
	return readStatement
}

// in fills the mapping into a statement.
func (m mapping) in(statement string) string {
	none, columns := "", "u.position, u.txid, u.stream_id, u.type, u.recorded_at" // the first row's beyond these, and all of the others'
	if m.contents != "" {
		none += ", 0::bigint AS version, NULL AS id, NULL AS data, NULL AS metadata"
		columns += ", u.version, u.id, u.data::text, u.metadata::text"
	}
	if m.ordered() {
		none += ", 0::bigint AS before"
		columns += ", u.before"
	}
	wanted, within := "true", "true"
	if m.sliced {
		wanted = "CASE WHEN get_bit($8::bytea, e.slice & $7::integer) = 1 THEN true ELSE false END"
		within = "e.{{position}} <= $6::bigint AND " + wanted
	}
	within = strings.ReplaceAll(within, "{{position}}", m.position)
	about := "(" + m.head + ")::text"
	if m.table != nil {
		about = fmt.Sprintf("concat_ws('|', (%s), %s, coalesce((%s)::text, '-'), %s)", m.head, m.shape, m.mark, serverOf)
	}
	if m.separate {
		about = fmt.Sprintf("concat_ws('%s', %s, %s, %s)", originMark, about, originOf, m.newest())
	}
	return strings.NewReplacer("{{table}}", m.relation, "{{position}}", m.position, "{{txid}}", m.txid, "{{since}}", m.since, "{{time}}", m.time, "{{events}}",
		m.events+", "+m.time+" AS recorded_at"+m.contents+m.before,
		"{{head}}", m.head, "{{about}}", about, "{{shape}}", m.shape, "{{mark}}", m.mark, "{{digest}}", m.digest(), "{{deleted}}", m.deleted, "{{origin}}", originOf, "{{sequence}}", m.taken, "{{state}}", m.state, "{{wanted}}", wanted, "{{within}}", within, "{{columns}}", columns, "{{none}}", none).Replace(statement)
}

// name of the table and its positions in tokens, schema.table.column; empty for Sluice's own.
func (m mapping) name() string {
	if m.table == nil {
		return ""
	}
	return m.table.Name + "." + m.table.Columns.Position
}

// JoinEvents is a join that gives for each row r, by its position, the event e of a source, with the columns position, stream_id, type,
// data, metadata and recorded_at. OFFSET 0 has the server look each position up: left to choose, it also takes a merge join for cheap,
// which walks the index from the table's first event for each batch.
func JoinEvents(schema string, source definition.Source) string {
	// Lateral, because large objects are read by a volatile function: without it the server would read those of all rows.
	rows, position := selectEvents(schema, source)
	return fmt.Sprintf("CROSS JOIN LATERAL (%s WHERE %s = r.position %s) AS e", rows, position, noneHidden(schema, source))
}

// EventsAt is the table e of the events of a source at the positions in the parameter $1, an array in ascending order, in that order and with
// the columns of [JoinEvents]. OFFSET 0 keeps the server from looking for them by what else a statement says of them. The ends of the array
// tell it which partitions to look into.
func EventsAt(schema string, source definition.Source) string {
	rows, position := selectEvents(schema, source)
	return fmt.Sprintf("(%s WHERE %s BETWEEN ($1::bigint[])[1] AND ($1::bigint[])[cardinality($1::bigint[])] AND %[2]s = ANY ($1::bigint[]) ORDER BY %[2]s %s) AS e",
		rows, position, noneHidden(schema, source))
}

// noneHidden is OFFSET 0, which fails a statement if row level security may hide events from it: the
// token would move past those. The page that the events were read with cannot tell. The table may
// have been altered since, and other statements may have changed the role. A condition would be
// left out where the planner knows that no row is to be seen.
func noneHidden(schema string, source definition.Source) string {
	table := pgx.Identifier{schema, "event"}.Sanitize()
	if source.Table != nil {
		table = identifier(source.Table.Name)
	}
	return fmt.Sprintf("OFFSET (SELECT CASE WHEN pg_catalog.row_security_active(%s::pg_catalog.regclass) THEN (%s.hidden_events(%[1]s) IS NULL)::integer ELSE 0 END)",
		literal(table), pgx.Identifier{schema}.Sanitize())
}

// selectEvents selects the columns that SQL handlers see from the table t of a source, and returns its column of positions too.
func selectEvents(schema string, source definition.Source) (rows, position string) {
	if source.Table == nil {
		return fmt.Sprintf("SELECT * FROM %s.event t", pgx.Identifier{schema}.Sanitize()), "t.position"
	}
	t, c := source.Table, source.Table.Columns
	position = "t." + column(c.Position)
	return fmt.Sprintf("SELECT %s::bigint AS position, %s AS stream_id, %s AS type, (%s)::jsonb AS data, (%s)::jsonb AS metadata, %s AS recorded_at FROM %s t",
		position, text("t", c.Stream), text("t", c.Type), payload("t", t.Data, "null"), metadata("t", t.Metadata), recordedAt("t", *t), identifier(t.Name)), position
}

func identifier(table string) string {
	schema, name, _ := strings.Cut(table, ".")
	return pgx.Identifier{schema, name}.Sanitize()
}

func column(name string) string { return pgx.Identifier{name}.Sanitize() }

func text(row, name string) string { return row + "." + column(name) + "::text" }

// recordedAt is an event's time. One that says no zone is in that of the role, which its writer has
// had too if it asked for no other.
func recordedAt(row string, t definition.Table) string {
	time := row + "." + column(t.Columns.RecordedAt)
	if t.TimeZone != "" {
		return "(" + time + " AT TIME ZONE " + literal(t.TimeZone) + ")"
	}
	return time + "::timestamptz"
}

func version(row string, c definition.TableColumns) string {
	if c.Version == "" {
		return "0::bigint"
	}
	return row + "." + column(c.Version) + "::bigint"
}

// id is the position where events have no other.
func id(row string, c definition.TableColumns) string {
	if c.ID == "" {
		return text(row, c.Position)
	}
	return "coalesce(" + text(row, c.ID) + ", '')"
}

func metadata(row string, p *definition.Payload) string {
	if p == nil {
		return "'{}'"
	}
	return payload(row, *p, "{}")
}

// mayBeNoJSON reports whether a column is declared to have JSON, and may have anything.
func mayBeNoJSON(p *definition.Payload) bool {
	return p != nil && p.Content != definition.ContentText && p.Content != definition.ContentBase64 && p.Type != definition.PayloadJSONB && p.Type != definition.PayloadJSON
}

// payload is a column's content as JSON, or what stands for NULL.
func payload(row string, p definition.Payload, null string) string {
	value := row + "." + column(p.Column)
	if p.Type == definition.PayloadLargeObject {
		value = "lo_get(" + value + ")"
	}
	binary := p.Type == definition.PayloadLargeObject || p.Type == definition.PayloadBytea
	switch {
	case p.Content == definition.ContentBase64:
		value = "to_json(translate(encode(" + value + ", 'base64'), E'\\n', ''))::text"
	case binary:
		value = "convert_from(" + value + ", 'UTF8')"
	default:
		value += "::text"
	}
	if p.Content == definition.ContentText {
		value = "to_json(" + value + ")::text"
	}
	return "coalesce(" + value + ", '" + null + "')"
}
