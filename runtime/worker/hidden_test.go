package worker_test

import "testing"

// TestAStatementThatWouldNotSeeItsEventsFails has one statement leave another role behind, from
// which row level security hides the events. The next statement would be given none of them, and
// the token would move all the same.
func TestAStatementThatWouldNotSeeItsEventsFails(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"batch", "each"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			from := map[string]string{"batch": "events", "each": "event"}[kind]
			w := newWorld(t, `
  - name: view
    segments: 1
    onError: {backoff: {initial: 50ms, max: 100ms}}
    handler:
      type: SQL
      sql:
        statements:
        - {eventTypes: [Counted], `+kind+`: "SELECT change_role() FROM `+from+`"}
        - {eventTypes: [Counted], `+kind+`: "INSERT INTO seen (position) SELECT position FROM `+from+`"}`)
			w.makeSeen()
			role := "blind_" + kind
			w.sql(`DO $$ BEGIN IF to_regrole('` + role + `') IS NULL THEN CREATE ROLE ` + role + `; END IF; END $$;
				GRANT ALL ON SCHEMA sluice, public TO ` + role + `;
				GRANT ALL ON ALL TABLES IN SCHEMA sluice, public TO ` + role + `;
				GRANT ALL ON ALL SEQUENCES IN SCHEMA sluice, public TO ` + role + `;
				CREATE TABLE mended ();
				GRANT SELECT ON mended TO ` + role + `;
				ALTER TABLE sluice.event ENABLE ROW LEVEL SECURITY;
				CREATE FUNCTION change_role() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
				  IF NOT EXISTS (SELECT FROM mended) THEN PERFORM set_config('role', '` + role + `', true); END IF;
				END $$`)
			w.appendAtOnce(10, 1)
			w.start("a")
			w.until("a report", `SELECT count(*) > 0 FROM sluice.worker, LATERAL (SELECT report -> 'groups' -> 'view' -> 'fault' AS fault) AS f
				WHERE fault ->> 'reason' = 'PermissionDenied' AND fault ->> 'message' LIKE '%row level security hides rows of "sluice"."event" from the role `+role+`%'`)
			w.sql(`ALTER TABLE mended ADD COLUMN n int; INSERT INTO mended VALUES (1)`)
			w.seenOnce()
		})
	}
}
