package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// originMark stands before a page's origin in the text that tells of the page. Neither shapes nor
// numbers contain it.
const originMark = "@"

// originOf tells where a statement runs. The statement has its snapshot before: what that sees has
// been inserted into the write-ahead log before this is evaluated. A standby has no such place, and
// is refused for itself.
const originOf = `CASE WHEN NOT pg_is_in_recovery() THEN concat_ws('|', pg_current_wal_insert_lsn() - '0/0', pg_current_wal_flush_lsn() - '0/0', ` + databaseOf + `, ` + serverOf + `) END`

// databaseOf names the database of a statement: its server's data, and its number there.
const databaseOf = `(SELECT system_identifier FROM pg_control_system())::text || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())::text`

// origin is where a page comes from.
type origin struct {
	database string // the server's data and the database's number there
	server   string // changes whenever the server was started
	// written and durable are places in the server's log: what the page shows is in the log before
	// written, and all before durable is on the disk.
	written, durable int64
}

func parseOrigin(text string) (o origin, err error) {
	parts := strings.Split(text, "|")
	if len(parts) != 4 {
		return o, fmt.Errorf("the server returned the origin %q", text)
	}
	o.database, o.server = parts[2], parts[3]
	if o.written, err = strconv.ParseInt(parts[0], 10, 64); err != nil {
		return o, fmt.Errorf("the server returned no place in its log: %w", err)
	}
	if o.durable, err = strconv.ParseInt(parts[1], 10, 64); err != nil {
		return o, fmt.Errorf("the server returned no place in its log: %w", err)
	}
	o.written = endOfRecord(o.written)
	return o, nil
}

// Pages of the write-ahead log, and their headers: the longer one begins a file.
const (
	logPage        = 8192
	shortLogHeader = 24
	longLogHeader  = 40
)

// endOfRecord is the end of the last record before the place where the next one begins. The two
// differ if the next one begins a page of the log, whose header nobody writes before: an idle server
// never syncs that.
func endOfRecord(place int64) int64 {
	if in := place % logPage; in == shortLogHeader || in == longLogHeader {
		return place - in
	}
	return place
}

// Waits between two looks at what is on the disk. A server syncs what nobody waits for every 200 ms
// unless wal_writer_delay says otherwise.
const (
	firstSyncWait = time.Millisecond
	lastSyncWait  = 20 * time.Millisecond
)

// untilDurable waits until all that a page shows is on the disk of its server.
//
// A transaction with synchronous_commit=off is visible before. If the server crashes then, the
// transaction is gone, and its number and positions are given out again. A store in the same
// database forgets with it what was handled; a store elsewhere would not, and skip the new events.
func (s *Source) untilDurable(ctx context.Context, o origin) error {
	for wait := firstSyncWait; o.durable < o.written; wait = min(2*wait, lastSyncWait) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		now, err := s.whereNow(ctx)
		if err != nil {
			return err
		}
		if now.server != o.server || now.database != o.database {
			return ErrServerRestarted
		}
		o.durable = now.durable
	}
	return nil
}

// whereNow asks for the origin of a page that was read now.
func (s *Source) whereNow(ctx context.Context) (origin, error) {
	var text *string
	if err := s.queryRow(ctx, "SELECT "+originOf, nil, &text); err != nil {
		return origin{}, err
	}
	if text == nil {
		return origin{}, ErrStandby
	}
	return parseOrigin(*text)
}
