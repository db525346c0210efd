package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource/postgres"
)

// TestAStatementFailsWhereRowLevelSecurityHidesEvents has a role read that is given some of the
// rows, or none, so that the planner knows that there is nothing to be read.
func TestAStatementFailsWhereRowLevelSecurityHidesEvents(t *testing.T) {
	const columns = `(id bigint PRIMARY KEY, aggregate text NOT NULL, kind text NOT NULL, body jsonb NOT NULL, at timestamptz NOT NULL)`
	for name, test := range map[string]struct{ table, create string }{
		"Sluice's table":        {`sluice.event`, ``},
		"a table":               {`public."Out$Box"`, `CREATE TABLE "Out$Box" ` + columns},
		"a table in partitions": {`public."Out$Box"`, `CREATE TABLE "Out$Box" ` + columns + ` PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF "Out$Box" FOR VALUES FROM (1) TO (500); CREATE TABLE high PARTITION OF "Out$Box" FOR VALUES FROM (500) TO (1000)`},
	} {
		for policy, rows := range map[string]string{"no row": "", "every other row": `CREATE POLICY half ON %s USING (%s %% 2 = 0)`} {
			t.Run(name+"/"+policy, func(t *testing.T) {
				db := database(t)
				exec(t, db, test.create)
				source, position := definition.Source{}, "position"
				if test.create != "" {
					position = "id"
					source.Table = &definition.Table{Name: strings.ReplaceAll(test.table, `"`, ""), Data: definition.Payload{Column: "body", Type: definition.PayloadJSONB},
						Columns: definition.TableColumns{Position: "id", Stream: "aggregate", Type: "kind", RecordedAt: "at"}}
				}
				exec(t, db, fmt.Sprintf(`DO $$ BEGIN CREATE ROLE blind; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$; GRANT ALL ON SCHEMA sluice, public TO blind; GRANT ALL ON %[1]s TO blind; ALTER TABLE %[1]s ENABLE ROW LEVEL SECURITY`, test.table))
				if rows != "" {
					exec(t, db, fmt.Sprintf(rows, test.table, position))
				}
				for from, read := range map[string]string{
					"a batch":          "SELECT count(*) FROM " + postgres.EventsAt(schema, source),
					"each":             "SELECT count(*) FROM (SELECT ($1::bigint[])[1] AS position) AS r " + postgres.JoinEvents(schema, source),
					"events in places": "SELECT count(*) FROM unnest($1::bigint[]) AS r (position) " + postgres.JoinEvents(schema, source),
					"of which one":     "SELECT 1 FROM (SELECT e.* FROM unnest($1::bigint[]) AS r (position) " + postgres.JoinEvents(schema, source) + ") AS e WHERE e.position = 3 LIMIT 1",
				} {
					err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
						exec(t, tx, read, []int64{2, 3}) // with a plan for the other role
						exec(t, tx, "SET LOCAL ROLE blind")
						_, err := tx.Exec(t.Context(), read, []int64{2, 3})
						return err
					})
					if err == nil || !strings.Contains(err.Error(), "row level security hides rows of ") || !strings.Contains(err.Error(), " from the role blind") {
						t.Errorf("%s: %v", from, err)
					}
				}
			})
		}
	}
}
