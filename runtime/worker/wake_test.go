package worker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-project/sluice/internal/pgproxy"
)

// TestWhoeverNotifiesWakesTheWorkerUp notifies as a writer does that is not ours: each time the worker looks for events at once, not
// when the next look is due.
func TestWhoeverNotifiesWakesTheWorkerUp(t *testing.T) {
	t.Parallel()
	w, proxy := newWorldBehindProxy(t, fmt.Sprintf(viewOf, 4))
	w.start("a")
	w.until("the worker to be ready and to have stood idle", `SELECT EXISTS (SELECT FROM sluice.worker WHERE (report -> 'ready')::bool AND (report -> 'idle')::bool)`)
	w.atRest()
	const times = 40
	began := time.Now()
	for range times {
		look := proxy.Set(pgproxy.Rule{When: func(m pgproxy.Message) bool { return m.Runs() && m.Ran(poll) }})
		if _, err := w.pool.Exec(t.Context(), "NOTIFY sluice_events"); err != nil {
			t.Fatal(err)
		}
		look.WaitFired()
	}
	// By itself it looks four times a second.
	if took := time.Since(began); took > times*lookEvery/2 {
		t.Errorf("%d looks after as many notifications took %s", times, took)
	}
}
