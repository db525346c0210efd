package worker_test

import (
	"context"
	"os"
	"testing"

	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// laterSettings has the store hold live settings as an operator of a later version writes them.
func (w *world) laterSettings() {
	w.t.Helper()
	live, err := os.ReadFile("testdata/later-settings.json")
	if err != nil {
		w.t.Fatal(err)
	}
	directory := postgres.NewDirectory(w.pool, postgres.DefaultSchema)
	view, err := directory.View(context.Background(), processor)
	if err != nil {
		w.t.Fatal(err)
	}
	view.Processor.Live = live
	if err := directory.DeclareProcessor(context.Background(), view.Processor); err != nil {
		w.t.Fatal(err)
	}
}

func TestAWorkerGoesOnUnderSettingsOfALaterVersion(t *testing.T) {
	w := newWorld(t, "\n  - name: view\n    segments: 8"+view)
	const owners = `SELECT count(*) = 8 AND bool_and(owner <> 0) AND count(DISTINCT owner) = $1 FROM sluice.token`
	reports := `SELECT count(*) > 0 AND bool_and(report -> 'unsupported' @> '["groups[view].onError.then: Unsupported value: \"DeadLetter\": supported values: \"Block\""]')
		FROM sluice.worker WHERE state = 'Active'`
	drainA := w.start("a")
	w.until("one owner", owners, 1)
	w.appendTo(10, 5)
	w.handled(50)

	w.laterSettings()
	w.until("a report of what is not supported", reports)
	drainB := w.start("b") // a claims and releases under the new settings, b knows no others
	w.until("two owners", owners, 2)
	w.appendTo(10, 5)
	w.handled(100)

	drainA()
	w.until("b has taken over", owners, 1)
	w.appendTo(10, 5)
	w.handled(150)
	drainB()
	w.start("c")
	w.appendTo(10, 5)
	w.handled(200)
	w.until("a report of the one that began under the settings", reports)
	if n := w.folded(); n != 200 {
		t.Fatalf("%d events in the view", n)
	}
}
