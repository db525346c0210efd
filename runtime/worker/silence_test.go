package worker_test

import (
	"fmt"
	"testing"

	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/tokenstore"
)

// TestAConnectionThatFallsSilentCostsNoSegment keeps a heartbeat on its way for as long as the test lasts. The worker gives that
// connection up, and renews its lease on another one before anybody could take its segments.
func TestAConnectionThatFallsSilentCostsNoSegment(t *testing.T) {
	t.Parallel()
	w, proxy := newWorldBehindProxy(t, fmt.Sprintf(viewOf, 4))
	w.appendSome()
	w.start("a")
	w.caughtUp()
	w.start("b")
	w.until("both to have a share", `SELECT count(DISTINCT owner) = 2 FROM sluice.token WHERE owner <> 0`)
	w.atRest()
	before := w.epochs()
	silent := proxy.Set(pgproxy.Rule{When: isBeat, Hold: true, Do: pgproxy.CutBefore})
	defer silent.Release()
	began := silent.WaitFired()
	// The other worker beats once a second, this one again after a while.
	for beats := 1; ; beats++ {
		at := proxy.Set(pgproxy.Rule{When: isBeat}).WaitFired()
		if at.Sub(began) > tokenstore.Lease {
			break
		}
		if beats > 20 {
			t.Fatalf("more than %d heartbeats in %s", beats, at.Sub(began))
		}
	}
	w.appendSome()
	w.caughtUp()
	w.atRest()
	if after := w.epochs(); after != before {
		t.Errorf("segments were claimed while a heartbeat was on its way: the sum of epochs was %d, and is %d", before, after)
	}
}
