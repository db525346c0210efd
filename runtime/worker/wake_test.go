package worker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sluice-project/sluice/internal/pgproxy"
	"github.com/sluice-project/sluice/runtime/handler"
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

// TestAWorkerNotifiesOfWhatItsHandlerAppends listens while a handler adds an event. The event before
// is inserted by SQL, which notifies nobody.
func TestAWorkerNotifiesOfWhatItsHandlerAppends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
  - name: view
    segments: 1
    handler: {type: Go}`)
	w.handlers = map[string]handler.Handler{"view": handler.Each(func(ctx context.Context, tx pgx.Tx, e handler.Event) error {
		if e.StreamID != "adds" {
			return nil
		}
		_, err := tx.Exec(ctx, `INSERT INTO sluice.event (stream_id, version, type, data) VALUES ('added', $1, 'Added', '{}')`, e.Version)
		return err
	}, "Counted")}
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "LISTEN sluice_events"); err != nil {
		t.Fatal(err)
	}
	w.start("a")
	w.exec(`INSERT INTO sluice.event (stream_id, version, type, data) VALUES ('adds', 1, 'Counted', '{}')`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := conn.WaitForNotification(ctx); err != nil {
		t.Errorf("the worker has not notified of an event that its handler has added: %v", err)
	}
}
