package worker_test

import "testing"

const (
	allFree  = `SELECT bool_and(owner = 0) FROM sluice.token`
	allOwned = `SELECT bool_and(owner <> 0) FROM sluice.token`
)

func TestNobodyRunsWithALayoutThatDoesNotCoverTheHashSpaceOnce(t *testing.T) {
	for name, change := range map[string]struct{ breaks, repairs string }{
		"a part is covered twice": {
			`INSERT INTO sluice.token SELECT tenant, group_name, 4, 7, position, snapshot, generation, epoch + 1, version + 100, 0 FROM sluice.token WHERE segment = 0`,
			`DELETE FROM sluice.token WHERE segment = 4`,
		},
		"a part is not covered": {
			`WITH gone AS (DELETE FROM sluice.token WHERE segment = 2 RETURNING *) INSERT INTO saved SELECT * FROM gone`,
			`INSERT INTO sluice.token SELECT tenant, group_name, segment, mask, position, snapshot, generation, epoch + 1, version + 1, 0 FROM saved`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "\n  - name: view\n    segments: 4"+view)
			w.exec(`CREATE TABLE saved (LIKE sluice.token)`)
			w.start("a")
			w.start("b")
			w.appendTo(50, 1)
			w.handled(50)
			w.until("all segments owned", allOwned)

			w.exec(change.breaks)
			w.until("no segment to be owned", allFree)
			w.appendTo(50, 1)
			w.start("c") // it must not claim what others have given up
			w.until("it to be alive", `SELECT count(*) = 3 FROM sluice.worker WHERE state = 'Active' AND report ? 'groups'`)
			w.until("still none", allFree)
			w.until("no event to be handled by a broken layout", `SELECT sum(events) = 50 FROM stream_view`)

			w.exec(change.repairs)
			w.handled(100)
			if n := w.folded(); n != 100 {
				t.Errorf("%d events in the view", n)
			}
		})
	}
}
