package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

// Each combination is a statement of its own.
func TestEveryWayToAppendWritesWhatItIsGiven(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	ctx := t.Context()
	inTx := func(ctx context.Context, stream string, expected postgres.Version, events ...postgres.NewEvent) (version postgres.Version, err error) {
		err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			version, err = log.AppendTx(ctx, tx, stream, expected, events...)
			return err
		})
		return version, err
	}
	ways := map[string]func(context.Context, string, postgres.Version, ...postgres.NewEvent) (postgres.Version, error){"Append": log.Append, "AppendTx": inTx}
	for way, appending := range ways {
		for _, n := range []int{1, 3} {
			for _, metadata := range []bool{false, true} {
				for name, expect := range map[string]func(int) postgres.Version{
					"any":     func(int) postgres.Version { return postgres.Any },
					"checked": func(before int) postgres.Version { return postgres.Exactly(int64(before)) },
				} {
					stream := fmt.Sprint(way, n, metadata, name)
					var want []string
					for range 2 { // of a stream that is new, and one that is there
						events := make([]postgres.NewEvent, n)
						before := len(want)
						for i := range events {
							version, id := len(want)+1, uuid.NewString()
							events[i] = postgres.NewEvent{Type: fmt.Sprint("T", version), Data: map[string]int{"n": version}, ID: id}
							meta := "{}"
							if metadata && i == n-1 {
								events[i].Metadata, meta = json.RawMessage(` {"<m>": [1, null]}`), `{"<m>": [1, null]}`
							}
							want = append(want, fmt.Sprintf(`%d %s T%d {"n": %d} %s`, version, id, version, version, meta))
						}
						if version, err := appending(ctx, stream, expect(before), events...); err != nil || int(version) != len(want) {
							t.Errorf("%s: version %d, error %v", stream, version, err)
						}
					}
					got := column[string](t, db, "SELECT format('%s %s %s %s %s', version, id, type, data, metadata) FROM sluice.event WHERE stream_id = $1 ORDER BY position", stream)
					if fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%s:\ngot  %q\nwant %q", stream, got, want)
					}
				}
			}
		}
	}
}

func TestDataMayBeNullAndComeInSpaces(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	var absent *struct{}
	for _, data := range []any{nil, absent, json.RawMessage(nil), json.RawMessage(" null\n"), json.RawMessage(" { } ")} {
		for n := range 2 {
			if _, err := log.Append(t.Context(), "a", postgres.Any, []postgres.NewEvent{{Type: "T", Data: data}, {Type: "T", Metadata: data}}[:n+1]...); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
		}
	}
	if n := query[int](t, db, `SELECT count(*) FROM sluice.event WHERE data = '{}' AND metadata = '{}'`); n != 15 {
		t.Errorf("%d of 15 have {}", n)
	}
}

// Behind a pooler statements may not be prepared, and parameters go as texts.
func TestAppendInEveryModeOfTheDriver(t *testing.T) {
	url := migrated(t, schema)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		config.ConnConfig.DefaultQueryExecMode = mode
		db, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		log := newLog(t, db)
		event := postgres.NewEvent{Type: "T'", Data: json.RawMessage(`{"a": "\\ '{},\""}`), Metadata: map[string]int{"n": 1}}
		var version postgres.Version
		for _, expected := range []postgres.Version{postgres.NoStream, postgres.Exactly(1), postgres.Any} {
			for _, events := range [][]postgres.NewEvent{{event}, {event, happened, event}} {
				if expected != postgres.Any {
					expected = version
				}
				before := version
				if version, err = log.Append(t.Context(), mode.String(), expected, events...); err != nil || version != before+postgres.Version(len(events)) {
					t.Fatalf("%s: expecting %s: version %d, error %v", mode, expected, version, err)
				}
			}
		}
		if _, err := log.Append(t.Context(), mode.String(), postgres.NoStream, event); !errors.Is(err, postgres.ErrConflict) {
			t.Errorf("%s: %v", mode, err)
		}
		const all = "640 events of 40 streams, shared: "
		for round := 0; ; round++ { // on a busy machine few wait at the same time
			got := appendShared(t, db, log, fmt.Sprintf("shared-%s-%d", mode, round))
			if got == all+"true" {
				break
			}
			if got != all+"false" || round == 10 {
				t.Errorf("%s: %s", mode, got)
				break
			}
		}
	}
	if n := query[int](t, pool(t, url), `SELECT count(*) FROM sluice.event WHERE type = 'T''' AND data = '{"a": "\\ ''{},\""}' AND metadata = '{"n": 1}'`); n != 5*3*3 {
		t.Errorf("%d events are as given", n)
	}
}

// appendShared has 40 clients append to streams of a name at once, by every expectation, and says what came of it: shared if two appends made one transaction on average.
func appendShared(t *testing.T, db *pgxpool.Pool, log *postgres.Log, name string) string {
	t.Helper()
	concurrently(40, func(client int) {
		for n := range 4 {
			expected := []postgres.Version{postgres.Any, postgres.Exactly(int64(4 * n))}[n%2]
			for _, events := range [][]postgres.NewEvent{{happened}, {happened, {Type: "Happened", Metadata: map[string]int{"n": 1}}, happened}} {
				version, err := log.Append(t.Context(), fmt.Sprintf("%s-%d", name, client), expected, events...)
				if err != nil {
					t.Errorf("%s: expecting %s: %v", name, expected, err)
				} else if expected != postgres.Any {
					expected = version
				}
			}
		}
	})
	return query[string](t, db, "SELECT count(*) || ' events of ' || count(DISTINCT stream_id) || ' streams, shared: ' || (count(DISTINCT txid) < 40 * 4) FROM sluice.event WHERE stream_id LIKE $1 || '-%'", name)
}

// Whatever a log has written before, what counts is what is there now.
func TestAppendGoesOnFromWhatIsThere(t *testing.T) {
	db := database(t)
	log := newLog(t, db)
	abandon := errors.New("rolled back by the caller")
	for name, test := range map[string]struct {
		lose func() error
		left postgres.Version
	}{
		"rolled back": {func() error {
			err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
				_, err := log.AppendTx(t.Context(), tx, "rolled back", postgres.Exactly(3), happened)
				return errors.Join(err, abandon)
			})
			if errors.Is(err, abandon) {
				return nil
			}
			return err
		}, 3},
		"last deleted": {func() error {
			return second(db.Exec(t.Context(), "DELETE FROM sluice.event WHERE stream_id = 'last deleted' AND version = 3"))
		}, 2},
		"first deleted": {func() error {
			return second(db.Exec(t.Context(), "DELETE FROM sluice.event WHERE stream_id = 'first deleted' AND version < 3"))
		}, 3},
		"emptied": {func() error {
			return second(db.Exec(t.Context(), "DELETE FROM sluice.event WHERE stream_id = 'emptied'"))
		}, 0},
	} {
		for range 3 {
			if _, err := log.Append(t.Context(), name, postgres.Any, happened); err != nil {
				t.Fatal(err)
			}
		}
		if err := test.lose(); err != nil {
			t.Fatal(err)
		}
		for _, expected := range []postgres.Version{postgres.NoStream, 2, 3, 4} {
			if expected == test.left {
				continue
			}
			_, err := log.Append(t.Context(), name, expected, happened)
			if conflict, ok := errors.AsType[*postgres.ConflictError](err); !ok || conflict.Actual != test.left {
				t.Errorf("%s: expecting %s: %v", name, expected, err)
			}
		}
		for i, expected := range []postgres.Version{test.left, postgres.Any} {
			if version, err := log.Append(t.Context(), name, expected, happened); err != nil || version != test.left+postgres.Version(i)+1 {
				t.Errorf("%s: expecting %s: version %d, error %v", name, expected, version, err)
			}
		}
	}
}

// Two processes append to the same streams, in every way, and roll back: each version is there once, in the order of the positions, and what is
// told of an append is true.
func TestTwoLogsOnTheSameStreams(t *testing.T) {
	url := migrated(t, schema)
	db := pool(t, url)
	logs := []*postgres.Log{newLog(t, db), newLog(t, pool(t, url))}
	const streams, writers, appends = 3, 8, 80
	abandon := errors.New("rolled back by the caller")
	kept := make([]int64, writers)
	concurrently(writers, func(w int) {
		random := rand.New(rand.NewPCG(7, uint64(w)))
		log := logs[w%len(logs)]
		var known [streams]postgres.Version
		for range appends {
			s := random.IntN(streams)
			stream, expected := fmt.Sprint("s", s), []postgres.Version{postgres.Any, known[s]}[random.IntN(2)]
			events := make([]postgres.NewEvent, 1+random.IntN(3))
			for i := range events {
				events[i] = postgres.NewEvent{Type: "T", ID: uuid.NewString(), Data: map[string]int{"nth": i}}
			}
			var version postgres.Version
			var err error
			switch random.IntN(3) {
			case 0:
				err = pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
					version, err = log.AppendTx(t.Context(), tx, stream, expected, events...)
					if err == nil && random.IntN(2) == 0 {
						err = abandon
					}
					return err
				})
			default:
				version, err = log.Append(t.Context(), stream, expected, events...)
			}
			if conflict, ok := errors.AsType[*postgres.ConflictError](err); ok && expected != postgres.Any && conflict.Actual > expected {
				known[s] = conflict.Actual
				continue
			}
			if errors.Is(err, abandon) {
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			known[s] = version
			kept[w] += int64(len(events))
			if expected != postgres.Any && version != expected+postgres.Version(len(events)) {
				t.Errorf("%d events behind %s came to version %d", len(events), expected, version)
			}
			for i, e := range events {
				at := version - postgres.Version(len(events)-1-i)
				if n := query[int](t, db, "SELECT count(*) FROM sluice.event WHERE id = $1 AND stream_id = $2 AND version = $3", e.ID, stream, int64(at)); n != 1 {
					t.Errorf("event %d of %d is not at version %d of %s", i+1, len(events), at, stream)
				}
			}
		}
	})
	var want int64
	for _, n := range kept {
		want += n
	}
	if n := query[int64](t, db, "SELECT count(*) FROM sluice.event"); n != want {
		t.Errorf("%d events are there, want %d", n, want)
	}
	if wrong := query[int](t, db, "SELECT count(*) FROM (SELECT version, row_number() OVER (PARTITION BY stream_id ORDER BY position) AS nth FROM sluice.event) e WHERE version <> nth"); wrong > 0 {
		t.Errorf("%d events are not where they belong", wrong)
	}
}
