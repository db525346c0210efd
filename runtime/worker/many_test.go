package worker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/internal/pgproxy"
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
