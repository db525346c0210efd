package faults

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// TestAResetRunsOnceWhateverBecomesOfItsWorker kills or freezes the worker that resets: in the middle of the reset handler, when it
// has written already, or right after the commit. It has no segments of other groups, for which its connections would be ended.
func TestAResetRunsOnceWhateverBecomesOfItsWorker(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		signal syscall.Signal
		inside bool
	}{
		"killed in the handler":   {syscall.SIGKILL, true},
		"frozen in the handler":   {syscall.SIGSTOP, true},
		"killed after the commit": {syscall.SIGKILL, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			view, _, _ := strings.Cut(version(1, 4), "\n  - name: answer")
			w := newWorld(t, strings.Replace(view, "TRUNCATE stream_view", "TRUNCATE stream_view; SELECT linger()", 1))
			w.exec(`CREATE TABLE lingering (application text)`)
			w.exec(`CREATE FUNCTION linger() RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep(600) FROM lingering WHERE application = current_setting('application_name') $$`)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			writers := w.writers(ctx, 2)
			pods := []*pod{w.start(), w.start(), w.start()}
			w.until("events to be handled", `SELECT sum(events) > 50 FROM stream_view`)
			first := w.application(pods[0]) // the one that carries replays out
			if test.inside {
				w.exec(`INSERT INTO lingering VALUES ($1)`, first)
			}
			w.requestReplay("fix")
			if test.inside {
				w.until("the reset to be in its handler", `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'PgSleep')`, first)
			} else {
				w.until("the reset to have committed", `SELECT reset_at IS NOT NULL FROM sluice.replay`)
			}
			pods[0].signal(test.signal)
			w.until("the replay to be complete", `SELECT phase = 'Complete' FROM sluice.replay`)
			pods[0].cmd.Process.Signal(syscall.SIGCONT) // it may have ended
			cancel()
			writers.Wait()
			if events := w.check(); events < 50 {
				t.Fatalf("vacuous: %d events", events)
			}
			if test.signal == syscall.SIGSTOP {
				pods[0].drain()
			}
			w.until("one reset", `SELECT count(*) = 1 FROM resets`)
			for _, p := range pods[1:] {
				p.drain()
			}
		})
	}
}

// requestReplay asks for one of the view, from the earliest event, by the definition that there is.
func (w *world) requestReplay(id string) {
	w.t.Helper()
	err := postgres.NewStore(w.pool, postgres.DefaultSchema).RequestReplays(context.Background(), processor, []tokenstore.ReplayRequest{{ID: id, Groups: []string{"view"},
		From: progress.StartPosition{Type: progress.Earliest}, Definition: w.spec.Definition().ID(), State: tokenstore.ReplayWanted}})
	if err != nil {
		w.t.Fatal(err)
	}
}
