package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/progress"
)

// everyone is a transaction that ended before any that a database has for users: FirstNormalTransactionId. Events carry it after a rebase
// that all tokens cover which have come so far.
const everyone = 3

// Rebased says what became of a table's events.
type Rebased struct {
	Table string
	// Late is the number of transactions that had events which some token had passed and not had.
	Late int
	// Rewritten says that events got other transactions, which is a rewrite of the table.
	Rewritten bool
}

// Rebase gives the events and the progress of a database that was restored into another server transactions that mean something in this one: each
// progress covers after it exactly those events that it covered before. It returns the new progress in the order of the old one. Tables
// of users are those from which events are read other than Sluice's own.
//
// Which transactions have events that some progress has passed and not covered, because they had not ended then, is found by the snapshots;
// these are few. Events of such transactions get ids from 4 on, by the first snapshot that saw them; all other events get 3. A snapshot becomes one
// that had seen the ids up to a number. Snapshots of one server contain one another, so this keeps for all of them which of those
// transactions they see.
func Rebase(ctx context.Context, tx pgx.Tx, schema string, tables []definition.Table, progress []progress.Progress) ([]progress.Progress, []Rebased, error) {
	known := []mapping{ownMapping(schema)}
	for _, t := range tables {
		if t.Columns.Transaction != "" {
			known = append(known, tableMapping(t))
		}
	}
	covered := make([]*coverage, len(progress))
	for i, p := range progress {
		var err error
		if isPlaced(p.State) || isGapped(p.State) { // of another database; or positions, which mean the same on every server
			covered[i] = &coverage{}
		} else if covered[i], err = parseProgress(p); err != nil {
			return nil, nil, err
		}
		name := covered[i].table
		if len(covered[i].steps) > 0 && !slices.ContainsFunc(known, func(m mapping) bool { return m.name() == name }) {
			return nil, nil, fmt.Errorf("tokens of the store are progress in %s: name the manifest of its EventProcessor as well", described(name))
		}
	}
	plans := make([]plan, len(known))
	for n, m := range known {
		var err error
		if plans[n], err = m.planRebase(ctx, tx, ofTable(covered, m.name())); err != nil {
			return nil, nil, fmt.Errorf("rebasing %s: %w", m.relation, err)
		}
	}
	after := slices.Clone(progress)
	var told []Rebased
	for n, m := range known { // nothing was changed before
		if err := m.rebase(ctx, tx, plans[n]); err != nil {
			return nil, nil, fmt.Errorf("rebasing %s: %w", m.relation, err)
		}
		told = append(told, plans[n].told)
		for i, c := range covered {
			if len(c.steps) > 0 && c.table == m.name() {
				after[i] = plans[n].ids.translate(c).Progress()
			}
		}
	}
	return after, told, nil
}

// ofTable are all steps of progress in a table.
func ofTable(covered []*coverage, table string) (steps []step) {
	for _, c := range covered {
		if c.table == table {
			steps = append(steps, c.steps...)
		}
	}
	return steps
}

// plan is what a rebase makes of a table's transactions.
type plan struct {
	ids  *numbering
	told Rebased
}

// planRebase decides which other transactions the table's events get, and looks whether they can. It keeps everybody else from the table.
func (m mapping) planRebase(ctx context.Context, tx pgx.Tx, steps []step) (plan, error) {
	p := plan{told: Rebased{Table: m.relation}}
	if _, err := tx.Exec(ctx, "LOCK TABLE "+m.relation+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		return p, fmt.Errorf("waiting for transactions that use the table, of which none must run: %w", err)
	}
	late, lacked, err := m.lateIn(ctx, tx, steps)
	if err != nil {
		return p, err
	}
	p.told.Late = len(late)
	if p.ids, err = renumber(late, steps, lacked); err != nil {
		return p, err
	}
	var xmin, newest uint64
	err = tx.QueryRow(ctx, m.in("SELECT pg_snapshot_xmin(pg_current_snapshot()), coalesce((SELECT {{txid}} FROM {{table}} ORDER BY {{txid}} DESC LIMIT 1), '0'::xid8)")).Scan(&xmin, &newest)
	if err != nil {
		return p, fmt.Errorf("looking for the newest transaction: %w", err)
	}
	switch {
	case len(late) == 0 && newest < xmin: // as after pg_upgrade: all events are of transactions that have ended here, too
		p.ids.all = xmin
		return p, nil
	case p.ids.all > xmin:
		return p, fmt.Errorf("%d transaction ids are needed below this server's oldest, which is %d: run SELECT pg_current_xact_id() %d times", p.ids.all, xmin, p.ids.all-xmin)
	}
	p.told.Rewritten = true
	return p, m.refuseDependents(ctx, tx)
}

// rebase gives the table's events the transactions of a plan.
func (m mapping) rebase(ctx context.Context, tx pgx.Tx, p plan) error {
	if p.told.Rewritten {
		if err := m.rewrite(ctx, tx, p.ids.events); err != nil {
			return err
		}
	}
	return m.resumeSequence(ctx, tx)
}

// lateIn returns the transactions of events that a step has passed and does not see, and for each step whether it lacks any.
func (m mapping) lateIn(ctx context.Context, tx pgx.Tx, steps []step) (late []uint64, lacked []bool, err error) {
	through, snapshots := make([]int64, len(steps)), make([]string, len(steps))
	for i, s := range steps {
		through[i], snapshots[i] = s.through, s.snapshot.String()
	}
	rows, err := tx.Query(ctx, m.in(`
		SELECT DISTINCT s.n, e.txid FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS s (through, snapshot, n) CROSS JOIN LATERAL (
		  SELECT e.{{txid}} AS txid FROM {{table}} e WHERE e.{{txid}} >= pg_snapshot_xmax(s.snapshot::pg_snapshot) AND e.{{position}} + 0 <= s.through
		  UNION ALL
		  SELECT e.{{txid}} FROM pg_snapshot_xip(s.snapshot::pg_snapshot) AS open (txid) JOIN {{table}} e ON e.{{txid}} = open.txid WHERE e.{{position}} + 0 <= s.through) AS e`), through, snapshots)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for late events: %w", err)
	}
	lacked = make([]bool, len(steps))
	var n int
	var xid uint64
	if _, err = pgx.ForEachRow(rows, []any{&n, &xid}, func() error { lacked[n-1] = true; late = append(late, xid); return nil }); err != nil {
		return nil, nil, fmt.Errorf("looking for late events: %w", err)
	}
	slices.Sort(late)
	return slices.Compact(late), lacked, nil
}

// numbering says which ids stand for what after a rebase.
type numbering struct {
	events    map[string]string // transactions of late events; all others become everyone
	snapshots []Snapshot        // that lack some, from the one that sees least
	upTo      []uint64          // what each of them has seen: the ids below this
	all       uint64            // what those have seen that lack none
}

// renumber gives late transactions ids by the first snapshot that sees them.
func renumber(late []uint64, steps []step, lacked []bool) (*numbering, error) {
	n := &numbering{events: map[string]string{}}
	for i, s := range steps {
		if lacked[i] && !slices.ContainsFunc(n.snapshots, s.snapshot.Equal) {
			n.snapshots = append(n.snapshots, s.snapshot)
		}
	}
	slices.SortFunc(n.snapshots, func(a, b Snapshot) int {
		if b.Contains(a) {
			return -1
		}
		return 1
	})
	for i := 1; i < len(n.snapshots); i++ {
		if !n.snapshots[i].Contains(n.snapshots[i-1]) {
			return nil, fmt.Errorf("the tokens come from more than one server: %s and %s do not contain one another", n.snapshots[i-1], n.snapshots[i])
		}
	}
	next := uint64(everyone + 1)
	for class := 0; class <= len(n.snapshots); class++ {
		used := false
		for _, xid := range late {
			if n.firstToSee(xid) == class {
				n.events[strconv.FormatUint(xid, 10)] = strconv.FormatUint(next, 10)
				used = true
			}
		}
		if used {
			next++
		}
		n.upTo = append(n.upTo, next)
	}
	n.all = next
	return n, nil
}

// firstToSee is the index of the first snapshot that sees a transaction, and their number where none does.
func (n *numbering) firstToSee(xid uint64) int {
	i, _ := slices.BinarySearchFunc(n.snapshots, xid, func(s Snapshot, xid uint64) int {
		if s.Visible(xid) {
			return 1
		}
		return -1
	})
	return i
}

func (n *numbering) translate(c *coverage) *coverage {
	after := &coverage{table: c.table}
	for _, s := range c.steps {
		upTo := n.all
		if i := slices.IndexFunc(n.snapshots, s.snapshot.Equal); i >= 0 {
			upTo = n.upTo[i]
		}
		after = after.with(step{s.through, Snapshot{xmin: upTo, xmax: upTo}})
	}
	return after
}

// rewrite gives the events their ids. A change of the column's type to its own rewrites the table without leaving dead rows, and fires no trigger.
func (m mapping) rewrite(ctx context.Context, tx pgx.Tx, ids map[string]string) error {
	late, err := json.Marshal(ids) // digits only
	if err != nil {
		return fmt.Errorf("writing down the transactions: %w", err)
	}
	command := fmt.Sprintf("ALTER TABLE {{table}} ALTER COLUMN {{txid}} TYPE xid8 USING coalesce('%s'::jsonb ->> {{txid}}::text, '%d')::xid8", late, everyone)
	for _, sql := range []string{command, "ANALYZE {{table}}"} {
		if _, err := tx.Exec(ctx, m.in(sql)); err != nil {
			return fmt.Errorf("giving events the transactions of this server: %w", err)
		}
	}
	return nil
}

// resumeSequence lets positions of Sluice's own table go on above those that there are, where a restore has left that out.
func (m mapping) resumeSequence(ctx context.Context, tx pgx.Tx) error {
	if m.table != nil {
		return nil
	}
	_, err := tx.Exec(ctx, "SELECT setval(pg_get_serial_sequence($1, 'position'), highest) FROM (SELECT max(position) AS highest FROM "+m.relation+") AS e WHERE highest > ("+m.head+")", m.relation)
	if err != nil {
		return fmt.Errorf("looking where positions go on: %w", err)
	}
	return nil
}
