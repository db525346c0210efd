package main

import (
	"context"
	"fmt"
)

// The projection has a row for each stream: number and sum of its events' amounts, a hash that differs for any event lost, applied
// twice or mistaken for another, and how often a batch came that did not lie behind the one before it.
const projection = `CREATE TABLE %s (
	stream_id text PRIMARY KEY, events bigint NOT NULL, balance bigint NOT NULL, hash bigint NOT NULL,
	first bigint NOT NULL, last bigint NOT NULL, late bigint NOT NULL)`

// onConflict ends the statements that add to a projection's rows.
const onConflict = `ON CONFLICT (stream_id) DO UPDATE SET events = a.events + excluded.events, balance = a.balance + excluded.balance,
	hash = a.hash + excluded.hash, first = excluded.first, last = excluded.last, late = a.late + (excluded.first <= a.last)::integer`

// hash is an event's share of the hash, of its position and its amount.
func hash(position, amount int64) int64 { return position % 1_000_003 * amount }

// verify compares a projection with the events above a position, and fails where any row is not what they make.
func (w *workload) verify(ctx context.Context, table string, above int64) error {
	var wrong, events, sum int64
	err := w.db.QueryRow(ctx, fmt.Sprintf(`
		SELECT count(*) FILTER (WHERE (a.events, a.balance, a.hash, a.last, a.late) IS DISTINCT FROM (e.events, e.balance, e.hash, e.last, 0)),
		       coalesce(sum(a.events), 0), coalesce(sum(a.balance), 0) - coalesce(sum(e.balance), 0)
		  FROM (SELECT stream_id, count(*) AS events, sum(amount) AS balance, sum(position %% 1000003 * amount) AS hash, max(position) AS last
		          FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM sluice.event WHERE position > $1) AS e GROUP BY 1) AS e
		  FULL JOIN %s AS a USING (stream_id)`, table), above).Scan(&wrong, &events, &sum)
	if err != nil {
		return fmt.Errorf("checking the projection: %w", err)
	}
	if wrong > 0 || sum != 0 || events != w.events-above {
		return fmt.Errorf("the projection is wrong: %d of its streams, %d events of %d, the sum by %d", wrong, events, w.events-above, sum)
	}
	return nil
}
