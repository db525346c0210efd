package worker_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/runtime/handler"
)

func TestNoBatchIsLargerThanAllowedNotEvenTheFirstOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 1\n    maxBatchSize: 7"+
		strings.Replace(witnessed, "context jsonb)", "context jsonb, tx xid8 DEFAULT pg_current_xact_id())", 1))
	w.appendTo(10, 6)
	w.start("a")
	w.handled(60)
	w.until("batches of seven at most", `SELECT max(events) = 7 FROM (SELECT count(*) AS events FROM seen GROUP BY tx) AS batches`)
}

// TestABacklogIsHandledInBatchesAsLargeAsAllowed has a quick handler meet 20,000 events: but for the first ones after the claim, and what is
// left at the end, its batches are full, although a page holds far fewer events for each segment.
func TestABacklogIsHandledInBatchesAsLargeAsAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: view\n    segments: 16\n    maxBatchSize: 400\n    handler: {type: Go, go: {handler: view}}\n")
	var mu sync.Mutex
	sizes := map[int]int{}
	w.handlers = map[string]handler.Handler{"view": handler.Set(func(_ context.Context, _ pgx.Tx, events []handler.Event) error {
		mu.Lock()
		defer mu.Unlock()
		sizes[len(events)]++
		return nil
	})}
	w.exec(`INSERT INTO sluice.event (stream_id, version, type, data) SELECT 'stream-' || n, 1, 'Counted', '{}' FROM generate_series(1, 20000) n`)
	w.start("a")
	w.until("all to be handled", `SELECT count(*) = 16 FROM sluice.token WHERE position = 20000`)
	mu.Lock()
	defer mu.Unlock()
	// A segment has about 1,250 events: 50, 100 and 200 come first, and of the 900 that are left two batches are full.
	if sizes[400] < 16 {
		t.Errorf("sizes of batches and how many there were: %v; want at least 16 of 400", sizes)
	}
}

// TestAThousandSegmentsAreClaimedByOneStatement has a worker find a group of a thousand that nobody owns.
func TestAThousandSegmentsAreClaimedByOneStatement(t *testing.T) {
	t.Parallel()
	w, proxy := newWorldBehindProxy(t, fmt.Sprintf(viewOf, 1000))
	claims := proxy.Count(func(m pgproxy.Message) bool { return m.Runs() && strings.Contains(m.SQL, claimTokens) })
	w.start("a")
	w.until("all to be owned", `SELECT count(*) = 1000 AND bool_and(owner <> 0) FROM sluice.token`)
	if n := claims.Total(); n != 1 {
		t.Errorf("%d statements claimed a thousand segments, want one", n)
	}
}
