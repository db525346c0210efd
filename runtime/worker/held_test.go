package worker_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
)

// TestALockedTokenCountsAgainstNoEvent has somebody lock a token's row for longer than the group's
// time limit. The statement that waits is Sluice's own.
func TestALockedTokenCountsAgainstNoEvent(t *testing.T) {
	t.Parallel()
	for kind, handle := range map[string]string{
		"Go":  `{type: Go}`,
		"SQL": `{type: SQL, sql: {statements: [{eventTypes: [Counted], batch: INSERT INTO seen (position) SELECT position FROM events}]}}`,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, `
  - name: view
    segments: 1
    timeout: 2s
    onError: {backoff: {initial: 50ms, max: 100ms}}
    handler: `+handle)
			w.makeSeen()
			w.handlers = map[string]handler.Handler{"view": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
				return record(ctx, tx, e)
			}, "Counted")}
			w.appendAtOnce(1, 1)
			w.start("a")
			w.seenOnce()
			holder := w.session()
			holder(`SET idle_in_transaction_session_timeout = 0; BEGIN; SELECT FROM sluice.token FOR UPDATE`)
			w.appendAtOnce(1, 1)
			w.until("a report", `SELECT count(*) > 0 FROM sluice.worker, LATERAL (SELECT report -> 'groups' -> 'view' -> 'fault' AS fault) AS f
				WHERE fault ->> 'reason' = 'LockNotAvailable' AND (fault ->> 'lasted')::float > 4`)
			if n := w.count(`SELECT count(*) FROM sluice.failure`); n > 0 {
				t.Errorf("%d failures are recorded", n)
			}
			holder(`COMMIT`)
			w.seenOnce()
		})
	}
}
