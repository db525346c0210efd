package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-project/sluice/eventsource"
)

// originMark stands before a page's origin in the text that tells of the page. Neither shapes nor
// numbers contain it.
const originMark = "@"

// originOf tells where a statement runs. The statement has its snapshot before: what that sees has
// been inserted into the write-ahead log before this is evaluated. A standby has no such place, and
// is refused for itself.
const originOf = `CASE WHEN NOT pg_is_in_recovery() THEN concat_ws('|', pg_current_wal_insert_lsn() - '0/0', pg_current_wal_flush_lsn() - '0/0',
  current_setting('wal_block_size'), pg_size_bytes(current_setting('wal_segment_size')), ` + databaseOf + `, ` + serverOf + `) END`

// databaseOf names the database of a statement: its server's data, and its number there.
const databaseOf = `(SELECT system_identifier FROM pg_control_system())::text || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())::text`

// origin is where a page comes from.
type origin struct {
	database string // the server's data and the database's number there
	server   string // changes whenever the server was started
	// written and durable are places in the server's log: what the page shows is in the log before
	// written, and all before durable is on the disk.
	written, durable int64
	// newest is the newest event that the page's snapshot sees, of whatever segment.
	newest witness
}

func parseOrigin(text string) (o origin, err error) {
	parts := strings.Split(text, "|")
	if len(parts) != 6 {
		return o, fmt.Errorf("the server returned the origin %q", text)
	}
	o.database, o.server = parts[4], parts[5]
	var numbers [4]int64
	for i := range numbers {
		if numbers[i], err = strconv.ParseInt(parts[i], 10, 64); err != nil {
			return o, fmt.Errorf("the server returned no place in its log: %w", err)
		}
	}
	o.written, o.durable = endOfRecord(numbers[0], numbers[2], numbers[3]), numbers[1]
	return o, nil
}

// parseOriginAndNewest reads what a page tells.
func parseOriginAndNewest(text string) (o origin, err error) {
	text, newest, _ := strings.Cut(text, originMark)
	if o, err = parseOrigin(text); err != nil || newest == "" {
		return o, err
	}
	o.newest, err = parseWitness(newest)
	return o, err
}

// Headers of the pages of the write-ahead log: the longer one begins a file.
const (
	shortLogHeader = 24
	longLogHeader  = 40
)

// endOfRecord is the end of the last record before the place where the next one begins. The two
// differ if the next one begins a page of the log, whose header nobody writes before: an idle server
// never syncs that.
func endOfRecord(place, page, file int64) int64 {
	switch {
	case place%file == longLogHeader:
		return place - longLogHeader
	case place%page == shortLogHeader && place%file != shortLogHeader:
		return place - shortLogHeader
	}
	return place
}

// Waits between two looks at what is on the disk. A server syncs what nobody waits for every 200 ms
// unless wal_writer_delay says otherwise.
const (
	firstSyncWait = time.Millisecond
	lastSyncWait  = 20 * time.Millisecond
	// syncAfter is how long it is waited before the server is made to sync, and between two times.
	syncAfter = 50 * time.Millisecond
)

// syncStatement makes the server sync its log soon. What an open transaction has written would
// otherwise be synced when its page of the log is full, or after 15 s. It takes no transaction id.
const syncStatement = "SELECT pg_logical_emit_message(false, 'sluice', '')"

// untilDurable waits until all that a page shows is on the disk of its server.
//
// A transaction with synchronous_commit=off is visible before. If the server crashes then, the
// transaction is gone, and its number and positions are given out again. A store in the same
// database forgets with it what was handled; a store elsewhere would not, and skip the new events.
func (s *Source) untilDurable(ctx context.Context, o origin) error {
	began := time.Now()
	for wait := firstSyncWait; o.durable < o.written; wait = min(2*wait, lastSyncWait) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if time.Since(began) > syncAfter {
			began = time.Now()
			// Without the right to do so the server takes its time.
			if _, err := s.db.Exec(ctx, syncStatement); err != nil && errors.Is(lost(err), eventsource.ErrStale) {
				return lost(err)
			}
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
