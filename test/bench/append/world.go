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
	server *lab.Server
	db     *pgxpool.Pool
	log    *eventspostgres.Log
	slices int
}

func newWorld(ctx context.Context, server *lab.Server) (*world, error) {
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
	return &world{server: server, db: db, log: eventspostgres.NewLog(db, lab.Schema)}, err
}

// appending appends events to a stream, the first of which gets a version.
type appending func(ctx context.Context, w *world, stream string, version int64) error

func insertInto(table string) appending {
	sql := "INSERT INTO " + table + " (stream_id, version, type, data) VALUES ($1, $2, $3, $4)"
	return func(ctx context.Context, w *world, stream string, version int64) error {
		_, err := w.db.Exec(ctx, sql, stream, version, "Booked", data)
		return err
	}
}

// insertSeveral inserts rows by one statement, whose text has as many.
func insertSeveral(n int) appending {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("($1, $2 + %d, $3, $%d)", i, i+4)
	}
	sql := "INSERT INTO sluice.event (stream_id, version, type, data) VALUES " + strings.Join(rows, ", ")
	return func(ctx context.Context, w *world, stream string, version int64) error {
		args := []any{stream, version, "Booked"}
		for range n {
			args = append(args, data)
		}
		_, err := w.db.Exec(ctx, sql, args...)
		return err
	}
}

// viaGo appends through the Go API.
func viaGo(n int, checked bool) appending {
	return func(ctx context.Context, w *world, stream string, version int64) error {
		expected := eventspostgres.Any
		if checked {
			expected = eventspostgres.Exactly(version - 1)
		}
		events := make([]eventspostgres.NewEvent, n)
		for i := range events {
			events[i] = eventspostgres.NewEvent{Type: "Booked", Data: data}
		}
		_, err := w.log.Append(ctx, stream, expected, events...)
		return err
	}
}

// viaSQL calls the database's function.
func viaSQL(n int) appending {
	events := "[" + strings.Repeat(`{"type": "Booked", "data": `+string(data)+`}, `, n-1) + `{"type": "Booked", "data": ` + string(data) + `}]`
	return func(ctx context.Context, w *world, stream string, version int64) error {
		_, err := w.db.Exec(ctx, "SELECT sluice.append($1, $2, $3)", stream, version-1, events)
		return err
	}
}

// measure has clients append for a turn, and adds to what a slice's turns before have come to.
func (w *world) measure(ctx context.Context, s *slice) error {
	meter, err := w.server.Measure()
	if err != nil {
		return err
	}
	began := time.Now()
	counts, failed := make([]int64, s.clients), make([]error, s.clients)
	var running sync.WaitGroup
	for client := range s.clients {
		running.Go(func() {
			for time.Since(began) < turn && failed[client] == nil {
				if failed[client] = s.append(ctx, w, client); failed[client] == nil {
					counts[client]++
				}
			}
		})
	}
	running.Wait()
	took := time.Since(began)
	if err := errors.Join(failed...); err != nil {
		return err
	}
	cost, err := meter.Stop()
	if err != nil {
		return err
	}
	s.took += took
	s.cost.Client += cost.Client
	s.cost.Server += cost.Server
	for _, n := range counts {
		s.events += n * s.kind.several()
	}
	return nil
}

// warm has each client append some events that do not count: by then connections are there, and statements prepared and planned on them.
func (w *world) warm(ctx context.Context, s *slice) error {
	w.slices++
	s.prefix, s.done = fmt.Sprintf("slice-%d-", w.slices), make([]int64, s.clients)
	failed := make([]error, s.clients)
	var running sync.WaitGroup
	for client := range s.clients {
		running.Go(func() {
			for n := 0; n < 10 && failed[client] == nil; n++ {
				failed[client] = s.append(ctx, w, client)
			}
		})
	}
	running.Wait()
	return errors.Join(failed...)
}

// append has a client append once, to the next of its streams.
func (s *slice) append(ctx context.Context, w *world, client int) error {
	n := s.done[client]
	s.done[client]++
	return s.kind.do(ctx, w, fmt.Sprintf("%s%d-%d", s.prefix, client, n%streams), n/streams*s.kind.several()+1)
}

// check fails where the events of a slice are not there, or a stream has a gap in its versions.
func (w *world) check(ctx context.Context, s *slice) error {
	var events, wrong, want int64
	for _, n := range s.done {
		want += n * s.kind.several()
	}
	err := w.db.QueryRow(ctx, `SELECT coalesce(sum(n), 0), count(*) FILTER (WHERE n <> last) FROM (
		SELECT count(*) AS n, max(version) AS last FROM `+s.kind.table+` WHERE starts_with(stream_id, $1) GROUP BY stream_id) AS s`, s.prefix).Scan(&events, &wrong)
	if err == nil && (events != want || wrong > 0) {
		err = fmt.Errorf("%d events are there of %d, and %d streams have gaps", events, want, wrong)
	}
	return err
}
