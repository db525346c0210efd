package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

func TestTheNextEventAfterAPositionHasAnAge(t *testing.T) {
	db := eightEvents(t) // at the positions 4 to 8
	source := postgres.NewSource(db, schema)
	exec(t, db, `UPDATE sluice.event SET recorded_at = clock_timestamp() - make_interval(hours => 10 - position::int)`)
	for after, hours := range map[int64]float64{0: 6, 3: 6, 4: 5, 7: 2} {
		age, waits, err := source.Waiting(t.Context(), after)
		if err != nil || !waits || age < time.Duration(hours*float64(time.Hour)) || age > time.Duration((hours+0.1)*float64(time.Hour)) {
			t.Errorf("after %d: %v, %t, %v", after, age, waits, err)
		}
	}
	if age, waits, err := source.Waiting(t.Context(), 8); err != nil || waits || age != 0 {
		t.Errorf("after the last: %v, %t, %v", age, waits, err)
	}
	for time, old := range map[string]bool{"-infinity": true, "infinity": false, "now() + interval '1 day'": false} {
		exec(t, db, "UPDATE sluice.event SET recorded_at = "+literal(time)+" WHERE position = 8")
		age, waits, err := source.Waiting(t.Context(), 7)
		if err != nil || !waits || old != (age > 0) {
			t.Errorf("%s: %v, %t, %v", time, age, waits, err)
		}
	}
}

func literal(value string) string {
	if strings.Contains(value, "(") {
		return value
	}
	return "'" + value + "'"
}

// TestTheNextEventIsFoundByItsPosition: figures of lag must not read the table.
func TestTheNextEventIsFoundByItsPosition(t *testing.T) {
	db := eightEvents(t)
	exec(t, db, "ANALYZE sluice.event")
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
		t.Fatal(err)
	}
	rows, err := tx.Query(t.Context(), "EXPLAIN "+postgres.NewSource(db, schema).WaitingSQL(), int64(3))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "Index Scan") || strings.Contains(plan, "Sort") {
		t.Error(plan)
	}
}
