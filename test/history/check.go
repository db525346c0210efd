package history

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/segment"
)

// Want is what the history must tell of, at the least: else what the checks find means nothing.
type Want struct {
	Events    int // applied
	Takeovers int // claims of tokens that another worker owned
	Splits    int
	Merges    int
	Resets    int // of one token each
	Shared    int // transactions that applied events of several segments
	// Replayed groups are to have applied each event under their last generation: their last replay, of all that there is, is
	// complete.
	Replayed []string
}

// Found is what the history tells of.
type Found struct{ Batches, Events, Replays, Epochs, Takeovers, Splits, Merges, Resets, Shared int }

// check is a query for what must not be. Each row says what is wrong in a text.
type check struct {
	promise string
	sql     string
}

var checks = []check{
	{"each event is applied once in a generation", `
		SELECT format('group %s, generation %s: event %s was applied %s times', group_name, generation, position, count(*))
		  FROM history.batch GROUP BY group_name, generation, position HAVING count(*) > 1`},
	{"what is applied moves its token in the same transaction", `
		SELECT format('group %s: event %s of %s was applied without a move of its token', group_name, position, key) FROM history.batch WHERE version IS NULL`},
	{"who applies owns the token", `
		SELECT format('group %s: event %s was applied under epoch %s of segment %s, which nobody owned', group_name, position, epoch, segment) FROM history.batch WHERE was_owner = 0`},
	{"one worker writes in an epoch", `
		SELECT format('group %s, segment %s: the workers %s had epoch %s', group_name, segment, array_agg(DISTINCT owner), epoch)
		  FROM history.written WHERE op <> 'D' AND owner <> 0 GROUP BY group_name, segment, epoch HAVING count(DISTINCT owner) > 1`},
	{"epochs, versions and generations never go back", `
		SELECT format('group %s, segment %s: epoch %s version %s generation %s came after epoch %s version %s generation %s', group_name, segment, epoch, version, generation, e, v, g)
		  FROM (SELECT *, lag(epoch) OVER past AS e, lag(version) OVER past AS v, lag(generation) OVER past AS g
		          FROM history.written WHERE op <> 'D' WINDOW past AS (PARTITION BY group_name, segment ORDER BY seq)) AS w
		 WHERE version <= v OR epoch < e OR generation < g AND op = 'U'`},
	{"whoever takes a token takes a new epoch", `
		SELECT format('group %s, segment %s: worker %s came after worker %s under epoch %s', group_name, segment, owner, was_owner, epoch)
		  FROM (SELECT *, lag(epoch) OVER (PARTITION BY group_name, segment ORDER BY seq) AS e FROM history.written WHERE op <> 'D') AS w
		 WHERE op = 'U' AND owner <> 0 AND owner <> was_owner AND epoch <= e`},
	{"a token moves forward within a generation", `
		SELECT format('group %s, segment %s: position %s came after %s', group_name, segment, position, p)
		  FROM (SELECT *, lag(position) OVER past AS p, lag(generation) OVER past AS g, lag(mask) OVER past AS m, lag(epoch) OVER past AS e
		          FROM history.written WHERE op <> 'D' WINDOW past AS (PARTITION BY group_name, segment ORDER BY seq)) AS w
		 WHERE op = 'U' AND position < p AND generation = g AND mask = m AND epoch = e`},
	{"events of one key are applied in their order", `
		SELECT format('group %s, generation %s: event %s of %s came after event %s', group_name, generation, position, key, before)
		  FROM (SELECT *, lag(position) OVER (PARTITION BY group_name, key, generation ORDER BY seq) AS before FROM history.batch) AS b WHERE position <= before`},
	{"an event is told to be a replay if it was applied under an earlier generation, and only then", `
		SELECT format('group %s, generation %s: event %s was told to be a replay: %s', group_name, generation, position, replay) FROM history.batch b
		 WHERE replay <> EXISTS (SELECT FROM history.batch o WHERE o.group_name = b.group_name AND o.position = b.position AND o.generation < b.generation)`},
	{"only events are applied", `
		SELECT format('group %s: there is no event %s of %s', group_name, position, key) FROM history.applied a
		 WHERE NOT EXISTS (SELECT FROM {{schema}}.event e WHERE e.position = a.position AND e.stream_id = a.key)`},
	{"no event is skipped", `
		SELECT format('group %s: event %s was never applied', g.group_name, e.position)
		  FROM (SELECT DISTINCT group_name FROM history.applied) AS g CROSS JOIN {{schema}}.event e
		 WHERE e.type = ANY (@types) AND NOT EXISTS (SELECT FROM history.applied a WHERE a.group_name = g.group_name AND a.position = e.position)`},
	{"a complete replay applies every event", `
		SELECT format('group %s: event %s was not applied under generation %s', g.group_name, e.position, g.generation)
		  FROM (SELECT group_name, max(generation) AS generation FROM history.written WHERE group_name = ANY (@replayed) GROUP BY 1) AS g CROSS JOIN {{schema}}.event e
		 WHERE e.type = ANY (@types) AND NOT EXISTS (SELECT FROM history.batch b WHERE b.group_name = g.group_name AND b.generation = g.generation AND b.position = e.position)`},
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// shown is how many instances of one broken promise are told of.
const shown = 5

// Check holds the history against what Sluice promises, once nothing happens any more. types are those of the events that are
// handled. The error tells of each promise that was broken, or of what is missing for the checks to mean anything.
func Check(ctx context.Context, db querier, schema string, want Want, types ...string) (Found, error) {
	var broken []error
	for _, c := range checks {
		args := pgx.NamedArgs{"types": types, "replayed": append([]string{}, want.Replayed...)}
		rows, err := db.Query(ctx, fmt.Sprintf("%s LIMIT %d", in(schema, c.sql), shown), args)
		if err != nil {
			return Found{}, fmt.Errorf("checking that %s: %w", c.promise, err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return Found{}, fmt.Errorf("checking that %s: %w", c.promise, err)
		}
		for _, wrong := range found {
			broken = append(broken, fmt.Errorf("%s; but %s", c.promise, wrong))
		}
	}
	if err := alwaysPartitions(ctx, db); err != nil {
		broken = append(broken, err)
	}
	found, err := count(ctx, db)
	if err != nil {
		return found, err
	}
	return found, errors.Join(append(broken, want.vacuous(found)...)...)
}

func count(ctx context.Context, db querier) (f Found, err error) {
	err = db.QueryRow(ctx, `
		SELECT (SELECT count(DISTINCT xid) FROM history.applied), (SELECT count(*) FROM history.applied), (SELECT count(*) FROM history.applied WHERE replay),
		  (SELECT count(DISTINCT (group_name, segment, epoch)) FROM history.written WHERE owner <> 0),
		  (SELECT count(*) FROM history.written WHERE op = 'U' AND owner <> 0 AND was_owner <> 0 AND owner <> was_owner),
		  (SELECT count(*) FROM (SELECT mask > lag(mask) OVER past AS deeper FROM history.written WHERE op <> 'D' WINDOW past AS (PARTITION BY group_name, segment ORDER BY seq)) AS s WHERE deeper),
		  (SELECT count(*) FROM history.written WHERE op = 'D'),
		  (SELECT count(*) FROM (SELECT generation > lag(generation) OVER past AS reset FROM history.written WHERE op = 'U' WINDOW past AS (PARTITION BY group_name, segment ORDER BY seq)) AS r WHERE reset),
		  (SELECT count(*) FROM (SELECT FROM history.batch GROUP BY xid, group_name HAVING count(DISTINCT segment) > 1) AS s)`).
		Scan(&f.Batches, &f.Events, &f.Replays, &f.Epochs, &f.Takeovers, &f.Splits, &f.Merges, &f.Resets, &f.Shared)
	if err != nil {
		err = fmt.Errorf("counting what happened: %w", err)
	}
	return f, err
}

func (w Want) vacuous(f Found) []error {
	var missing []error
	for what, n := range map[string][2]int{
		"events": {max(w.Events, 1), f.Events}, "takeovers": {w.Takeovers, f.Takeovers}, "splits": {w.Splits, f.Splits}, "merges": {w.Merges, f.Merges}, "resets": {w.Resets, f.Resets},
		"transactions of several segments": {w.Shared, f.Shared},
		"replayed events":                  {min(len(w.Replayed), 1), f.Replays},
	} {
		if n[1] < n[0] {
			missing = append(missing, fmt.Errorf("vacuous: %d %s happened, of at least %d", n[1], what, n[0]))
		}
	}
	return missing
}

// alwaysPartitions checks that after each transaction the segments of each group covered the hash space exactly once.
func alwaysPartitions(ctx context.Context, db querier) error {
	// Transactions that changed the same rows stand in the order of their commits; of others the order does not matter.
	rows, err := db.Query(ctx, `SELECT xid::text, op, group_name, segment, mask FROM history.written WINDOW tx AS (PARTITION BY xid) ORDER BY max(seq) OVER tx, xid, seq`)
	if err != nil {
		return fmt.Errorf("reading the history of layouts: %w", err)
	}
	layouts := map[string]map[uint32]uint32{}
	changed := map[string]bool{}
	last := ""
	verify := func() error {
		for group := range changed {
			var layout []segment.Segment
			for id, mask := range layouts[group] {
				layout = append(layout, segment.Segment{ID: id, Mask: mask})
			}
			if err := segment.Partition(layout); err != nil && len(layout) > 0 {
				return fmt.Errorf("the segments of group %s always cover the hash space exactly once; but after transaction %s: %w", group, last, err)
			}
		}
		clear(changed)
		return nil
	}
	var xid, op, group string
	var id, mask uint32
	_, err = pgx.ForEachRow(rows, []any{&xid, &op, &group, &id, &mask}, func() error {
		if xid != last {
			if err := verify(); err != nil {
				return err
			}
			last = xid
		}
		if layouts[group] == nil {
			layouts[group] = map[uint32]uint32{}
		}
		before, there := layouts[group][id]
		if op == "D" {
			delete(layouts[group], id)
		} else {
			layouts[group][id] = mask
		}
		if op == "D" || !there || before != mask {
			changed[group] = true
		}
		return nil
	})
	if err == nil {
		err = verify()
	}
	return err
}
