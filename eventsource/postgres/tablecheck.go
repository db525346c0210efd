package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
)

// errBelowOne says that a table has a position that no reader looks at.
var errBelowOne = &eventsource.InvalidError{Problem: "the table has positions below 1, and events are read from 1 on: give those rows others"}

// stampError says that a row, although it is visible, does not carry the transaction that inserted it: such rows would be read twice, or never.
type stampError struct {
	position int64
	txid     uint64
}

func (e *stampError) Error() string {
	return fmt.Sprintf("%v: the event at position %d carries transaction %d, which has not ended in this server: its row was restored or copied from another one, or was inserted with a value for that column",
		ErrStoreChanged, e.position, e.txid)
}

func (e *stampError) Unwrap() error { return ErrStoreChanged }

// tableFacts are what the catalogs say of a table.
type tableFacts struct {
	oid, file                  uint32 // file changes when the table is emptied or rewritten
	kind, persistence          string
	parents, leaves            []uint32 // the table and those of its partitions that have partitions, if it has; and the others
	position, transaction      string   // the columns' names as the catalogs write them
	stream, version            string
	children, secured, mayRead bool
	columns                    map[string]columnFacts
	indexes                    []indexFacts
	sequences                  []sequenceFacts // that the position's default takes numbers from
}

type columnFacts struct {
	defaultOID       uint32 // 0 without a default
	kind, expression string
	notNull          bool
	generated        bool
}

// indexFacts are those of one that is valid, of all rows, and a B-tree.
type indexFacts struct {
	unique bool
	keys   []string // as PostgreSQL writes them
}

type sequenceFacts struct {
	oid, file        uint32
	name             string // with its schema, quoted
	cache, increment int64
	cycle            bool
	mayRead, logged  bool
}

const (
	// A partition that is a foreign table makes the whole one, and so does one that is not logged.
	tableStatement = `SELECT c.oid, c.relfilenode, CASE WHEN EXISTS (SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class x ON x.oid = t.relid WHERE x.relkind NOT IN ('r', 'p')) THEN 'f' ELSE c.relkind::text END,
       CASE WHEN EXISTS (SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class x ON x.oid = t.relid WHERE x.relpersistence <> 'p') THEN 'u' ELSE c.relpersistence::text END, EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid), row_security_active(c.oid), quote_ident($3), quote_ident($4), quote_ident($5), quote_ident($6),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       ARRAY(SELECT t.relid::oid FROM pg_partition_tree(c.oid) t WHERE NOT t.isleaf ORDER BY 1), ARRAY(SELECT t.relid::oid FROM pg_partition_tree(c.oid) t WHERE t.isleaf ORDER BY 1)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind <> 'i'`
	columnsStatement = `SELECT a.attname, t.typname, coalesce(pg_get_expr(d.adbin, d.adrelid), ''), a.attnotnull, a.attgenerated <> '', coalesce(d.oid, 0)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`
	indexesStatement = `SELECT i.indisunique, ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
 WHERE i.indrelid = $1 AND i.indisvalid AND i.indisready AND i.indpred IS NULL AND m.amname = 'btree'`
	sequenceColumns = `s.oid, s.relfilenode, format('%I.%I', n.nspname, s.relname), q.seqcache, q.seqincrement, q.seqcycle, has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(s.oid, 'SELECT'), s.relpersistence = 'p'`
	namedStatement  = `SELECT ` + sequenceColumns + `
  FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid WHERE n.nspname = $1 AND s.relname = $2`
	sequencesStatement = `SELECT ` + sequenceColumns + `
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  JOIN pg_depend x ON x.classid = 'pg_attrdef'::regclass AND x.objid = d.oid AND x.refclassid = 'pg_class'::regclass
    OR x.classid = 'pg_class'::regclass AND x.refclassid = 'pg_class'::regclass AND x.refobjid = a.attrelid AND x.refobjsubid = a.attnum AND x.deptype = 'i' AND a.attidentity <> ''
  JOIN pg_class s ON s.relkind = 'S' AND s.oid = CASE WHEN x.classid = 'pg_class'::regclass THEN x.objid ELSE x.refobjid END
  JOIN pg_sequence q ON q.seqrelid = s.oid JOIN pg_namespace n ON n.oid = s.relnamespace
 WHERE a.attrelid = $1 AND a.attname = $2`
)

// lookUp asks the catalogs for a table; nil without an error where there is none.
func lookUp(ctx context.Context, db DB, t definition.Table) (*tableFacts, error) {
	schema, name, _ := strings.Cut(t.Name, ".")
	f := &tableFacts{columns: map[string]columnFacts{}}
	err := db.QueryRow(ctx, tableStatement, schema, name, t.Columns.Position, t.Columns.Transaction, t.Columns.Stream, t.Columns.Version).
		Scan(&f.oid, &f.file, &f.kind, &f.persistence, &f.children, &f.secured, &f.position, &f.transaction, &f.stream, &f.version, &f.mayRead, &f.parents, &f.leaves)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rows, err := db.Query(ctx, columnsStatement, f.oid)
	if err != nil {
		return nil, err
	}
	var column string
	var c columnFacts
	if _, err := pgx.ForEachRow(rows, []any{&column, &c.kind, &c.expression, &c.notNull, &c.generated, &c.defaultOID}, func() error { f.columns[column] = c; return nil }); err != nil {
		return nil, err
	}
	if rows, err = db.Query(ctx, indexesStatement, f.oid); err != nil {
		return nil, err
	}
	if f.indexes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (i indexFacts, err error) { return i, row.Scan(&i.unique, &i.keys) }); err != nil {
		return nil, err
	}
	f.sequences, err = lookUpSequences(ctx, db, t, f.oid)
	return f, err
}

// lookUpSequences asks for the sequence that is named, or else for those of the default of the position's column.
func lookUpSequences(ctx context.Context, db DB, t definition.Table, oid uint32) ([]sequenceFacts, error) {
	statement, args := sequencesStatement, []any{oid, t.Columns.Position}
	if t.Sequence != "" {
		schema, name, _ := strings.Cut(t.Sequence, ".")
		statement, args = namedStatement, []any{schema, name}
	}
	rows, err := db.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s sequenceFacts, err error) {
		return s, row.Scan(&s.oid, &s.file, &s.name, &s.cache, &s.increment, &s.cycle, &s.mayRead, &s.logged)
	})
}

// CheckTable tells whether the role of this connection can read events from a table of the user's: a *eventsource.InvalidError says what to
// change.
func CheckTable(ctx context.Context, db DB, t definition.Table) error {
	_, err := newSource(db, "", tableMapping(t)).survey(ctx)
	return err
}

// checkTable returns a *eventsource.InvalidError that names all that is wrong with the table.
func (s *Source) checkTable(ctx context.Context) error {
	s.watch.mu.Lock()
	before := s.watch.known
	s.watch.mu.Unlock()
	_, err := s.lookAgain(ctx, before)
	return err
}

// checkRows looks at the rows of a table that is as it has to be otherwise.
func (s *Source) checkRows(ctx context.Context, f *tableFacts) error {
	t, m := *s.events.table, s.events.of(f, "")
	// Transactions of this server only: those of another one would become visible at some time, and
	// their events be read again.
	foreign := "coalesce((SELECT {{txid}} FROM {{table}} ORDER BY {{txid}} DESC LIMIT 1) >= pg_snapshot_xmax(pg_current_snapshot()), false)"
	if _, there := f.columns[t.Columns.Transaction]; s.gaps != nil || !there {
		foreign = "false" // positions mean the same on every server
	}
	var below, ahead bool
	var head int64
	var mark *int64 // read after the snapshot was taken, so it is not below the positions of rows that come from there
	err := s.queryRow(ctx, "SELECT "+m.belowOne()+", "+m.in(foreign)+", ("+m.head+"), ("+m.mark+")", nil, &below, &ahead, &head, &mark)
	switch {
	case err != nil:
		return fmt.Errorf("looking at the events of %s: %w", t.Name, err)
	case below:
		return errBelowOne
	case ahead:
		return &eventsource.InvalidError{Problem: fmt.Sprintf("rows of %s carry transactions in %s that this server has not had: they were restored or copied from another one; "+
			"run `sluice rebase -f` where the store was restored together with them; otherwise drop that column, run `sluice source prepare`, and start the processing groups anew", t.Name, t.Columns.Transaction)}
	case mark == nil && m.taken != "":
		return errAltered
	case mark != nil && *mark < head:
		return behind(t.Name, f.sequences[0].name, *mark, head)
	}
	return nil
}

// equal reports whether the catalogs say the same.
func (f *tableFacts) equal(other *tableFacts) bool { return reflect.DeepEqual(f, other) }

// tableProblems says what has to be changed before a table can be read.
func tableProblems(t definition.Table, f *tableFacts) (problems []string) {
	if problem := relationProblem(t.Name, f); problem != "" {
		return []string{problem}
	}
	problems = columnProblems(t, f)
	switch {
	case t.Columns.Transaction != "":
		problems = append(problems, transactionProblems(t, f)...)
	case f.kind == "p":
		problems = append(problems, fmt.Sprintf("table.columns.transaction: %s is in partitions, and these can be read by their transactions only: declare the column, and run `sluice source prepare`", t.Name))
	}
	if !slices.ContainsFunc(f.indexes, func(i indexFacts) bool { return i.unique && slices.Equal(i.keys, []string{f.position}) }) {
		problems = append(problems, fmt.Sprintf("table.columns.position: %s has no unique index on %s alone: make it the primary key, or name the column that is", t.Name, t.Columns.Position))
	}
	if tableMapping(t).ordered() && !slices.ContainsFunc(f.indexes, func(i indexFacts) bool { return i.unique && slices.Equal(i.keys, []string{f.stream, f.version}) }) {
		problems = append(problems, fmt.Sprintf("table.order: to give a stream's events in the order of their numbers, %s needs a unique index on (%s, %s), by which the one before an event is found: create it, correct columns.version, or declare order: None",
			t.Name, t.Columns.Stream, t.Columns.Version))
	}
	switch {
	case t.Columns.Transaction == "" && t.Positions != definition.PositionsReserved:
		problems = append(problems, fenceProblems(t, f)...)
	case t.Positions == definition.PositionsInserted:
		problems = append(problems, sequenceProblems(t, f)...)
	}
	return problems
}

func relationProblem(name string, f *tableFacts) string {
	switch {
	case f == nil:
		return fmt.Sprintf("table.name: the store's database has no table %s: correct the name, with its schema and in the same case, or create it", name)
	case f.kind != "p" && (f.kind != "r" || f.children):
		return fmt.Sprintf("table.name: %s is not a plain table, nor one of plain partitions: views, foreign tables and those with other children cannot be read", name)
	case f.persistence != "p":
		return fmt.Sprintf("table.name: %s is not logged, so a crash empties it: ALTER TABLE %s SET LOGGED", name, identifier(name))
	case !f.mayRead:
		return fmt.Sprintf("table.name: the role that workers connect as may not read %s: GRANT USAGE on its schema and GRANT SELECT on it", name)
	case f.secured:
		return hidden(name)
	}
	return ""
}

// columnProblems looks at what every column has to be.
func columnProblems(t definition.Table, f *tableFacts) (problems []string) {
	numbers, texts := []string{"int8", "int4", "int2"}, []string{"text", "varchar", "bpchar"}
	look := func(field, name string, required bool, kinds ...string) {
		if name == "" {
			return
		}
		at := "table." + field
		c, there := f.columns[name]
		switch {
		case !there:
			problems = append(problems, fmt.Sprintf("%s: %s has no column %s", at, t.Name, name))
		case len(kinds) > 0 && !slices.Contains(kinds, c.kind):
			problems = append(problems, fmt.Sprintf("%s: the column %s has the type %s, and can have %s", at, name, c.kind, strings.Join(kinds, ", ")))
		case required && !c.notNull:
			problems = append(problems, fmt.Sprintf("%s: the column %s may be null: ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", at, name, identifier(t.Name), column(name)))
		}
	}
	look("columns.position", t.Columns.Position, true, numbers...)
	look("columns.stream", t.Columns.Stream, true)
	look("columns.version", t.Columns.Version, true, numbers...)
	look("columns.type", t.Columns.Type, true)
	look("columns.id", t.Columns.ID, false)
	look("columns.recordedAt", t.Columns.RecordedAt, true, append(texts, "timestamptz", "timestamp")...)
	kinds := map[string][]string{definition.PayloadJSONB: {"jsonb"}, definition.PayloadJSON: {"json"}, definition.PayloadText: texts,
		definition.PayloadBytea: {"bytea"}, definition.PayloadLargeObject: {"oid"}}
	look("data", t.Data.Column, false, kinds[t.Data.Type]...)
	if t.Metadata != nil {
		look("metadata", t.Metadata.Column, false, kinds[t.Metadata.Type]...)
	}
	return problems
}

// transactionProblems looks at the column and the index that sluice source prepare makes.
func transactionProblems(t definition.Table, f *tableFacts) []string {
	const at = "table.columns.transaction"
	c, there := f.columns[t.Columns.Transaction]
	switch {
	case !there:
		return []string{fmt.Sprintf("%s: %s has no column %s: run `sluice source prepare`, which adds it", at, t.Name, t.Columns.Transaction)}
	case c.kind != "xid8":
		return []string{fmt.Sprintf("%s: the column %s has the type %s, and has to be xid8: name another one, which `sluice source prepare` adds", at, t.Columns.Transaction, c.kind)}
	case c.expression != "pg_current_xact_id()" || c.generated:
		return []string{fmt.Sprintf("%s: the column %s has not the default pg_current_xact_id(): drop it, and run `sluice source prepare`", at, t.Columns.Transaction)}
	case !c.notNull:
		return []string{fmt.Sprintf("%s: the column %s may be null: ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", at, t.Columns.Transaction, identifier(t.Name), column(t.Columns.Transaction))}
	}
	if !f.indexed() {
		return []string{fmt.Sprintf("%s: %s has no valid index on (%s, (%s + 0)): run `sluice source prepare`, which creates it", at, t.Name, f.transaction, f.position)}
	}
	return nil
}

// indexed reports whether there is the index that finds late events.
func (f *tableFacts) indexed() bool {
	return slices.ContainsFunc(f.indexes, func(i indexFacts) bool { return slices.Equal(i.keys, f.lateKeys()) })
}

// lateKeys are those of that index.
func (f *tableFacts) lateKeys() []string { return []string{f.transaction, "(" + f.position + " + 0)"} }

// sequenceProblems looks at what takes positions where they are taken by the insert.
func sequenceProblems(t definition.Table, f *tableFacts) (problems []string) {
	const at = "table.positions"
	const others = "or declare positions: Transaction or Reserved, with order: None"
	if len(f.sequences) != 1 {
		return []string{fmt.Sprintf("%s: Inserted needs a column %s that takes its default from a sequence, or is an identity, and it has %d: change it, %s", at, t.Columns.Position, len(f.sequences), others)}
	}
	s := f.sequences[0]
	if s.cache != 1 || s.increment < 1 || s.cycle {
		problems = append(problems, fmt.Sprintf("%s: Inserted needs a sequence whose numbers rise in the order in which they are taken, and %[2]s has CACHE %[3]d, INCREMENT %[4]d, CYCLE %[5]t: ALTER SEQUENCE %[2]s CACHE 1 NO CYCLE, %[6]s",
			at, s.name, s.cache, s.increment, s.cycle, others))
	}
	return problems
}

// fenceProblems looks at what takes positions where rows do not tell their transaction: that nobody can fill a gap any more is known by the
// sequence's lock, which those hold that took a number from it.
func fenceProblems(t definition.Table, f *tableFacts) (problems []string) {
	const others = "or declare columns.transaction, which `sluice source prepare` adds, or positions: Reserved"
	if len(f.sequences) != 1 {
		if t.Sequence != "" {
			return []string{fmt.Sprintf("table.sequence: the store's database has no sequence %s: correct the name, with its schema and in the same case", t.Sequence)}
		}
		return []string{fmt.Sprintf("table.sequence: without columns.transaction the sequence has to be known that positions are taken from, and the default of %s has %d: name it, with its schema, %s", t.Columns.Position, len(f.sequences), others)}
	}
	s := f.sequences[0]
	if s.cache != 1 || s.increment != 1 || s.cycle {
		problems = append(problems, fmt.Sprintf("table.positions: without columns.transaction, %s needs a sequence that gives each number out for itself, and %[2]s has CACHE %[3]d, INCREMENT %[4]d, CYCLE %[5]t: ALTER SEQUENCE %[2]s CACHE 1 INCREMENT 1 NO CYCLE, if no client counts on blocks of numbers, %[6]s",
			t.Positions, s.name, s.cache, s.increment, s.cycle, others))
	}
	if !s.logged {
		problems = append(problems, fmt.Sprintf("table.sequence: %[1]s is not logged, so a crash sets it back: ALTER SEQUENCE %[1]s SET LOGGED", s.name))
	}
	if !s.mayRead {
		problems = append(problems, fmt.Sprintf("table.sequence: the role that workers connect as may not read %[1]s: GRANT SELECT ON SEQUENCE %[1]s", s.name))
	}
	return problems
}
