package eventfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

// Follower appends the events of a file as it grows, each once: how far it has come is stored in the transaction that
// appends, in the table sluice_dev.fed of the same database, and outlives the process.
type Follower struct {
	Pool *pgxpool.Pool
	Log  *postgres.Log
	// File to follow. It is opened at each look, so that editors may replace it.
	File string
	// Fed is told how many events were appended.
	Fed func(events int)
	// Failed is told what is wrong, once. The follower waits at a line that is no event until it has been corrected.
	Failed func(error)
}

// Limits of one look.
const (
	lookEvery = 200 * time.Millisecond
	mostBytes = 4 << 20
	mostLines = 500
)

// place is where in a file the next line begins.
type place struct {
	bytes int64
	lines int
}

// Run follows the file until the context ends.
func (f *Follower) Run(ctx context.Context) {
	told, rest := "", int64(-1)
	for ctx.Err() == nil {
		again, size, err := f.look(ctx, rest)
		rest = size
		if err != nil && ctx.Err() == nil && err.Error() != told {
			f.Failed(fmt.Errorf("%s: %w", f.File, err))
		}
		told = ""
		if err != nil {
			told = err.Error()
		}
		if !again {
			sleep(ctx, lookEvery)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// look appends what is new and reports whether there may be more at once, and the file's size. A last line without its end
// counts when the file had the same size at the look before.
func (f *Follower) look(ctx context.Context, sizeBefore int64) (again bool, size int64, err error) {
	file, err := os.Open(f.File)
	if err != nil {
		return false, -1, fmt.Errorf("opening the events: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return false, -1, fmt.Errorf("looking at the events: %w", err)
	}
	var events int
	err = pgx.BeginFunc(ctx, f.Pool, func(tx pgx.Tx) error {
		from, err := f.fed(ctx, tx)
		if err != nil {
			return err
		}
		if info.Size() < from.bytes { // made anew
			from = place{}
		}
		text, err := io.ReadAll(io.NewSectionReader(file, from.bytes, mostBytes))
		if err != nil {
			return fmt.Errorf("reading the events: %w", err)
		}
		atEnd := from.bytes+int64(len(text)) >= info.Size()
		got, to, wrong := parse(text, from, atEnd && info.Size() == sizeBefore)
		if to == from {
			return wrong
		}
		if _, err := Append(ctx, f.Log, tx, got); err != nil {
			return err
		}
		events, again = len(got), true
		return f.store(ctx, tx, to)
	})
	if err == nil && events > 0 {
		f.Log.Notify()
		f.Fed(events)
	}
	return again && err == nil, info.Size(), err
}

// parse reads lines until one is wrong or not whole. The error is returned only where no line came before it: the next
// look meets it again.
func parse(text []byte, from place, whole bool) (events []Event, to place, wrong error) {
	to = from
	for line := range bytes.Lines(text) {
		if !whole && !bytes.HasSuffix(line, []byte("\n")) {
			if len(line) == mostBytes {
				return nil, to, &LineError{to.lines + 1, "it is longer than 4 MiB"}
			}
			return events, to, nil
		}
		event, blank, err := parseLine(to.lines+1, line)
		if err != nil {
			return events, to, err
		}
		if !blank {
			events = append(events, event)
		}
		to.bytes += int64(len(line))
		if bytes.HasSuffix(line, []byte("\n")) {
			to.lines++
		}
		if len(events) == mostLines {
			break
		}
	}
	return events, to, nil
}

// Prepare makes the table that stores how far files have been fed.
func Prepare(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS sluice_dev;
		CREATE TABLE IF NOT EXISTS sluice_dev.fed (file text PRIMARY KEY, bytes bigint NOT NULL, lines integer NOT NULL)`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("making the table that stores how far files have been fed: %w", err)
	}
	return nil
}

func (f *Follower) fed(ctx context.Context, tx pgx.Tx) (p place, err error) {
	name, err := filepath.Abs(f.File)
	if err != nil {
		return p, err
	}
	err = tx.QueryRow(ctx, "SELECT bytes, lines FROM sluice_dev.fed WHERE file = $1", name).Scan(&p.bytes, &p.lines)
	if errors.Is(err, pgx.ErrNoRows) {
		return place{}, nil
	}
	if err != nil {
		return p, fmt.Errorf("reading how far the file has been fed: %w", err)
	}
	return p, nil
}

func (f *Follower) store(ctx context.Context, tx pgx.Tx, p place) error {
	name, err := filepath.Abs(f.File)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO sluice_dev.fed VALUES ($1, $2, $3) ON CONFLICT (file) DO UPDATE SET bytes = excluded.bytes, lines = excluded.lines`, name, p.bytes, p.lines)
	if err != nil {
		return fmt.Errorf("storing how far the file has been fed: %w", err)
	}
	return nil
}
