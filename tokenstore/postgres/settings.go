package postgres

import (
	"slices"
	"strings"

	"github.com/sluice-project/sluice/tokenstore"
)

// A batch of a backlog commits without waiting for the disk. Its rows and its token's move are in one transaction of one server, so a crash
// loses both or neither, and with a transaction all that committed after it: then the events come again. Whatever rests on a batch being
// there for good commits behind it and waits for the disk, by which all before it is on disk too: claims, releases, splits, merges, resets, ends
// of replays, and batches without a backlog.
const unsyncedCommit = `set_config('synchronous_commit', 'off', true)`

// A transaction that moves several tokens does not wait long for what holds one of them up: it fails, and its caller tries each alone.
const shortPatience = `set_config('lock_timeout', '100ms', true)`

// settingsOf returns the statement that a transaction with these moves begins with, so that what a handler says itself about it counts;
// empty for none.
func settingsOf(advances []tokenstore.Advance) string {
	var set []string
	if unsynced(advances) {
		set = append(set, unsyncedCommit)
	}
	if len(advances) > 1 {
		set = append(set, shortPatience)
	}
	if len(set) == 0 {
		return ""
	}
	return "SELECT " + strings.Join(set, ", ")
}

// unsynced reports whether a transaction with these moves need not wait for the disk.
func unsynced(advances []tokenstore.Advance) bool {
	return len(advances) > 0 && !slices.ContainsFunc(advances, func(a tokenstore.Advance) bool { return !a.Unsynced })
}

const (
	fence = `SELECT {{schema}}.advance($1, $2, $3, $4, $5, $6, $7, $8)`
	// unsyncedFence has a transaction wait for the disk after all where it has appended events: others may act on those before the server
	// crashes, and the handler would append others in their place. max() over the expression of the index keeps the planner from reading the table.
	unsyncedFence = fence + `, CASE WHEN (SELECT max(position + 0) FROM {{schema}}.event WHERE txid = pg_current_xact_id_if_assigned()) IS NOT NULL
		AND current_setting('synchronous_commit') = 'off' THEN (SELECT set_config(name, reset_val, true) FROM pg_settings WHERE name = 'synchronous_commit') END`
)

// fenceOf returns the statement that moves the tokens.
func fenceOf(advances []tokenstore.Advance) string {
	if unsynced(advances) {
		return unsyncedFence
	}
	return fence
}
