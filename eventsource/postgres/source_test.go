package postgres_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

func TestVisibleEqualsPostgreSQL(t *testing.T) {
	db := database(t)
	random := rand.New(rand.NewPCG(3, 4))
	var texts []string
	var xids []string
	var got []bool
	for range 5_000 {
		xmin := 1 + random.Uint64N(1<<uint(1+random.IntN(40)))
		xmax := xmin + random.Uint64N(30)
		var xip []string
		for x := xmin; x < xmax; x++ {
			if random.IntN(3) == 0 {
				xip = append(xip, fmt.Sprint(x))
			}
		}
		text := fmt.Sprintf("%d:%d:%s", xmin, xmax, strings.Join(xip, ","))
		s, err := postgres.ParseSnapshot(text)
		if err != nil {
			t.Fatal(err)
		}
		x := xmin + random.Uint64N(34) - min(xmin-1, 2)
		texts, xids, got = append(texts, text), append(xids, fmt.Sprint(x)), append(got, s.Visible(x))
	}
	rows, err := db.Query(t.Context(), `SELECT pg_visible_in_snapshot(x::xid8, s::pg_snapshot) AND s = s::pg_snapshot::text FROM unnest($1::text[], $2::text[]) AS u (s, x)`, texts, xids)
	if err != nil {
		t.Fatal(err)
	}
	want, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) || !slices.Contains(want, true) || !slices.Contains(want, false) {
		t.Error("they differ")
	}
}

func TestAnEventIsReadAsItWasWritten(t *testing.T) {
	db := database(t)
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, id, type, data, metadata)
		VALUES ('straße-1', 1, 'f47ac10b-58cc-4372-a567-0e02b2c3d479', 'Opened', '{"amount": 12.50, "to": "Ærø"}', '{"by": "me"}'), ('b', 1, DEFAULT, 'Empty', '{}', DEFAULT)`)
	page := newReader(t, postgres.NewSource(db, schema), progress.StartPosition{Type: progress.Earliest}).next(10)
	if len(page.Events) != 2 || page.More {
		t.Fatalf("%d events, more: %t", len(page.Events), page.More)
	}
	got := page.Events[0]
	if age := time.Since(got.RecordedAt); age < 0 || age > time.Minute {
		t.Errorf("recorded %v ago", age)
	}
	if got.Mark == 0 || got.Mark != page.Events[1].Mark {
		t.Errorf("transactions %d and %d", got.Mark, page.Events[1].Mark)
	}
	got.RecordedAt, got.Mark = time.Time{}, 0
	want := &eventsource.Event{Position: 1, StreamID: "straße-1", Version: 1, ID: "f47ac10b-58cc-4372-a567-0e02b2c3d479", Type: "Opened",
		Data: []byte(`{"to": "Ærø", "amount": 12.50}`), Metadata: []byte(`{"by": "me"}`), Hash: segment.PG1("straße-1")}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if second := page.Events[1]; second.StreamID != "b" || string(second.Data) != "{}" || string(second.Metadata) != "{}" || len(second.ID) != 36 {
		t.Errorf("the second is %+v", second)
	}
}

func TestSegmentsShareTheEventsAndEachMovesToTheHead(t *testing.T) {
	db := database(t)
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, type, data) SELECT 's' || n, 1, 'T', '{}' FROM generate_series(1, 3000) n`)
	source := postgres.NewSource(db, schema)
	layout, err := segment.Layout(11)
	if err != nil {
		t.Fatal(err)
	}
	given := map[int64]int{}
	for _, segments := range [][]segment.Segment{layout[:1], layout[1:4], layout[4:5], layout[5:]} {
		share := 0
		for _, s := range segments {
			share += s.Share()
		}
		r := newReader(t, source.WithWindow(700), progress.StartPosition{Type: progress.Earliest}, segments...)
		for more := true; more; {
			page := r.next(100)
			more = page.More
			for _, e := range page.Events {
				if slices.ContainsFunc(segments, func(s segment.Segment) bool { return s.Contains(e.Hash) }) {
					given[e.Position]++
				} else if share < segment.MaxSlices/2 {
					t.Fatalf("stream %s is not in %v", e.StreamID, segments)
				}
			}
		}
		if r.coverage.Position() != 3000 {
			t.Errorf("%v ended at %d", segments, r.coverage.Position())
		}
	}
	for p := int64(1); p <= 3000; p++ {
		if given[p] != 1 {
			t.Fatalf("position %d was given %d times", p, given[p])
		}
	}
}

func TestEveryTransactionThatEndsAfterLatestWasAskedIsGiven(t *testing.T) {
	db := database(t)
	const insert = `INSERT INTO sluice.event (stream_id, version, type, data) VALUES ($1, 1, 'T', '{}')`
	exec(t, db, insert, "before")
	open, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Exec(t.Context(), insert, "open"); err != nil {
		t.Fatal(err)
	}
	exec(t, db, insert, "behind the open one")
	r := newReader(t, postgres.NewSource(db, schema), progress.StartPosition{Type: progress.Latest})
	exec(t, db, insert, "after")
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range r.next(10).Events {
		got = append(got, e.StreamID)
	}
	if d := cmp.Diff([]string{"open", "after"}, got); d != "" {
		t.Error(d)
	}
}

// TestHeadIsAsFarAsEvents has a reader that has read everything be at no distance from the head, and
// one that has read nothing.
func TestHeadIsAsFarAsEvents(t *testing.T) {
	for name, make := range map[string]func(testing.TB) *subject{"own table": subjects["own table"], "outbox": subjects["outbox"], "gaps": serialTable} {
		t.Run(name, func(t *testing.T) {
			on := make(t)
			start := newReader(t, on.source, progress.StartPosition{Type: progress.Earliest}, segment.Root).coverage
			for want := range int64(3) {
				head, err := on.source.Head(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if ahead, behind := start.Distance(head), head.Distance(start); head.Position() != want || ahead != want || behind != 0 {
					t.Errorf("after %d events the head is at %d, %d ahead of the start and %d behind it", want, head.Position(), ahead, behind)
				}
				r := newReader(t, on.source, progress.StartPosition{Type: progress.Earliest}, segment.Root)
				r.next(10)
				if ahead, behind := head.Distance(r.coverage), r.coverage.Distance(head); ahead != 0 || behind != 0 {
					t.Errorf("after %d events who has read them is %d ahead of the head and %d behind it", want, ahead, behind)
				}
				if err := on.append(t.Context(), "a", 1); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestPagesSayHowFarApartTheirEventsAre has positions that are ten apart.
func TestPagesSayHowFarApartTheirEventsAre(t *testing.T) {
	for name, make := range map[string]func(testing.TB) *subject{"outbox": subjects["outbox"], "gaps": serialTable} {
		t.Run(name, func(t *testing.T) {
			on := make(t)
			r := newReader(t, on.source, progress.StartPosition{Type: progress.Earliest}, segment.Root)
			for _, want := range []float64{0, 10} {
				if page := r.next(10); page.Spacing != want {
					t.Errorf("%d events are %v apart, want %v", len(page.Events), page.Spacing, want)
				}
				for range 5 {
					exec(t, on.db, "SELECT nextval('outbox_id_seq') FROM generate_series(1, 9)")
					if err := on.append(t.Context(), "a", 1); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

func TestReadRefusesWhatItCannotDo(t *testing.T) {
	source := postgres.NewSource(database(t), schema)
	start, err := source.Parse(progress.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Read(t.Context(), nil, nil, 1); err == nil {
		t.Error("no coverages")
	}
	if _, err := source.Read(t.Context(), []eventsource.Coverage{start}, nil, 0); err == nil {
		t.Error("limit 0")
	}
	if _, err := source.Read(t.Context(), []eventsource.Coverage{foreign{}}, nil, 1); err == nil {
		t.Error("a coverage of another source")
	}
	if _, err := source.Start(t.Context(), progress.StartPosition{Type: "Newest"}); err == nil {
		t.Error("an unknown initial position")
	}
	ahead, err := source.Parse(progress.Progress{Position: 10, State: "900000000:900000000:"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Read(t.Context(), []eventsource.Coverage{ahead}, nil, 1); !errors.Is(err, postgres.ErrStoreChanged) {
		t.Errorf("progress from a server that was ahead: %v", err)
	}
}

type foreign struct{}

func (foreign) Covers(*eventsource.Event) bool      { return false }
func (foreign) Position() int64                     { return 0 }
func (foreign) Distance(eventsource.Coverage) int64 { return 0 }
func (foreign) Progress() progress.Progress         { return progress.Progress{} }
