package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
)

// tableWatch is what a source knows of a user's table, for all who read it, and notices when that
// changes.
//
// Each page and each round of proof returns, from the snapshot in which it reads, the table's
// shape: a digest of the versions of all catalog rows that reading rests on. Whatever alters the
// table changes it, and what is read under one shape is never mixed with what was learnt under
// another. So a change that came and went between two looks at the catalogs is noticed too. After a
// change the catalogs are looked at anew: reading goes on where nothing could be lost, waits where
// the table is not as it has to be, and stops for good where what was read does not fit the table
// any more.
type tableWatch struct {
	looking sync.Mutex // held by the one that looks at the catalogs

	mu      sync.Mutex
	known   *known // nil before the first look
	stopped error  // for good
	parts   parts
}

// parts is what pages have vouched for of a table in partitions.
type parts struct {
	through  int64
	snapshot Snapshot
	detached map[uint32]Snapshot // by partition: what had been vouched for when it was seen last
}

// known is what the catalogs said of a table, and the statements that follow from it.
type known struct {
	shape string
	facts *tableFacts
	zone  string // of the role that reads, where the table's times say none
	statements
}

// statements of a source.
type statements struct {
	page, bare  string // with all that there is of events, and without contents
	start, time string
	waiting     string // the age of the next event
	// of pages that are read carefully: which events there are, and what is in them
	skeleton       string
	rows, bareRows string
	fields         []field
	round          string // of proof, where rows do not tell their transaction
	// of separate sources
	witnesses, newest string
	mapping           mapping
}

// shapeOf is an expression for the table's shape: the versions of its rows in the catalogs, which
// every ALTER, GRANT and TRUNCATE replaces, and VACUUM and ANALYZE do not. Names are resolved when
// the statement is parsed, which holds the table's lock from there on. Each page computes it, so it
// has to be cheap: columns and defaults, of which there are many, come in the order of an index and
// are put into text as one array.
func shapeOf(m mapping, f *tableFacts) string {
	parts := []string{"c.oid", "c.xmin",
		"ARRAY(SELECT xmin FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum)",
		"ARRAY(SELECT xmin FROM pg_attrdef WHERE adrelid = c.oid ORDER BY adnum)",
		"ARRAY(SELECT indexrelid::text || '.' || xmin FROM pg_index WHERE indrelid = c.oid ORDER BY indexrelid)"}
	if len(f.parents) > 0 {
		parents := strings.ReplaceAll(strings.Trim(fmt.Sprint(f.parents), "[]"), " ", ", ")
		parts = append(parts, "ARRAY(SELECT inhrelid::text || '.' || xmin FROM pg_inherits WHERE inhparent IN ("+parents+") ORDER BY inhrelid)")
	}
	for _, s := range f.sequences {
		parts = append(parts, fmt.Sprintf("(SELECT concat_ws('.', s.oid, s.xmin, q.xmin) FROM pg_class s JOIN pg_sequence q ON q.seqrelid = s.oid WHERE s.oid = %s::regclass)", literal(s.name)))
	}
	return fmt.Sprintf("(SELECT concat_ws(' ', %s) FROM pg_class c WHERE c.oid = %s::regclass)", strings.Join(parts, ", "), literal(m.relation))
}

// markOf is a query for a sequence's last number.
func markOf(sequence string) string {
	return "SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM " + sequence
}

// lookAtTable returns what is known of the table, and looks at the catalogs where that is nothing
// yet.
func (s *Source) lookAtTable(ctx context.Context) (*known, error) {
	w := s.watch
	w.mu.Lock()
	k, stopped := w.known, w.stopped
	w.mu.Unlock()
	if k != nil || stopped != nil {
		return k, stopped
	}
	return s.lookAgain(ctx, nil)
}

// steadily does what needs to know the table, and does it again where the table was altered
// meanwhile and can be read all the same.
func (s *Source) steadily(ctx context.Context, do func(*known) error) error {
	for range 5 {
		k, err := s.lookAtTable(ctx)
		if err != nil {
			return err
		}
		err = do(k)
		if s.fileGone(err) && errors.Is(s.unaltered(ctx, k), errAltered) {
			err = errAltered
		}
		if !errors.Is(err, errAltered) {
			return s.explained(ctx, k, err)
		}
		if _, err := s.lookAgain(ctx, k); err != nil {
			return err
		}
	}
	return fmt.Errorf("the table %s is being altered again and again", s.events.relation)
}

// fileGone reports whether an error may come of a sequence that was altered while its number was
// read: that makes a new file of it, and empties the old one.
func (s *Source) fileGone(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && s.events.table != nil && len(pg.Code) == 5 && (pg.Code[:2] == "XX" || pg.Code[:2] == "58")
}

// errAltered says that what a statement read is not what is known of the table.
var errAltered = errors.New("the table was altered")

// unaltered returns an error where the table was altered since it was known.
func (s *Source) unaltered(ctx context.Context, k *known) error {
	var shape string
	if err := s.queryRow(ctx, "SELECT "+shapeOf(s.events, k.facts), nil, &shape); err != nil {
		return err
	}
	if shape != k.shape {
		return errAltered
	}
	return nil
}

// lookAgain looks at the catalogs, unless somebody has done so since it was known what the caller
// knew.
func (s *Source) lookAgain(ctx context.Context, before *known) (*known, error) {
	w := s.watch
	w.looking.Lock()
	defer w.looking.Unlock()
	w.mu.Lock()
	k, stopped := w.known, w.stopped
	w.mu.Unlock()
	if stopped != nil || k != before {
		return k, stopped
	}
	k, err := s.survey(ctx)
	if err != nil {
		return nil, err
	}
	if before != nil {
		problem := changeOf(*s.events.table, before.facts, k.facts)
		if problem == "" && len(k.facts.parents) > 0 {
			problem, err = s.partsChanged(ctx, before.facts.leaves, k.facts.leaves)
		}
		if err != nil {
			return nil, err
		}
		if problem != "" {
			return nil, s.stop(problem)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = k
	return k, nil
}

// stop ends reading for good.
func (s *Source) stop(problem string) error {
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped == nil {
		w.stopped = &eventsource.ChangedError{Problem: problem}
	}
	return w.stopped
}

// survey asks the catalogs for all that is to be known. The shape is read before what is judged: a
// change in between is noticed by the first page.
func (s *Source) survey(ctx context.Context) (*known, error) {
	t := *s.events.table
	for range 5 {
		first, err := lookUp(ctx, s.db, t)
		if err != nil {
			return nil, fmt.Errorf("looking at the table %s: %w", t.Name, err)
		}
		if problems := tableProblems(t, first); len(problems) > 0 {
			return nil, &eventsource.InvalidError{Problem: strings.Join(problems, "; ")}
		}
		k := &known{facts: first}
		if err := s.db.QueryRow(ctx, "SELECT "+shapeOf(s.events, first)).Scan(&k.shape); err != nil {
			return nil, fmt.Errorf("looking at the table %s: %w", t.Name, err)
		}
		again, err := lookUp(ctx, s.db, t)
		if err != nil {
			return nil, fmt.Errorf("looking at the table %s: %w", t.Name, err)
		}
		if again == nil || !again.equal(first) {
			continue
		}
		if err := s.checkRows(ctx, first); errors.Is(err, errAltered) {
			continue
		} else if err != nil {
			return nil, err
		}
		if first.columns[t.Columns.RecordedAt].kind == "timestamp" {
			if k.zone, err = ownTimeZone(ctx, s.db); err != nil {
				return nil, fmt.Errorf("looking for the time zone of the times in %s: %w", t.Name, err)
			}
		}
		k.statements = s.events.of(first, k.zone).statements()
		return k, nil
	}
	return nil, fmt.Errorf("looking at the table %s: it is being altered again and again", t.Name)
}

// changeOf says what was changed so that what was read before does not fit the table any more;
// nothing where reading can go on.
func changeOf(t definition.Table, was, is *tableFacts) string {
	const restart = "restart the workers"
	gapped := t.Columns.Transaction == "" && t.Positions != definition.PositionsReserved
	switch {
	case was.oid != is.oid:
		return fmt.Sprintf("%s is another table than before: it was dropped and created again, or another one was given its name. If the groups' tokens tell of the events that are in it now, %s; otherwise replay the groups, or declare others, and %[2]s", t.Name, restart)
	case t.Columns.Transaction != "" && was.columns[t.Columns.Transaction].defaultOID != is.columns[t.Columns.Transaction].defaultOID:
		return fmt.Sprintf("the default of the column %s of %s was removed and set again, and rows that were inserted in between do not carry their transaction: insert those again, and %s", t.Columns.Transaction, t.Name, restart)
	case gapped && was.sequences[0].oid != is.sequences[0].oid:
		return fmt.Sprintf("the positions of %s come from the sequence %s now, and came from %s before: when all transactions have ended that took numbers from that one, %s", t.Name, is.sequences[0].name, was.sequences[0].name, restart)
	case gapped && was.file != is.file && was.sequences[0].file != is.sequences[0].file:
		return restarted(t.Name, is.sequences[0].name)
	}
	return ""
}

// vouched takes note of what a page of a table in partitions says that it holds.
func (w *tableWatch) vouched(through int64, snapshot Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parts.through, w.parts.snapshot = max(w.parts.through, through), snapshot
}

// partsChanged says of a partition that was attached with events which earlier pages say that they
// held: these would never be read. One that was detached and comes back has those that had been
// read by then.
func (s *Source) partsChanged(ctx context.Context, was, is []uint32) (problem string, err error) {
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock() // nobody reads meanwhile: known is not this yet
	if w.parts.detached == nil {
		w.parts.detached = map[uint32]Snapshot{}
	}
	for _, leaf := range was {
		if !slices.Contains(is, leaf) {
			w.parts.detached[leaf] = w.parts.snapshot
		}
	}
	for _, leaf := range is {
		if slices.Contains(was, leaf) {
			continue
		}
		var name string
		if err := s.queryRow(ctx, "SELECT $1::oid::regclass::text", []any{leaf}, &name); err != nil {
			return "", fmt.Errorf("looking at a partition of %s: %w", s.events.table.Name, err)
		}
		var first *int64
		m := s.events
		m.relation = name
		err := s.queryRow(ctx, m.in(`SELECT (SELECT {{position}} FROM {{table}} WHERE {{position}} <= $1::bigint AND pg_visible_in_snapshot({{txid}}, $2::text::pg_snapshot)
			AND NOT pg_visible_in_snapshot({{txid}}, $3::text::pg_snapshot) ORDER BY {{position}} LIMIT 1)::bigint`), []any{w.parts.through, w.parts.snapshot.String(), w.parts.detached[leaf].String()}, &first)
		if err != nil {
			return "", fmt.Errorf("looking at the partition %s of %s: %w", name, s.events.table.Name, err)
		}
		if first != nil {
			return fmt.Sprintf("the partition %s was attached to %s with events from position %d on, which were inserted into it before, and reading has come to position %d without them: attach partitions without rows, and insert events into %[2]s alone. "+
				"Insert those events again, as others, and restart the workers", name, s.events.table.Name, *first, w.parts.through), nil
		}
		delete(w.parts.detached, leaf)
	}
	return "", nil
}

func restarted(table, sequence string) string {
	return fmt.Sprintf("%s was emptied and the sequence %s set back (TRUNCATE ... RESTART IDENTITY), so that new events have positions that were given before: "+
		"replay the groups from Earliest, or declare others, and restart the workers; to empty a table that is read, leave out RESTART IDENTITY", table, sequence)
}

// setBack says that a sequence gives numbers out again.
func (s *Source) setBack(sequence string, mark, position int64) error {
	return s.stop(fmt.Sprintf("the last number of the sequence %s is %d, and events have been read up to position %d: it was set back, or the table was created anew, and events that take positions up to %[3]d now would never be read. "+
		"If that was by mistake, SELECT setval('%[4]s', %[3]d) before anything else is inserted, and restart the workers; if the table was to begin anew, replay the groups from Earliest, or declare others, and restart the workers",
		sequence, mark, position, strings.ReplaceAll(sequence, "'", "''")))
}

// behind says that rows have positions that their sequence has not given out.
func behind(table, sequence string, mark, position int64) error {
	return &eventsource.InvalidError{Problem: fmt.Sprintf("table.sequence: the last number of %s is %d, and %s has an event at position %d: rows were inserted with positions of their own, as a restore or an import does. "+
		"Their numbers would be given out again: SELECT setval('%[5]s', %[4]d), before anything else is inserted", sequence, mark, table, position, strings.ReplaceAll(sequence, "'", "''"))}
}

// explained returns what the catalogs say of an error that the server returned for a statement on
// the table.
func (s *Source) explained(ctx context.Context, k *known, err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || len(pg.Code) < 2 || pg.Code[:2] != "42" {
		return err
	}
	if s.events.table == nil {
		if pg.Code == pgerrcode.InsufficientPrivilege && strings.Contains(pg.Message, "row-level security") {
			return s.secured()
		}
		return err
	}
	if _, again := s.lookAgain(ctx, k); again != nil {
		return again
	}
	return err
}

// secured says that a role does not see all events.
func (s *Source) secured() error {
	return &eventsource.InvalidError{Problem: hidden(strings.ReplaceAll(s.events.relation, `"`, ""))}
}

func hidden(table string) string {
	return fmt.Sprintf("table.name: row level security hides rows of %s from the role that workers connect as: give the role BYPASSRLS, or exempt it", table)
}

// guard has the server refuse statements that row level security would hide rows from. Sluice's own
// table says so itself, until it did once: from then on there may be plans that leave rows out.
type guard struct{ always atomic.Bool }

// Declared returns the source as it is declared, with what was found out about its table. Call
// [Source.Check] first.
func (s *Source) Declared(source definition.Source) definition.Source {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if source.Table != nil && s.watch.known != nil {
		table := *source.Table
		table.TimeZone = s.watch.known.zone
		source.Table = &table
	}
	return source
}
