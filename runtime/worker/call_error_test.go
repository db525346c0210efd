package worker_test

import "testing"

// TestAFailingStatementNamesTheEvent has one event of many that a statement cannot handle.
func TestAFailingStatementNamesTheEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: view
    segments: 1
    handler:
      type: SQL
      sql:
        statements:
        - eventTypes: [Counted]
          batch: SELECT FROM events
        - eventTypes: [Counted]
          each: SELECT 1 / (position - 5) FROM event
`)
	w.appendKeyed(8, 2)
	w.start("a")
	w.until("the event named", `SELECT count(*) = 1 FROM sluice.failure JOIN sluice.event e USING (position)
		WHERE e.position = 5 AND message = format('statements[1] at position 5 (Counted of stream %s): ERROR: division by zero (SQLSTATE 22012)', e.stream_id)`)
}
