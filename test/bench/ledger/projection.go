package ledger

import (
	"context"
	"fmt"
)

// Projection makes a table, whose name it leaves open. It has a row for each stream: number and sum of its events' amounts, a hash that
// differs for any event lost, applied twice or mistaken for another, and how often a batch came that did not lie behind the one before it.
const Projection = `CREATE TABLE %s (
	stream_id text PRIMARY KEY, events bigint NOT NULL, balance bigint NOT NULL, hash bigint NOT NULL,
	first bigint NOT NULL, last bigint NOT NULL, late bigint NOT NULL)`

// OnConflict ends the statements that add to a projection's rows.
const OnConflict = `ON CONFLICT (stream_id) DO UPDATE SET events = a.events + excluded.events, balance = a.balance + excluded.balance,
	hash = a.hash + excluded.hash, first = excluded.first, last = excluded.last, late = a.late + (excluded.first <= a.last)::integer`

// One adds one event to a projection, whose name it leaves open: of its stream, amount, hash and position.
const One = `INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late) VALUES ($1, 1, $2, $3, $4, $4, 0) ` + OnConflict

// Hash is an event's share of the hash, of its position and its amount.
func Hash(position, amount int64) int64 { return position % 1_000_003 * amount }

// Verify compares a projection with the events above a position, and fails where any row is not what they make, in order.
func (l *Ledger) Verify(ctx context.Context, table string, above int64) error {
	late, err := l.VerifySums(ctx, table, above)
	if err == nil && late > 0 {
		err = fmt.Errorf("the projection is wrong: of %d streams events came out of order", late)
	}
	return err
}

// VerifySums is Verify for those that promise no order: it returns for how many streams events came out of it.
func (l *Ledger) VerifySums(ctx context.Context, table string, above int64) (late int64, err error) {
	var wrong, events, sum int64
	err = l.DB.QueryRow(ctx, fmt.Sprintf(`
		SELECT count(*) FILTER (WHERE (a.events, a.balance, a.hash) IS DISTINCT FROM (e.events, e.balance, e.hash)),
		       count(*) FILTER (WHERE (a.last, a.late) IS DISTINCT FROM (e.last, 0)),
		       coalesce(sum(a.events), 0), coalesce(sum(a.balance), 0) - coalesce(sum(e.balance), 0)
		  FROM (SELECT stream_id, count(*) AS events, sum(amount) AS balance, sum(position %% 1000003 * amount) AS hash, max(position) AS last
		          FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM sluice.event WHERE position > $1) AS e GROUP BY 1) AS e
		  FULL JOIN %s AS a USING (stream_id)`, table), above).Scan(&wrong, &late, &events, &sum)
	if err != nil {
		return 0, fmt.Errorf("checking the projection: %w", err)
	}
	if wrong > 0 || sum != 0 || events != l.Events-above {
		return 0, fmt.Errorf("the projection is wrong: %d of its streams, %d events of %d, the sum by %d", wrong, events, l.Events-above, sum)
	}
	return late, nil
}
