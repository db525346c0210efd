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

// opening is what a transaction with users' statements begins with: settings for it alone, before
// the first of those statements, so that what they say themselves counts.
type opening struct {
	set  []string
	mark mark
	name string // of the transaction, where it is marked by one
}

// mark is how the fencing check knows the transaction that the batch has begun.
type mark int

const (
	// unmarked is a transaction that nobody but Sluice can end.
	unmarked mark = iota
	// deferrable is one that was begun as DEFERRABLE, which means nothing except to a SERIALIZABLE
	// READ ONLY one, cannot be changed later on, and takes no statement of its own. It is for
	// statements that users' code queues: those are all known before the first is sent.
	deferrable
	// named is one with a random name among its settings. It is for users' code that has the
	// connection.
	named
)

// begin is the text that begins the transaction.
func (o opening) begin() string {
	if o.mark == deferrable {
		return beginDeferrable
	}
	return beginText
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
func (o opening) marked(m mark) opening {
	if o.mark, o.name = m, ""; m == named {
		o.name = strconv.FormatUint(rand.Uint64(), 36)
	}
	return o
}

// serverGrace is how much longer than its context a transaction may go on in the server.
const serverGrace = 5 * time.Second

// limited has the server end the transaction some time after its context, also while its client is
// silent. The time is in whole seconds, so that the statement is the same for all batches of a
// group.
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

// queue adds the opening to a batch.
func (o opening) queue(batch *pgx.Batch) {
	switch {
	case o.mark == named:
		batch.Queue("SELECT "+strings.Join(append([]string{"pg_catalog.set_config('sluice.batch', $1, true)"}, o.set...), ", "), o.name)
	case len(o.set) > 0:
		batch.Queue("SELECT " + strings.Join(o.set, ", "))
	}
}

// text is the opening with the beginning, for one that is sent alone.
func (o opening) text() string {
	set := o.set
	if o.mark == named {
		set = append([]string{"pg_catalog.set_config('sluice.batch', '" + o.name + "', true)"}, set...)
	}
	if len(set) == 0 {
		return o.begin()
	}
	return o.begin() + "; SELECT " + strings.Join(set, ", ")
}

// unsynced reports whether a transaction with these moves need not wait for the disk.
func unsynced(advances []tokenstore.Advance) bool {
	return len(advances) > 0 && !slices.ContainsFunc(advances, func(a tokenstore.Advance) bool { return !a.Unsynced })
}

const (
	fence = `SELECT {{schema}}.advance($1, $2, $3, $4, $5, $6, $7, $8)`
	// markedFence is the fence where users' code has had the transaction, and may have ended it and
	// begun another.
	markedFence = `SELECT CASE WHEN {{known}} THEN {{schema}}.advance($1, $2, $3, $4, $5, $6, $7, $8) ELSE {{schema}}.foreign_transaction() END`
	// syncAppended has a transaction wait for the disk after all where it has appended events:
	// others may act on those before the server crashes, and the handler would append others in
	// their place. max() over the expression of the index keeps the planner from reading the table.
	syncAppended = `, CASE WHEN (SELECT max(position + 0) FROM {{schema}}.event WHERE txid = pg_current_xact_id_if_assigned()) IS NOT NULL
		AND current_setting('synchronous_commit') = 'off' THEN (SELECT set_config(name, reset_val, true) FROM pg_settings WHERE name = 'synchronous_commit') END`
)

// known is the condition of the fence by which it knows a marked transaction.
var known = map[mark]string{
	deferrable: `pg_catalog.current_setting('transaction_deferrable') OPERATOR(pg_catalog.=) 'on'`,
	named:      `pg_catalog.current_setting('sluice.batch', true) OPERATOR(pg_catalog.=) $9`,
}

// fenceOf returns the statement that moves the tokens.
func fenceOf(advances []tokenstore.Advance, m mark) string {
	text := fence
	if m != unmarked {
		text = strings.ReplaceAll(markedFence, "{{known}}", known[m])
	}
	if unsynced(advances) {
		text += syncAppended
	}
	return text
}
