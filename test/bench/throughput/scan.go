package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/eventsource"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/test/bench/lab"
)

// columns are those that Sluice reads of an event.
const columns = "position, txid, stream_id, version, id, type, data, metadata, recorded_at"

// scanned looks at each column of each row, in the binary format, and returns the last position.
type scanned struct {
	rows, bytes int64
	position    int64
}

func (s *scanned) read(rows pgx.Rows) error {
	defer rows.Close()
	for rows.Next() {
		values := rows.RawValues()
		for _, value := range values {
			s.bytes += int64(len(value))
		}
		s.rows++
		s.position = integer(values[0])
	}
	return rows.Err()
}

// integer reads a bigint in the binary format.
func integer(b []byte) int64 {
	_ = b[7]
	return int64(b[0])<<56 | int64(b[1])<<48 | int64(b[2])<<40 | int64(b[3])<<32 | int64(b[4])<<24 | int64(b[5])<<16 | int64(b[6])<<8 | int64(b[7])
}

// scanPages reads all events page by page, each a statement of its own.
func scanPages(size int) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		return r.scan(ctx, func(conn *pgx.Conn, s *scanned) error {
			for {
				before := s.rows
				rows, err := conn.Query(ctx, "SELECT "+columns+" FROM sluice.event WHERE position > $1 ORDER BY position LIMIT $2", s.position, size)
				if err != nil {
					return err
				}
				if err := s.read(rows); err != nil {
					return err
				}
				if s.rows-before < int64(size) {
					return nil
				}
			}
		})
	}
}

// scanStream reads all events by one statement.
func scanStream(ctx context.Context, r *run) error {
	return r.scan(ctx, func(conn *pgx.Conn, s *scanned) error {
		rows, err := conn.Query(ctx, "SELECT "+columns+" FROM sluice.event WHERE position > $1 ORDER BY position", int64(0))
		if err != nil {
			return err
		}
		return s.read(rows)
	})
}

func (r *run) scan(ctx context.Context, all func(*pgx.Conn, *scanned) error) error {
	return r.DB.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		var s scanned
		err := r.time(func() error { return all(conn.Conn(), &s) })
		if err == nil && (s.rows != r.Events || s.bytes < 250*s.rows) {
			err = fmt.Errorf("%d rows were read of %d", s.rows, r.Events)
		}
		return err
	})
}

// readSource reads all events as the feed does, without a worker.
func readSource(size int) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		source := eventspostgres.NewSource(r.DB, lab.Schema)
		coverage, err := source.Parse(progress.Progress{})
		if err != nil {
			return err
		}
		read := int64(0)
		err = r.time(func() error {
			for {
				page, err := source.Read(ctx, []eventsource.Coverage{coverage}, nil, size)
				if err != nil {
					return err
				}
				read += int64(len(page.Events))
				if !page.More {
					return nil
				}
				coverage = page.After(coverage, nil)
			}
		})
		if err == nil && read != r.Events {
			err = fmt.Errorf("%d events were read of %d", read, r.Events)
		}
		return err
	}
}
