package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
)

// A batch of a backlog commits without waiting for the disk. Its rows and its token's move are in one transaction of one server, so a crash
// loses both or neither, and with a transaction all that committed after it: then the events come again. Whatever rests on a batch being
// there for good commits behind it and waits for the disk, by which all before it is on disk too: claims, releases, splits, merges, resets, ends
// of replays, and batches without a backlog.
const unsyncedCommit = `set_config('synchronous_commit', 'off', true)`

// A transaction that moves several tokens does not wait long for what holds one of them up: it fails, and its caller tries each alone.
const shortPatience = `set_config('lock_timeout', '100ms', true)`

// opening is what a transaction with users' statements begins with: settings for it alone, before the first of those statements, so
// that what they say themselves counts. Where users' code has the transaction, a mark is among them, which is gone when the transaction has ended: the
// fencing check looks for it.
type opening struct {
	set  []string
	mark string // empty for none
}

// openingOf returns the opening of a transaction with these moves.
func openingOf(advances []tokenstore.Advance) opening {
	var o opening
	if unsynced(advances) {
		o.set = append(o.set, unsyncedCommit)
	}
	if len(advances) > 1 {
		o.set = append(o.set, shortPatience)
	}
	return o
}

// marked adds a mark.
func (o opening) marked() opening {
	o.mark = strconv.FormatUint(rand.Uint64(), 36)
	return o
}

// serverGrace is how much longer than its context a transaction may go on in the server.
const serverGrace = 5 * time.Second

// limited has the server end the transaction some time after its context, also while its client is silent. The time is in whole
// seconds, so that the statement is the same for all batches of a group.
func (o opening) limited(ctx context.Context) opening {
	limit := time.Duration(0) // none
	if deadline, there := ctx.Deadline(); there {
		limit = max(0, time.Until(deadline)).Truncate(time.Second) + time.Second + serverGrace
	}
	for _, setting := range []string{"idle_in_transaction_session_timeout", "statement_timeout"} {
		o.set = append(o.set, fmt.Sprintf("pg_catalog.set_config('%s', '%d', true)", setting, limit.Milliseconds()))
	}
	return o
}

func (o opening) withoutMark() opening {
	o.mark = ""
	return o
}

// queue adds the opening to a batch.
func (o opening) queue(batch *pgx.Batch) {
	switch {
	case o.mark != "":
		batch.Queue("SELECT "+strings.Join(append([]string{"pg_catalog.set_config('sluice.batch', $1, true)"}, o.set...), ", "), o.mark)
	case len(o.set) > 0:
		batch.Queue("SELECT " + strings.Join(o.set, ", "))
	}
}

// text is the opening with the beginning, for one that is sent alone.
func (o opening) text() string {
	set := o.set
	if o.mark != "" {
		set = append([]string{"pg_catalog.set_config('sluice.batch', '" + o.mark + "', true)"}, set...)
	}
	if len(set) == 0 {
		return beginText
	}
	return beginText + "; SELECT " + strings.Join(set, ", ")
}

// unsynced reports whether a transaction with these moves need not wait for the disk.
func unsynced(advances []tokenstore.Advance) bool {
	return len(advances) > 0 && !slices.ContainsFunc(advances, func(a tokenstore.Advance) bool { return !a.Unsynced })
}

const (
	fence = `SELECT {{schema}}.advance($1, $2, $3, $4, $5, $6, $7, $8)`
	// markedFence is the fence where users' code has had the transaction, and may have ended it and begun another.
	markedFence = `SELECT CASE WHEN pg_catalog.current_setting('sluice.batch', true) = $9
		THEN {{schema}}.advance($1, $2, $3, $4, $5, $6, $7, $8) ELSE {{schema}}.foreign_transaction() END`
	// syncAppended has a transaction wait for the disk after all where it has appended events: others may act on those before the server
	// crashes, and the handler would append others in their place. max() over the expression of the index keeps the planner from reading the table.
	syncAppended = `, CASE WHEN (SELECT max(position + 0) FROM {{schema}}.event WHERE txid = pg_current_xact_id_if_assigned()) IS NOT NULL
		AND current_setting('synchronous_commit') = 'off' THEN (SELECT set_config(name, reset_val, true) FROM pg_settings WHERE name = 'synchronous_commit') END`
)

// fenceOf returns the statement that moves the tokens.
func fenceOf(advances []tokenstore.Advance, marked bool) string {
	text := fence
	if marked {
		text = markedFence
	}
	if unsynced(advances) {
		text += syncAppended
	}
	return text
}
