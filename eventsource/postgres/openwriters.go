package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// openWritersStatement lists the transactions that have a transaction id and hold the lock that every INSERT into the table takes, or into
// a partition of it, and keeps until its top-level transaction ends: also through savepoints and PREPARE. They may have events that
// nobody sees yet. It takes no lock, and reads the server's memory only.
//
// Every role sees all of that but xact_start, which of other roles' transactions only members of pg_read_all_stats see.
const openWritersStatement = `
WITH lock AS MATERIALIZED (SELECT * FROM pg_locks WHERE granted),
writer AS (
  SELECT DISTINCT pid, virtualtransaction FROM lock
   WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND (relation = $1::text::regclass OR relation IN (SELECT relid FROM pg_partition_tree($1::text::regclass))))
SELECT a.backend_xid::text, a.pid, '', coalesce(a.application_name, ''), coalesce(a.usename, '')::text, a.xact_start, clock_timestamp()
  FROM writer w JOIN pg_stat_activity a USING (pid) WHERE a.backend_xid IS NOT NULL
UNION ALL
SELECT p.transaction::text, 0, p.gid, '', p.owner::text, p.prepared, clock_timestamp()
  FROM writer w JOIN lock l ON l.virtualtransaction = w.virtualtransaction AND l.locktype = 'transactionid' AND l.pid IS NULL
  JOIN pg_prepared_xacts p ON p.transaction = l.transactionid
 WHERE w.pid IS NULL
ORDER BY 6 NULLS LAST, 1`

// OpenWriters returns the transactions that have written to the table, or are about to, and have not ended: the oldest first, and at the end
// those of which this role may not know since when. It also returns the server's time.
func (s *Source) OpenWriters(ctx context.Context) (open []tokenstore.OpenWriter, now time.Time, err error) {
	rows, err := s.db.Query(ctx, openWritersStatement, s.events.relation)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("looking for open writers: %w", err)
	}
	open, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w tokenstore.OpenWriter, err error) {
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
