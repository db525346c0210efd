package worker_test

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"
)

// inconsistent says, of one snapshot, where the view is not what the tokens say that has been handled, and where the segments
// are not a partition of the hash space.
const inconsistent = `
	WITH covered AS (
	  SELECT e.stream_id, count(*) FILTER (WHERE e.position <= coalesce(p.position, t.position)
	    AND pg_visible_in_snapshot(e.txid, nullif(step.snapshot, '')::pg_snapshot)) AS events
	  FROM sluice.event e JOIN sluice.token t ON t.group_name = 'view' AND e.slice & t.mask = t.segment
	    LEFT JOIN sluice.token_part p ON p.group_name = t.group_name AND p.segment = t.segment AND e.slice & p.part_mask = p.part_segment
	    CROSS JOIN LATERAL ( -- the lowest step of the progress that reaches as far as the event: the highest is written first, without how far it reaches
	      SELECT split_part(text, '@', -1) AS snapshot FROM string_to_table(coalesce(p.snapshot, t.snapshot) || ' ', ' ') WITH ORDINALITY AS steps (text, n)
	       WHERE n = 1 OR text <> '' AND split_part(text, '@', 1)::bigint >= e.position ORDER BY n DESC LIMIT 1) AS step
	  WHERE e.type = 'Counted' GROUP BY 1
	), wrong AS (
	  SELECT format('stream %s: the view has %s events, its token covers %s', stream_id, coalesce(v.events, 0), coalesce(c.events, 0)) AS what
	    FROM covered c FULL JOIN stream_view v USING (stream_id) WHERE coalesce(v.events, 0) <> coalesce(c.events, 0)
	  UNION ALL
	  SELECT format('the segments %s and %s overlap', a.segment, b.segment) FROM sluice.token a JOIN sluice.token b
	      ON a.group_name = b.group_name AND a.segment < b.segment AND a.segment & least(a.mask, b.mask) = b.segment & least(a.mask, b.mask)
	  UNION ALL
	  SELECT format('the segments of %s are %s of the hash space', group_name, sum(1.0 / (mask + 1))) FROM sluice.token GROUP BY group_name HAVING sum(1.0 / (mask + 1)) <> 1
	)
	SELECT coalesce(array_agg(what), '{}') FROM wrong`

// consistent fails unless the view is what the tokens say.
func (w *world) consistent() {
	w.t.Helper()
	var wrong []string
	if err := w.pool.QueryRow(context.Background(), inconsistent).Scan(&wrong); err != nil {
		w.t.Fatal(err)
	}
	if len(wrong) > 0 {
		w.t.Fatalf("%s\n%s", strings.Join(wrong, "\n"), w.dump())
	}
}

// watch checks again and again, until it is told to stop, that the view is what the tokens say.
func (w *world) watch() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			var wrong []string
			if err := w.pool.QueryRow(ctx, inconsistent).Scan(&wrong); err != nil && ctx.Err() == nil {
				w.t.Errorf("watching: %v", err)
				return
			}
			if len(wrong) > 0 {
				w.t.Errorf("seen meanwhile: %s", strings.Join(wrong, "\n"))
				return
			}
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(stop)
	return stop
}

// caughtUp waits until all events are in the view, however long that takes while there are ever fewer left, and fails unless each is, once and in order.
func (w *world) caughtUp() {
	w.t.Helper()
	const missing = `SELECT (SELECT count(*) FROM sluice.event WHERE type = 'Counted') - (SELECT coalesce(sum(events), 0) FROM stream_view)`
	for left := int64(math.MaxInt64); left != 0; {
		w.until("all events to be handled", `SELECT n = 0 OR n < $1 FROM (`+missing+`) AS m (n)`, left)
		if err := w.pool.QueryRow(context.Background(), missing).Scan(&left); err != nil {
			w.t.Fatal(err)
		}
	}
	w.folded()
}

// atRest waits until every segment is owned by the live worker that it is assigned to, and nothing waits for anything.
func (w *world) atRest() {
	w.t.Helper()
	w.until("every segment to be with its assignee, and no failure, reset or replay to be left", `
		SELECT NOT EXISTS (SELECT FROM sluice.token t
		    LEFT JOIN sluice.assignment a ON a.group_name = t.group_name AND a.segment = t.segment AND a.worker = t.owner
		    LEFT JOIN sluice.worker o ON o.incarnation = t.owner AND o.state = 'Active' AND o.lease_until > clock_timestamp()
		    WHERE a.worker IS NULL OR o.incarnation IS NULL)
		  AND NOT EXISTS (SELECT FROM sluice.failure)
		  AND NOT EXISTS (SELECT FROM sluice.processing_group WHERE resetting OR replay IS NOT NULL)`)
}
