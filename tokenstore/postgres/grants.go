package postgres

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// grants are what a worker's role needs: it appends by columns, since an event's position and transaction are never a
// client's, and it reads the migrations but makes none.
const grants = `GRANT USAGE ON SCHEMA {{schema}} TO {{role}};
GRANT SELECT ON {{schema}}.migration, {{schema}}.meta, {{schema}}.event, {{schema}}.event_deleted, {{schema}}.event_position_seq TO {{role}};
GRANT INSERT (stream_id, version, id, type, data, metadata) ON {{schema}}.event TO {{role}};
GRANT SELECT, INSERT, UPDATE, DELETE ON {{schema}}.processor, {{schema}}.definition, {{schema}}.setup, {{schema}}.worker,
  {{schema}}.assignment, {{schema}}.processing_group, {{schema}}.token, {{schema}}.token_part, {{schema}}.failure,
  {{schema}}.replay, {{schema}}.replay_boundary TO {{role}};
GRANT USAGE, SELECT ON SEQUENCE {{schema}}.incarnation TO {{role}};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {{schema}} TO {{role}};
`

// Grants returns the commands that let a role run workers on a schema that another role has migrated. They may be repeated.
// What handlers read and write is granted by whoever owns those tables.
func Grants(schema, role string) string {
	return strings.NewReplacer("{{schema}}", quoted(schema), "{{role}}", pgx.Identifier{role}.Sanitize()).Replace(grants)
}
