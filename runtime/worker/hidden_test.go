package worker_test

import "testing"

// TestAStatementThatWouldNotSeeItsEventsFails has one statement change the role to another one, from
// which row level security hides the events, for good or until after the next statement. That would
// be given none of them, and the token would move all the same.
func TestAStatementThatWouldNotSeeItsEventsFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ kind, events, more string }{
		"batch":           {kind: "batch", events: "events"},
		"each":            {kind: "each", events: "event"},
		"batch, and back": {kind: "batch", events: "events", more: `, {eventTypes: [Counted], batch: "SELECT set_config('role', 'none', true)"}`},
		"each, and back":  {kind: "each", events: "event", more: `, {eventTypes: [Counted], each: "SELECT set_config('role', 'none', true)"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, `
  - name: view
    segments: 1
    onError: {backoff: {initial: 50ms, max: 100ms}}
    handler:
      type: SQL
      sql:
        statements: [
          {eventTypes: [Counted], `+test.kind+`: "SELECT change_role() FROM `+test.events+`"},
          {eventTypes: [Counted], `+test.kind+`: "INSERT INTO seen (position) SELECT position FROM `+test.events+`"}
          `+test.more+`]`)
			w.makeSeen()
			role := "blind_" + test.kind
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
				WHERE fault ->> 'reason' = 'PermissionDenied' AND fault ->> 'message' LIKE 'statements[1] %row level security hides rows of "sluice"."event" from the role `+role+`%'`)
			w.sql(`ALTER TABLE mended ADD COLUMN n int; INSERT INTO mended VALUES (1)`)
			w.seenOnce()
		})
	}
}
