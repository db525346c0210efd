package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
)

// openWritersStatement lists the transactions that have a transaction id and hold the lock that every INSERT into the table takes, or into
// a partition of it, and keeps until its top-level transaction ends: also through savepoints and PREPARE. They may have events that
// nobody sees yet. Where there is a second parameter it lists those, too, that have taken a number from that sequence, and may not have inserted anything yet: they
// keep gaps open. Such a one is told of by its virtual id while it has no other. It takes no lock, and reads the server's memory only.
//
// Every role sees all of that but xact_start, which of other roles' transactions only members of pg_read_all_stats see.
const openWritersStatement = `
WITH lock AS MATERIALIZED (SELECT * FROM pg_locks WHERE granted),
writer AS (
  SELECT pid, virtualtransaction, bool_or(relation = nullif($2, '')::regclass) AS numbered FROM lock
   WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND (relation = $1::text::regclass OR relation IN (SELECT relid FROM pg_partition_tree($1::text::regclass)) OR relation = nullif($2, '')::regclass)
   GROUP BY pid, virtualtransaction)
SELECT coalesce(a.backend_xid::text, w.virtualtransaction), a.pid, '', coalesce(a.application_name, ''), coalesce(a.usename, '')::text, a.xact_start, clock_timestamp()
  FROM writer w JOIN pg_stat_activity a USING (pid) WHERE a.backend_xid IS NOT NULL OR w.numbered
UNION ALL
SELECT p.transaction::text, 0, p.gid, '', p.owner::text, p.prepared, clock_timestamp()
  FROM writer w JOIN lock l ON l.virtualtransaction = w.virtualtransaction AND l.locktype = 'transactionid' AND l.pid IS NULL
  JOIN pg_prepared_xacts p ON p.transaction = l.transactionid
 WHERE w.pid IS NULL
ORDER BY 6 NULLS LAST, 1`

// OpenWriters returns the transactions that have written to the table, or are about to, and have not ended, also those that keep a gap open by
// a position that they have taken, as far as these can be told: the oldest first, and at the end those of which this role may not know since when. It also returns the server's time.
func (s *Source) OpenWriters(ctx context.Context) (open []eventsource.OpenWriter, now time.Time, err error) {
	rows, err := s.db.Query(ctx, openWritersStatement, s.events.relation, s.sequence())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("looking for open writers: %w", err)
	}
	open, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w eventsource.OpenWriter, err error) {
		var since *time.Time
		if err = row.Scan(&w.Transaction, &w.PID, &w.Prepared, &w.Application, &w.User, &since, &now); since != nil {
			w.Since = since.UTC()
		}
		return w, err
	})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("looking for open writers: %w", err)
	}
	return open, now, nil
}

// sequence is that whose numbers writers take, empty where no gaps are proved by it, or the table
// has not been looked at yet.
func (s *Source) sequence() string {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if s.gaps == nil || s.gaps.reserved || s.watch.known == nil {
		return ""
	}
	return s.watch.known.facts.sequences[0].name
}
