package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// Streams is how many there are.
const Streams = 10_000

// chunk is how many events one transaction appends.
const chunk = 10_000

// Distribution says how events are spread over the streams: an expression that gives a stream's number, from 1. The table shares
// holds an array with the share of the streams up to each one.
type Distribution struct{ Name, stream string }

var (
	// Uniform spreads them evenly.
	Uniform = Distribution{"uniform", fmt.Sprintf("1 + floor(random() * %d)::integer", Streams)}
	// Zipf spreads them by Zipf's law with s = 1: the first stream has about a tenth of all events.
	Zipf = Distribution{"zipf", "1 + width_bucket(random(), (SELECT upto FROM shares))"}
)

// Ledger is a database with events in it.
type Ledger struct {
	Distribution
	URL    string
	DB     *pgxpool.Pool
	Events int64 // their positions are 1 to Events
}

// Generate makes a database, of the distribution's name, and events in it: 250 bytes of data each, in order, versions right, one
// transaction a chunk.
func Generate(ctx context.Context, server *lab.Server, d Distribution, events int64) (*Ledger, error) {
	url, pool, err := server.NewDatabase(ctx, d.Name)
	if err != nil {
		return nil, err
	}
	l := &Ledger{Distribution: d, URL: url, DB: pool, Events: events}
	return l, l.Fill(ctx)
}

// Fill makes the events, in a database that has Sluice's tables and none of them.
func (l *Ledger) Fill(ctx context.Context) error {
	err := l.DB.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return l.fill(ctx, conn.Conn()) })
	if err != nil {
		return fmt.Errorf("making %d events, %s: %w", l.Events, l.Name, err)
	}
	return nil
}

// drawn are the events' streams and amounts, in the order in which they are to be appended; repeatable, by the seed.
const drawn = `CREATE UNLOGGED TABLE drawn AS
	SELECT i, stream_id, row_number() OVER (PARTITION BY stream_id ORDER BY i) AS version, 1 + i * 7919 %% 1000 AS amount
	  FROM (SELECT i, 'account-' || %s AS stream_id FROM generate_series(1, %d::bigint) AS i OFFSET 0) AS d`

// shares are those of Zipf's law with s = 1: the k-th stream gets 1/k of what the first one gets. None is above the last one.
const shares = `CREATE TEMPORARY TABLE shares AS SELECT array_agg(upto / total ORDER BY k) AS upto FROM (
	SELECT k, sum(1.0::float8 / k) OVER (ORDER BY k) AS upto, sum(1.0::float8 / k) OVER () AS total FROM generate_series(1, %d) AS k) AS s WHERE upto < total`

const insert = `INSERT INTO sluice.event (stream_id, version, type, data)
	SELECT stream_id, version, 'Booked', data || jsonb_build_object('note', left(repeat(md5(i::text), 8), 250 - length(data::text)))
	  FROM (SELECT i, stream_id, version, jsonb_build_object('account', stream_id, 'amount', amount, 'note', '') AS data FROM drawn WHERE i > $1 AND i <= $2 ORDER BY i) AS d
	 ORDER BY i`

func (l *Ledger) fill(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, `SELECT setseed(0.5)`); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf(shares, Streams)); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf(drawn, l.stream, l.Events)); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE INDEX ON drawn (i)"); err != nil {
		return err
	}
	for from := int64(0); from < l.Events; from += chunk {
		if _, err := conn.Exec(ctx, insert, from, from+chunk); err != nil {
			return err
		}
	}
	for _, sql := range []string{"DROP TABLE drawn", "VACUUM (ANALYZE) sluice.event", "CHECKPOINT"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return l.checkEvents(ctx, conn)
}

// checkEvents fails where the events are not what they are to be.
func (l *Ledger) checkEvents(ctx context.Context, conn *pgx.Conn) error {
	var count, last, length int64
	err := conn.QueryRow(ctx, `SELECT count(*), max(position), avg(length(data::text))::bigint FROM sluice.event`).Scan(&count, &last, &length)
	if err != nil {
		return err
	}
	if count != l.Events || last != l.Events || length != 250 {
		return fmt.Errorf("there are %d events up to position %d with %d bytes of data on average, want %d with 250", count, last, length, l.Events)
	}
	return nil
}
