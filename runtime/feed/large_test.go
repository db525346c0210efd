package feed_test

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const (
	events    = 1500
	eventSize = 64 << 10
	memory    = 16 << 20
)

// TestCatchingUpOnLargeEventsTakesLittleMemory has sixteen segments of two groups catch up on large events, of which one
// group takes nothing: the other one is given all, and the heap stays near the budget, where all events would be many times that.
func TestCatchingUpOnLargeEventsTakesLittleMemory(t *testing.T) {
	source := largeEvents(t)
	given := make(chan tokenstore.Key, 1000)
	f := feed.New(source.WithPageBytes(feed.PageBytes(memory)), feed.Options{Memory: memory}, slog.New(slog.DiscardHandler),
		func(key tokenstore.Key) { given <- key }, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	layout, err := segment.Layout(8)
	if err != nil {
		t.Fatal(err)
	}
	members := map[tokenstore.Key]*feed.Member{}
	for _, group := range []string{"quick", "stuck"} {
		for _, s := range layout {
			token := tokenstore.Token{Key: tokenstore.Key{Group: group, Segment: s.ID}, Mask: s.Mask, Parts: []progress.Part{{Segment: s}}}
			if members[token.Key], err = f.Add(token, segment.PerStream); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := heap()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	defer running.Wait()
	defer stop()
	var most int64
	deadline := time.After(2 * time.Minute)
	for handled := 0; handled < events; {
		select {
		case key := <-given:
			if key.Group == "stuck" {
				continue
			}
			handled += take(members[key])
			most = max(most, heap()-before)
		case <-deadline:
			t.Fatalf("%d of %d events were handled", handled, events)
		}
	}
	t.Logf("of %d MB, with a budget of %d MB, at most %d MB were on the heap", events*eventSize>>20, memory>>20, most>>20)
	if limit := int64(memory + memory/4); most > limit {
		t.Errorf("%d MB were on the heap, want at most %d", most>>20, limit>>20)
	}
}

// take takes all that a member has been given.
func take(m *feed.Member) (events int) {
	deliveries := m.Peek()
	for _, d := range deliveries {
		events += len(d.Events)
	}
	m.Take(len(deliveries), 0)
	return events
}

// heap is what is reachable.
func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func largeEvents(t *testing.T) *eventspostgres.Source {
	t.Helper()
	url := postgrestest.New(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := postgres.Migrate(t.Context(), conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO sluice.event (stream_id, version, type, data)
		SELECT 's' || n, 1, 'Large', to_jsonb(repeat('x', $1)) FROM generate_series(1, $2::int) n`, eventSize, events); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	source := eventspostgres.NewSource(pool, postgres.DefaultSchema)
	if err := source.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return source
}
