package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/eventsource/sourcetest"
)

// appendOwn and appendOutbox append an event: of the stream $1, the type $2 and with the data $3.
const (
	appendOwn    = `INSERT INTO sluice.event (stream_id, version, type, data) SELECT $1, coalesce(max(version), 0) + 1, $2, $3::jsonb FROM sluice.event WHERE stream_id = $1`
	appendOutbox = `INSERT INTO outbox (aggregate, number, type, payload) SELECT $1, coalesce(max(number), 0) + 1, $2, $3::jsonb FROM outbox WHERE aggregate = $1`
)

func TestSourcesConform(t *testing.T) {
	byGaps := unaltered(definition.PositionsInserted, "")
	for name, table := range map[string]*definition.Table{"own table": nil, "outbox": &outbox, "outbox by gaps": &byGaps} {
		for where, open := range map[string]func(db postgres.DB, source definition.Source) eventsource.Source{
			"in the store": func(db postgres.DB, source definition.Source) eventsource.Source {
				return postgres.Open(db, schema, source)
			},
			"separate": func(db postgres.DB, source definition.Source) eventsource.Source {
				return postgres.OpenSeparate(db, schema, source)
			},
		} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				sourcetest.Run(t, func(t *testing.T) sourcetest.Log {
					db := database(t)
					exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
					if table != nil && table.Columns.Transaction != "" {
						prepare(t, db, *table)
					}
					return logOf(db, table, func() eventsource.Source { return open(db, declaredIn(table)) })
				})
			})
		}
	}
}

func logOf(db *pgxpool.Pool, table *definition.Table, source func() eventsource.Source) sourcetest.Log {
	statement := appendOutbox
	if table == nil {
		statement = appendOwn
	}
	return sourcetest.Log{
		Source: func(*testing.T) eventsource.Source { return source() },
		Append: func(t *testing.T, stream string, events ...sourcetest.Event) {
			t.Helper()
			for _, e := range events {
				exec(t, db, statement, stream, e.Type, e.Data)
			}
		},
		Begin: func(t *testing.T, stream string, e sourcetest.Event) (commit func()) {
			t.Helper()
			tx, err := db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { tx.Rollback(context.Background()) })
			if _, err := tx.Exec(t.Context(), statement, stream, e.Type, e.Data); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		},
	}
}
