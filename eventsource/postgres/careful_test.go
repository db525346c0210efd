package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/segment"
)

// Of rows some of which cannot be read every event is given once, in order, and those say what is
// wrong with which column.
func TestARowThatCannotBeReadIsGivenWithWhatIsWrongWithIt(t *testing.T) {
	const good, times = `'{"n": 1}'`, "'2026-01-01Z'"
	for name, c := range map[string]struct {
		alter                string
		change               func(*definition.Table)
		at, data             string // of the row, as SQL
		good, goodTime       string // of the others
		field, column, wants string
		bare                 bool // it can be read without contents
	}{
		"bytes that are no UTF-8": {alter: "ALTER COLUMN payload TYPE bytea USING NULL", change: func(t *definition.Table) { t.Data.Type = definition.PayloadBytea },
			data: `'\xff00'`, field: "data", column: "payload", wants: "invalid byte sequence", bare: true},
		"XML where JSON is declared": {alter: "ALTER COLUMN payload TYPE text", change: func(t *definition.Table) { t.Data.Type = definition.PayloadText },
			data: "'<a/>'", field: "data", column: "payload", wants: "declare content: Text", bare: true},
		"a large object that is not there": {alter: "ALTER COLUMN payload TYPE oid USING NULL", change: func(t *definition.Table) { t.Data.Type = definition.PayloadLargeObject },
			data: "4711", good: `lo_from_bytea(0, '{"n": 1}')`, field: "data", column: "payload", wants: "large object 4711 does not exist", bare: true},
		"a time that is none": {alter: "ALTER COLUMN at DROP DEFAULT, ALTER COLUMN at TYPE text", at: "'yesteryear'", field: "columns.recordedAt", column: "at", wants: "invalid input syntax"},
		"text with zeros": {alter: "ALTER COLUMN payload TYPE bytea USING NULL", change: func(t *definition.Table) {
			t.Data.Type, t.Data.Content = definition.PayloadBytea, definition.ContentText
		},
			data: `'\x6100'`, field: "data", column: "payload", wants: "invalid byte sequence", bare: true},
	} {
		for _, by := range []string{"gaps", "transactions"} {
			for _, bare := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/bare %t", name, by, bare), func(t *testing.T) {
					db := database(t)
					exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
					exec(t, db, "ALTER TABLE outbox "+c.alter)
					mapping := unaltered(definition.PositionsInserted, "")
					if by == "transactions" {
						mapping = outbox
					}
					if c.change != nil {
						c.change(&mapping)
					}
					prepare(t, db, mapping)
					source := postgres.Open(db, schema, declared(mapping))
					if bare {
						source = source.WithoutContents()
					}
					or := func(value, other string) string {
						if value == "" {
							return other
						}
						return value
					}
					insert := func(n int, at, data string) {
						exec(t, db, fmt.Sprintf("INSERT INTO outbox (aggregate, number, type, at, payload) VALUES ('s%d', 1, 'Happened', %s, %s)", n, at, data))
					}
					const rows = 40
					bad := map[int64]bool{1: true, 7: true, 8: true, rows: true}
					for n := range int64(rows) {
						if bad[n+1] {
							insert(int(n), or(c.at, times), or(c.data, good))
						} else {
							insert(int(n), or(c.goodTime, times), or(c.good, good))
						}
					}
					for _, limit := range []int{100, 3, 1} {
						r := newReader(t, source, earliest, segment.Root)
						var events []*eventsource.Event
						for more := true; more; {
							page := r.next(limit)
							events, more = append(events, page.Events...), page.More
						}
						if len(events) != rows {
							t.Fatalf("%d events of %d in pages of %d", len(events), rows, limit)
						}
						for i, e := range events {
							wrong := bad[e.Position] && (!bare || !c.bare)
							switch u := e.Unreadable; {
							case e.Position != int64(i+1), e.StreamID != fmt.Sprint("s", i), e.Type != "Happened", e.Hash != segment.PG1(e.StreamID):
								t.Errorf("event %d is %+v", i, e)
							case (u != nil) != wrong:
								t.Errorf("event %d: %v", e.Position, u)
							case u == nil:
							case u.Position != e.Position || u.Field != c.field || u.Column != c.column || !strings.Contains(u.Error(), c.wants):
								t.Errorf("event %d: %v, want %s", e.Position, u, c.wants)
							case !u.Lacks(c.field) || u.Lacks(eventsource.FieldStream) || !u.HasKey(segment.PerStream):
								t.Errorf("event %d lacks %v", e.Position, u.Missing)
							}
						}
					}
				})
			}
		}
	}
}
