package e2e

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/sluice-project/sluice/internal/system"
)

// view is a processor that folds each stream into a count and a hash chain: it differs for any event that is lost, applied
// twice or out of order.
func view(replicas, segments int) string {
	return viewWith(replicas, segments, `
            INSERT INTO stream_view AS v (stream_id, events, chain) SELECT stream_id, 1, md5(data ->> 'n') FROM event
            ON CONFLICT (stream_id) DO UPDATE SET events = v.events + 1, chain = md5(v.chain || excluded.chain)`)
}

func viewWith(replicas, segments int, statement string) string {
	return fmt.Sprintf(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: view}
spec:
  replicas: %d
  store: {type: Postgres, postgres: {urlSecretRef: {name: payments-db}}}
  processingGroups:
  - name: view
    segments: %d
    onError: {backoff: {initial: 100ms, max: 500ms}}
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS stream_view (stream_id text PRIMARY KEY, events bigint NOT NULL, chain text NOT NULL)
        statements:
        - eventTypes: [Counted]
          each: |%s
`, replicas, segments, statement)
}

// database connects to the spec's own database from outside.
func (s *space) database(ctx context.Context) *pgxpool.Pool {
	GinkgoHelper()
	name := "e2e_" + strings.TrimPrefix(s.namespace, "e2e-")
	pool, err := pgxpool.New(ctx, strings.Replace(sluice.DatabaseURL, "/app?", "/"+name+"?", 1))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(pool.Close)
	return pool
}

// in is the system with the spec's own database.
func (s *space) in(db *pgxpool.Pool) *system.System {
	own := *sluice
	own.Database = db
	return &own
}

// appendTo appends n events to each of some streams, each in a transaction of its own.
func appendTo(ctx context.Context, db *pgxpool.Pool, streams, n int) {
	GinkgoHelper()
	for i := range n {
		for stream := range streams {
			_, err := db.Exec(ctx, `SELECT sluice.append('stream-' || $1::int, NULL, jsonb_build_array(jsonb_build_object('type', 'Counted', 'data', jsonb_build_object('n', $2::int))))`, stream, i)
			Expect(err).NotTo(HaveOccurred())
		}
	}
}

// haveFolded waits until the view is the fold over the log, which has so many events.
func haveFolded(ctx context.Context, db *pgxpool.Pool, events int) {
	GinkgoHelper()
	Eventually(ctx, func() (string, error) {
		var wrong, counted, logged int
		err := db.QueryRow(ctx, `
			WITH RECURSIVE log AS (
			  SELECT stream_id, data ->> 'n' AS n, row_number() OVER (PARTITION BY stream_id ORDER BY position) AS i FROM sluice.event
			), fold AS (
			  SELECT stream_id, i, md5(n) AS chain FROM log WHERE i = 1
			  UNION ALL SELECT l.stream_id, l.i, md5(f.chain || md5(l.n)) FROM fold f JOIN log l ON l.stream_id = f.stream_id AND l.i = f.i + 1
			), last AS (SELECT DISTINCT ON (stream_id) * FROM fold ORDER BY stream_id, i DESC)
			SELECT count(*) FILTER (WHERE (v.events, v.chain) IS DISTINCT FROM (l.i, l.chain)), coalesce(sum(v.events), 0), (SELECT count(*) FROM log)
			  FROM last l FULL JOIN stream_view v USING (stream_id)`).Scan(&wrong, &counted, &logged)
		return fmt.Sprintf("%d of %d events folded, %d streams differ", counted, logged, wrong), err
	}).Should(Equal(fmt.Sprintf("%d of %d events folded, 0 streams differ", events, events)))
}

// answeredOnce waits until each payment in the log has one answer, and the view shows it.
func answeredOnce(ctx context.Context, db *pgxpool.Pool, payments int) {
	GinkgoHelper()
	Eventually(ctx, func() (string, error) {
		var created, once, twice, decided int
		err := db.QueryRow(ctx, `
			WITH payment AS (SELECT stream_id, count(*) - 1 AS answers FROM sluice.event GROUP BY stream_id)
			SELECT count(*), count(*) FILTER (WHERE answers = 1), count(*) FILTER (WHERE answers > 1),
			  (SELECT count(*) FROM payments WHERE validated IS NOT NULL) FROM payment`).Scan(&created, &once, &twice, &decided)
		return fmt.Sprintf("%d payments, %d answered once, %d more often, %d decided in the view", created, once, twice, decided), err
	}).Should(Equal(fmt.Sprintf("%[1]d payments, %[1]d answered once, 0 more often, %[1]d decided in the view", payments)))
}

// scan reads one value.
func scan[T any](ctx context.Context, db *pgxpool.Pool, sql string, args ...any) T {
	GinkgoHelper()
	rows, err := db.Query(ctx, sql, args...)
	Expect(err).NotTo(HaveOccurred())
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	Expect(err).NotTo(HaveOccurred())
	return value
}
