package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
)

func newLog(t testing.TB, db postgres.DB) *postgres.Log {
	log := postgres.NewLog(db, schema)
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

var happened = postgres.NewEvent{Type: "Happened"}

// column returns the rows of a query with one column.
func column[T any](t testing.TB, db postgres.DB, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return all
}

func query[T any](t testing.TB, db postgres.DB, sql string, args ...any) (value T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestAppendedEventsAreRead(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	type amount struct {
		Cents int `json:"cents"`
	}
	version, err := log.Append(t.Context(), "payment-1", postgres.NoStream,
		postgres.NewEvent{Type: "Created", Data: amount{1250}, Metadata: map[string]string{"by": "<me>"}, ID: "f47ac10b-58cc-4372-a567-0e02b2c3d479"},
		postgres.NewEvent{Type: "Paid", Data: json.RawMessage(`{"n":1}`), Metadata: map[string]string(nil)})
	if err != nil || version != 2 {
		t.Fatalf("version %d, error %v", version, err)
	}
	if version, err = log.Append(t.Context(), "payment-1", postgres.Exactly(2), happened); err != nil || version != 3 {
		t.Fatalf("version %d, error %v", version, err)
	}
	var got []string
	for _, e := range newReader(t, postgres.NewSource(db, schema), progress.StartPosition{Type: progress.Earliest}).next(10).Events {
		got = append(got, fmt.Sprintf("%s %d %s %s %s", e.StreamID, e.Version, e.Type, e.Data, e.Metadata))
	}
	want := []string{`payment-1 1 Created {"cents": 1250} {"by": "<me>"}`, `payment-1 2 Paid {"n": 1} {}`, `payment-1 3 Happened {} {}`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAConflictNamesTheVersionsAndTakesNoPosition(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	if _, err := log.Append(t.Context(), "a", postgres.Any, happened, happened); err != nil {
		t.Fatal(err)
	}
	for _, expected := range []postgres.Version{postgres.NoStream, postgres.Exactly(1), postgres.Exactly(3)} {
		_, err := log.Append(t.Context(), "a", expected, happened)
		conflict, ok := errors.AsType[*postgres.ConflictError](err)
		if !ok || !errors.Is(err, postgres.ErrConflict) || *conflict != (postgres.ConflictError{Stream: "a", Expected: expected, Actual: 2}) {
			t.Errorf("expecting %s: %v", expected, err)
		}
	}
	if _, err := db.Exec(t.Context(), `SELECT sluice.append('a', 7, '[{"type": "T"}]')`); err == nil || !strings.Contains(err.Error(), "stream a is at version 2, expected 7") {
		t.Errorf("in SQL: %v", err)
	}
	if head := query[int64](t, db, "SELECT last_value FROM sluice.event_position_seq"); head != 2 {
		t.Errorf("the conflicts took positions up to %d", head)
	}
}

func TestOfConcurrentAppendsToOneVersionOneWins(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	for round := range 20 {
		var won, lost atomic.Int64
		concurrently(12, func(int) {
			_, err := log.Append(t.Context(), "a", postgres.Exactly(int64(3*round)), happened, happened, happened)
			conflict, ok := errors.AsType[*postgres.ConflictError](err)
			switch {
			case err == nil:
				won.Add(1)
			case ok && conflict.Actual == postgres.Exactly(int64(3*round+3)):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
		if won.Load() != 1 || lost.Load() != 11 {
			t.Fatalf("round %d: %d won, %d lost", round, won.Load(), lost.Load())
		}
	}
}

func TestConcurrentAppendsToAnyVersionAllSucceed(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	concurrently(12, func(n int) {
		for i := range 15 {
			if n%2 == 0 {
				if _, err := db.Exec(t.Context(), `SELECT sluice.append('a', NULL, $1)`, fmt.Sprintf("[%s]", strings.Repeat(`{"type": "T"},`, i%3)+`{"type": "T"}`)); err != nil {
					t.Error(err)
				}
				continue
			}
			events := []postgres.NewEvent{happened, happened, happened}[:i%3+1]
			if _, err := log.Append(t.Context(), "a", postgres.Any, events...); err != nil {
				t.Error(err)
			}
		}
	})
	if n := query[int64](t, db, "SELECT max(version) FROM sluice.event WHERE version = (SELECT count(*) FROM sluice.event)"); n != 12*5*(1+2+3) {
		t.Errorf("%d events without a gap, want %d", n, 12*5*(1+2+3))
	}
	if out := query[int64](t, db, "SELECT count(*) FROM (SELECT version, lag(version) OVER (ORDER BY position) AS before FROM sluice.event) e WHERE version <= before"); out != 0 {
		t.Errorf("%d versions stand before a lower one", out)
	}
}

// One event goes another way than several do. It finds out that its version is taken when it is written.
func TestASingleEventWaitsForTheOneThatTakesItsVersion(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	inTx := func(expected postgres.Version) (version postgres.Version, err error) {
		err = pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
			version, err = log.AppendTx(t.Context(), tx, "a", expected, happened)
			return err
		})
		return version, err
	}
	alone := func(expected postgres.Version) (postgres.Version, error) {
		return log.Append(t.Context(), "a", expected, happened)
	}
	for i, appending := range []func(postgres.Version) (postgres.Version, error){alone, inTx} {
		other, err := db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Rollback(t.Context())
		before, err := log.AppendTx(t.Context(), other, "a", postgres.Any, happened)
		if err != nil {
			t.Fatal(err)
		}
		var any, exactly postgres.Version
		var failed, conflicting error
		done := make(chan struct{})
		go func() {
			defer close(done)
			concurrently(2, func(n int) {
				if n == 0 {
					any, failed = appending(postgres.Any)
				} else {
					exactly, conflicting = appending(before - 1)
				}
			})
		}()
		for query[int](t, db, "SELECT count(*) FROM pg_locks WHERE NOT granted") < 2 {
		}
		if err := other.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-done
		if failed != nil || any != before+1 {
			t.Errorf("way %d: expecting none: version %d, error %v", i, any, failed)
		}
		conflict, ok := errors.AsType[*postgres.ConflictError](conflicting)
		if !ok || conflict.Actual < before || conflict.Expected != before-1 {
			t.Errorf("way %d: version %d, error %v", i, exactly, conflicting)
		}
	}
	if gaps := query[int](t, db, "SELECT count(*) FROM (SELECT FROM sluice.event GROUP BY stream_id HAVING max(version) <> count(*)) s"); gaps > 0 {
		t.Errorf("%d streams have gaps", gaps)
	}
}

func concurrently(n int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}

func TestAppendInTheCallersTransaction(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	abandon := errors.New("rolled back by the caller")
	err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		if _, err := log.AppendTx(t.Context(), tx, "a", postgres.NoStream, happened); err != nil {
			t.Error(err)
		}
		return abandon
	})
	if !errors.Is(err, abandon) {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		if _, err := log.AppendTx(t.Context(), tx, "b", postgres.NoStream, happened); err != nil {
			return err
		}
		_, err := log.AppendTx(t.Context(), tx, "b", postgres.Exactly(1), happened)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := query[string](t, db, "SELECT string_agg(stream_id || version, ',' ORDER BY position) FROM sluice.event"); n != "b1,b2" {
		t.Errorf("there are %s", n)
	}
}

// A writer that inserts by itself takes versions that append cannot know of yet, and here two do.
func TestAVersionTakenByAnInsertIsAConflict(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	var others [2]pgx.Tx
	for i := range others {
		var err error
		if others[i], err = db.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer others[i].Rollback(t.Context())
		if _, err := others[i].Exec(t.Context(), "INSERT INTO sluice.event (stream_id, version, type, data) VALUES ('a', $1, 'T', '{}')", 2*i+2); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() {
		_, err := log.Append(t.Context(), "a", postgres.Any, happened, happened)
		done <- err
	}()
	for _, other := range others {
		waiting := fmt.Sprintf("SELECT count(*) FROM pg_locks w JOIN pg_locks h ON h.transactionid = w.transactionid AND h.granted AND NOT w.granted WHERE h.pid = %d", other.Conn().PgConn().PID())
		for query[int](t, db, waiting) == 0 {
		}
		if err := other.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	conflict, ok := errors.AsType[*postgres.ConflictError](<-done)
	if !ok || conflict.Actual != 4 || conflict.Stream != "a" || conflict.Expected != postgres.Any {
		t.Errorf("conflict %+v", conflict)
	}
}

func TestAppendSaysWhatIsWrong(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	ctx := t.Context()
	for want, err := range map[string]error{
		"stream id is empty":                    second(log.Append(ctx, "", postgres.Any, happened)),
		"no events":                             second(log.Append(ctx, "a", postgres.Any)),
		"event 2 of 2: the field Type is empty": second(log.Append(ctx, "a", postgres.Any, happened, postgres.NewEvent{})),
		`ID "x" is not a uuid`:                  second(log.Append(ctx, "a", postgres.Any, postgres.NewEvent{Type: "T", ID: "x"})),
		"-3 is below 0":                         second(log.Append(ctx, "a", postgres.Exactly(-3), happened)),
		"the field Data has to become JSON":     second(log.Append(ctx, "a", postgres.Any, postgres.NewEvent{Type: "T", Data: func() {}})),
		"the field Metadata has to become JSON: json: error calling MarshalJSON for type json.RawMessage: unexpected end": second(log.Append(ctx, "a", postgres.Any, happened, postgres.NewEvent{Type: "T", Metadata: json.RawMessage(`{`)})),
		"the stream id is empty":                    second(db.Exec(ctx, `SELECT sluice.append('', NULL, '[{"type": "T"}]')`)),
		"expected version is -1":                    second(db.Exec(ctx, `SELECT sluice.append('a', -1, '[{"type": "T"}]')`)),
		"at least one event":                        second(db.Exec(ctx, `SELECT sluice.append('a', NULL, '[]')`)),
		"a JSON array":                              second(db.Exec(ctx, `SELECT sluice.append('a', NULL, '{"type": "T"}')`)),
		"event 2 of 2: type is missing or empty":    second(db.Exec(ctx, `SELECT sluice.append('a', NULL, '[{"type": "T"}, {"data": {}}]')`)),
		"event 1 of 1: it is not a JSON object":     second(db.Exec(ctx, `SELECT sluice.append('a', NULL, '[4]')`)),
		"event 1 of 1: field 'datum' is not known,": second(db.Exec(ctx, `SELECT sluice.append('a', NULL, '[{"type": "T", "datum": {}}]')`)),
		"SQLSTATE 22P02":                            second(db.Exec(ctx, `SELECT sluice.append('a', NULL, '[{"type": "T", "id": "x"}]')`)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if n := query[int](t, db, "SELECT count(*) FROM sluice.event"); n != 0 {
		t.Errorf("%d events", n)
	}
}

func second[T any](_ T, err error) error { return err }

func TestReadersAreNotifiedAfterTheCommitAndSeldom(t *testing.T) {
	db := database(t)
	listener := listen(t, db)
	log := newLog(t, db)
	start := time.Now()
	concurrently(4, func(n int) {
		for range 100 {
			if _, err := log.Append(t.Context(), fmt.Sprint("s", n), postgres.Any, happened); err != nil {
				t.Error(err)
			}
		}
	})
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	most := int(time.Since(start)/(5*time.Millisecond)) + 1
	exec(t, db, "SELECT pg_notify('sluice_events', 'the end')")
	got := 0
	for waitFor(t, listener).Payload == "" {
		got++
	}
	if got == 0 || got > most {
		t.Errorf("%d notifications, want 1 to %d", got, most)
	}
}

func TestTheLastAppendIsFollowedByANotification(t *testing.T) {
	db := database(t)
	listener := listen(t, db)
	log := newLog(t, db)
	for i := range 30 {
		stream := fmt.Sprint("s", i)
		if _, err := log.Append(t.Context(), stream, postgres.Any, happened); err != nil {
			t.Fatal(err)
		}
		waitFor(t, listener)
	}
	err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		_, err := log.AppendTx(t.Context(), tx, "t", postgres.Any, happened)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	log.Notify()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, listener)
}

func listen(t *testing.T, db *pgxpool.Pool) *pgxpool.Conn {
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Hijack().Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "LISTEN "+pgx.Identifier{postgres.Channel(schema)}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	return conn
}

func waitFor(t *testing.T, conn *pgxpool.Conn) *pgconn.Notification {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n, err := conn.Conn().WaitForNotification(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestChannel(t *testing.T) {
	long := strings.Repeat("x", 63)
	for schema, want := range map[string]string{"sluice": "sluice_events", "other": "sluice_events_other", long: "sluice_events_" + postgres.Channel(long)[14:]} {
		if got := postgres.Channel(schema); got != want || len(got) > 63 {
			t.Errorf("channel of %s: %s", schema, got)
		}
	}
	if postgres.Channel(long) == postgres.Channel(long[1:]+"y") {
		t.Error("two schemas with one channel")
	}
}
