package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
)

const insertOne = `INSERT INTO sluice.event (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'T', '{}')`

// fromThere reads all events from a place, or says why there is none.
func fromThere(t *testing.T, db *pgxpool.Pool, at progress.StartPosition) string {
	t.Helper()
	source := postgres.NewSource(db, schema)
	progress, err := source.Start(t.Context(), at)
	var none *eventsource.StartPositionError
	if errors.As(err, &none) {
		return "refused: " + none.Problem
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, source: source}
	r.resume(progress)
	var positions []string
	for _, e := range r.next(100).Events {
		positions = append(positions, fmt.Sprint(e.Position))
	}
	return strings.Join(positions, " ")
}

func position(p int) progress.StartPosition {
	return progress.StartPosition{Type: progress.AtPosition, Position: fmt.Sprint(p)}
}

func recorded(t *testing.T, db *pgxpool.Pool, position int) progress.StartPosition {
	t.Helper()
	return progress.StartPosition{Type: progress.AtTimestamp, Timestamp: query[time.Time](t, db, fmt.Sprintf("SELECT recorded_at FROM sluice.event WHERE position = %d", position))}
}

// eightEvents has events at the positions 4 to 8: those below were taken by appends that were rolled back.
func eightEvents(t *testing.T) *pgxpool.Pool {
	t.Helper()
	db := database(t)
	for i := range 8 {
		tx, err := db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), insertOne); err != nil {
			t.Fatal(err)
		}
		end := tx.Commit
		if i < 3 {
			end = tx.Rollback
		}
		if err := end(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

var longAgo = progress.StartPosition{Type: progress.AtTimestamp, Timestamp: time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)}

func TestNothingIsRefusedWhereNothingWasDeleted(t *testing.T) {
	db := eightEvents(t)
	for _, at := range []progress.StartPosition{{Type: progress.Earliest}, position(0), position(1), position(4), longAgo, recorded(t, db, 4)} {
		if got := fromThere(t, db, at); got != "4 5 6 7 8" {
			t.Errorf("from %+v: %s", at, got)
		}
	}
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "DELETE FROM sluice.event"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "DELETE FROM sluice.event WHERE position > 100")
	if got := fromThere(t, db, position(1)); got != "4 5 6 7 8" {
		t.Errorf("after a deletion that was rolled back, and one of nothing: %s", got)
	}
}

func TestAPlaceBeforeWhatWasDeletedIsRefused(t *testing.T) {
	db := eightEvents(t)
	fifth, sixth := recorded(t, db, 5), recorded(t, db, 6)
	exec(t, db, "DELETE FROM sluice.event WHERE position <= 5")
	oldest := "the oldest event, which is at position 6 and was recorded at " + sixth.Timestamp.UTC().Format(time.RFC3339Nano) +
		"; events before it have been deleted: choose the type Earliest, or a "
	for _, test := range []struct {
		at   progress.StartPosition
		want string
	}{
		{progress.StartPosition{Type: progress.Earliest}, "6 7 8"},
		{position(0), "refused: position 0 is before " + oldest + "position from there on"},
		{position(5), "refused: position 5 is before " + oldest + "position from there on"},
		{position(6), "6 7 8"},
		{position(8), "8"},
		{longAgo, "refused: 2001-02-03T04:05:06Z is before " + oldest + "time from there on"},
		{fifth, "refused: " + fifth.Timestamp.UTC().Format(time.RFC3339Nano) + " is before " + oldest + "time from there on"},
		{sixth, "6 7 8"},
	} {
		if d := cmp.Diff(test.want, fromThere(t, db, test.at)); d != "" {
			t.Errorf("%+v: %s", test.at, d)
		}
	}
	exec(t, db, "DELETE FROM sluice.event WHERE position = 7")
	if got := fromThere(t, db, position(6)); got != "6 8" {
		t.Errorf("from the oldest event, with one after it deleted: %s", got)
	}
}

func TestWhereAllEventsWereDeletedOnlyWhatComesAfterThemIsAPlace(t *testing.T) {
	for name, sql := range map[string]string{"DELETE": "DELETE FROM sluice.event", "TRUNCATE": "TRUNCATE sluice.event"} {
		t.Run(name, func(t *testing.T) {
			db := eightEvents(t)
			exec(t, db, sql)
			for _, at := range []progress.StartPosition{position(1), position(8), longAgo} {
				if got := fromThere(t, db, at); !strings.HasPrefix(got, "refused: ") || !strings.Contains(got, "events up to position 8 have been deleted") || !strings.Contains(got, "choose the type Latest") {
					t.Errorf("from %+v: %s", at, got)
				}
			}
			for _, at := range []progress.StartPosition{{Type: progress.Earliest}, {Type: progress.Latest}, position(9)} {
				if got := fromThere(t, db, at); got != "" {
					t.Errorf("from %+v: %s", at, got)
				}
			}
		})
	}
}

func TestTheNextPositionIsLatest(t *testing.T) {
	db := eightEvents(t)
	r := newReader(t, postgres.NewSource(db, schema), position(9))
	exec(t, db, insertOne)
	if page := r.next(10); len(page.Events) != 1 || page.Events[0].Position != 9 {
		t.Errorf("%+v", page.Events)
	}
}

func TestWhoMayDeleteEventsNeedsNothingMore(t *testing.T) {
	url := migrated(t, schema)
	db := pool(t, url)
	exec(t, db, insertOne)
	role := fmt.Sprint("deleter_", time.Now().UnixNano()) // roles are the server's, which tests share
	exec(t, db, "CREATE ROLE "+role+" NOLOGIN")
	exec(t, db, "GRANT USAGE ON SCHEMA sluice TO "+role)
	exec(t, db, "GRANT SELECT, DELETE ON sluice.event TO "+role)
	exec(t, as(t, url, role), "DELETE FROM sluice.event")
	if got := fromThere(t, db, position(1)); !strings.HasPrefix(got, "refused: ") {
		t.Errorf("from 1: %s", got)
	}
}

func TestWhatWasDeletedBeforeItWasNotedIsFoundByItsStream(t *testing.T) {
	db := database(t)
	files, err := filepath.Glob("../../tokenstore/postgres/migrations/*_deleted.sql")
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	migration, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	again := func() { // the migration, as if it had not been there before
		t.Helper()
		exec(t, db, "DROP FUNCTION sluice.note_deleted CASCADE")
		exec(t, db, "DROP TABLE sluice.event_deleted")
		exec(t, db, strings.ReplaceAll(string(migration), "{{schema}}", schema))
	}
	exec(t, db, `SELECT nextval('sluice.event_position_seq')`)
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, type, data) SELECT 'a', n, 'T', '{}' FROM generate_series(1, 5) n`)
	again()
	if got := fromThere(t, db, position(1)); got != "2 3 4 5 6" {
		t.Errorf("from 1, with nothing deleted: %s", got)
	}
	exec(t, db, "ALTER TABLE sluice.event DISABLE TRIGGER USER")
	exec(t, db, "DELETE FROM sluice.event WHERE position <= 2")
	again()
	if got := fromThere(t, db, position(2)); !strings.Contains(got, "the oldest event, which is at position 3") {
		t.Errorf("from 2: %s", got)
	}
	if got := fromThere(t, db, position(3)); got != "3 4 5 6" {
		t.Errorf("from 3: %s", got)
	}
}

func TestStartBeyondTheEventsIsRefused(t *testing.T) {
	db := eightEvents(t)
	future := progress.StartPosition{Type: progress.AtTimestamp, Timestamp: query[time.Time](t, db, "SELECT clock_timestamp() + interval '1 hour'")}
	for says, at := range map[string]progress.StartPosition{"position 10 is beyond the newest event": position(10), "beyond the newest event, which is at position 8": position(999999999), "is in the future": future} {
		if got := fromThere(t, db, at); !strings.HasPrefix(got, "refused: ") || !strings.Contains(got, says) || !strings.Contains(got, "Latest") {
			t.Errorf("%+v: %q does not say %q, and what to choose", at, got, says)
		}
	}
	now := progress.StartPosition{Type: progress.AtTimestamp, Timestamp: query[time.Time](t, db, "SELECT clock_timestamp()")}
	for _, at := range []progress.StartPosition{position(9), now, {Type: progress.Latest}} {
		if got := fromThere(t, db, at); got != "" {
			t.Errorf("%+v: %q, want no event yet", at, got)
		}
	}
}
