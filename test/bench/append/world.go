package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// bare is the event table without the columns and the index that only readers need. Its keys are what any event table has.
const bare = `CREATE TABLE bare (
	position    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	stream_id   text        NOT NULL,
	version     bigint      NOT NULL,
	id          uuid        NOT NULL DEFAULT gen_random_uuid(),
	type        text        NOT NULL,
	data        jsonb       NOT NULL,
	metadata    jsonb       NOT NULL DEFAULT '{}',
	recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	UNIQUE (stream_id, version),
	CHECK (position > 0), CHECK (version > 0), CHECK (stream_id <> ''), CHECK (type <> '')
)`

// streams is how many each client appends to in turn.
const streams = 100

// data is an event's, of 250 bytes as jsonb writes it.
var data = func() json.RawMessage {
	text := `{"note": "", "amount": 4711, "account": "account-1234"}`
	return json.RawMessage(strings.Replace(text, `""`, `"`+strings.Repeat("x", 250-len(text))+`"`, 1))
}()

// world is a database with the tables.
type world struct {
	duration time.Duration
	server   *lab.Server
	db       *pgxpool.Pool
	log      *eventspostgres.Log
	slices   int
}

func newWorld(ctx context.Context, server *lab.Server, duration time.Duration) (*world, error) {
	url, db, err := server.NewDatabase(ctx, "append")
	if err != nil {
		return nil, err
	}
	db.Close()
	target, err := access.FromURL(url)
	if err != nil {
		return nil, err
	}
	db, err = postgres.Open(postgres.Options{Target: target, Application: "bench", MaxConns: 66}) // for the clients and notifications
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(ctx, bare)
	return &world{duration: duration, server: server, db: db, log: eventspostgres.NewLog(db, lab.Schema)}, err
}

// appending appends an event, the version-th of its stream.
type appending func(ctx context.Context, w *world, stream string, version int64) error

func insertInto(table string) appending {
	sql := "INSERT INTO " + table + " (stream_id, version, type, data) VALUES ($1, $2, $3, $4)"
	return func(ctx context.Context, w *world, stream string, version int64) error {
		_, err := w.db.Exec(ctx, sql, stream, version, "Booked", data)
		return err
	}
}

// viaGo appends through the Go API.
func viaGo(checked bool) appending {
	return func(ctx context.Context, w *world, stream string, version int64) error {
		expected := eventspostgres.Any
		if checked {
			expected = eventspostgres.Exactly(version - 1)
		}
		_, err := w.log.Append(ctx, stream, expected, eventspostgres.NewEvent{Type: "Booked", Data: data})
		return err
	}
}

// viaSQL calls the database's function.
func viaSQL(ctx context.Context, w *world, stream string, version int64) error {
	_, err := w.db.Exec(ctx, "SELECT sluice.append($1, $2, $3)", stream, version-1, `[{"type": "Booked", "data": `+string(data)+`}]`)
	return err
}

// measure has clients append for a while.
func (w *world) measure(ctx context.Context, s *slice) error {
	w.slices++
	prefix := fmt.Sprintf("slice-%d-", w.slices)
	if err := w.warm(ctx, s); err != nil {
		return err
	}
	meter, err := w.server.Measure()
	if err != nil {
		return err
	}
	began := time.Now()
	counts, failed := make([]int64, s.clients), make([]error, s.clients)
	var running sync.WaitGroup
	for client := range s.clients {
		names := make([]string, streams)
		for i := range names {
			names[i] = fmt.Sprintf("%s%d-%d", prefix, client, i)
		}
		running.Go(func() {
			for n := int64(0); time.Since(began) < w.duration; n++ {
				if failed[client] = s.kind.do(ctx, w, names[n%streams], n/streams+1); failed[client] != nil {
					return
				}
				counts[client]++
			}
		})
	}
	running.Wait()
	s.took = time.Since(began)
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if s.cost, err = meter.Stop(); err != nil {
		return err
	}
	for _, n := range counts {
		s.events += n
	}
	if err := w.check(ctx, s, prefix); err != nil {
		return err
	}
	_, err = w.db.Exec(ctx, "CHECKPOINT") // not in the middle of the next slice
	return err
}

// warm has each client append some events that do not count: by then connections are there, and statements prepared and planned on them.
func (w *world) warm(ctx context.Context, s *slice) error {
	failed := make([]error, s.clients)
	var running sync.WaitGroup
	for client := range s.clients {
		running.Go(func() {
			for version := int64(1); version <= 10 && failed[client] == nil; version++ {
				failed[client] = s.kind.do(ctx, w, fmt.Sprintf("warm-%d-%d", w.slices, client), version)
			}
		})
	}
	running.Wait()
	return errors.Join(failed...)
}

// check fails where the events of a slice are not there, or a stream has a gap in its versions.
func (w *world) check(ctx context.Context, s *slice, prefix string) error {
	var events, wrong int64
	err := w.db.QueryRow(ctx, `SELECT coalesce(sum(n), 0), count(*) FILTER (WHERE n <> last) FROM (
		SELECT count(*) AS n, max(version) AS last FROM `+s.kind.table+` WHERE starts_with(stream_id, $1) GROUP BY stream_id) AS s`, prefix).Scan(&events, &wrong)
	if err == nil && (events != s.events || wrong > 0) {
		err = fmt.Errorf("%d events are there of %d, and %d streams have gaps", events, s.events, wrong)
	}
	return err
}
