package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

// kind is one way to go through the events.
type kind struct {
	name      string
	share     int64 // 1/share of the events is handled, the last ones
	unordered bool  // it promises no order
	prepare   func(context.Context, *run) error
	do        func(context.Context, *run) error
}

var kinds = []kind{
	{name: "watermill-sql, defaults", share: 1, prepare: watermillDefaults.prepare, do: watermillDefaults.run},
	{name: "watermill-sql, best: pages of 10,000", share: 1, prepare: watermillPages.prepare, do: watermillPages.run},
	{name: "watermill-sql, best: pages of 10,000, 4 topics", share: 1, prepare: watermillTopics.prepare, do: watermillTopics.run},
	{name: "River, defaults", share: 5, unordered: true, prepare: riverDefaults.prepare, do: riverDefaults.run},
	{name: "River, best: 1,000 workers, 32 connections", share: 5, unordered: true, prepare: riverBest.prepare, do: riverBest.run},
	{name: "Sluice: a statement and its answer an event", share: 1, prepare: nothing, do: sluiceEach},
	{name: "Sluice: a queued statement an event", share: 1, prepare: nothing, do: sluiceQueued},
}

// run is one run of a kind.
type run struct {
	kind
	*ledger.Ledger
	server *lab.Server
	table  string // the projection's; also the name of what reads

	// What came out.
	took time.Duration
	cost lab.Cost
	late int64 // streams whose events came out of order
}

// handled is how many events a run goes through.
func (r *run) handled() int64 { return r.Events / r.share }

func nothing(context.Context, *run) error { return nil }

// once prepares a run, makes it, checks the projection and takes it away again.
func (r *run) once(ctx context.Context) error {
	if _, err := r.DB.Exec(ctx, fmt.Sprintf(ledger.Projection, r.table)); err != nil {
		return err
	}
	if err := r.prepare(ctx, r); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	if _, err := r.DB.Exec(ctx, "CHECKPOINT"); err != nil { // not in the middle of the run
		return err
	}
	if err := r.do(ctx, r); err != nil {
		return err
	}
	late, err := r.VerifySums(ctx, r.table, r.Events-r.handled())
	if err == nil && late > 0 && !r.unordered {
		err = fmt.Errorf("of %d streams events came out of order", late)
	}
	r.late = late
	_, dropped := r.DB.Exec(ctx, "DROP TABLE "+r.table)
	return errors.Join(err, dropped)
}

// time measures work.
func (r *run) time(work func() error) error {
	meter, err := r.server.Measure()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := work(); err != nil {
		return err
	}
	r.took = time.Since(began)
	r.cost, err = meter.Stop()
	return err
}

// rate is how many events were handled a second.
func (r *run) rate() float64 { return float64(r.handled()) / r.took.Seconds() }

// perCPU is how many were handled for a second of CPU time, the server's and this process's.
func (r *run) perCPU() float64 {
	return float64(r.handled()) / (r.cost.Client + r.cost.Server).Seconds()
}

func (r *run) String() string {
	perMillion := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(r.handled()) }
	text := fmt.Sprintf("%-48s %7d events  %8.0f events/s  CPU s/M: client %6.1f server %6.1f  peak %3d MB", r.name, r.handled(), r.rate(),
		perMillion(r.cost.Client), perMillion(r.cost.Server), r.cost.PeakRSS>>20)
	if r.unordered {
		text += fmt.Sprintf("  %d streams out of order", r.late)
	}
	return text
}

// amount decodes what handlers need of an event's data, as a user's handler would.
func amount(data []byte) (int64, error) {
	var booked struct {
		Amount int64 `json:"amount"`
	}
	err := json.Unmarshal(data, &booked)
	return booked.Amount, err
}
