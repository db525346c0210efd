package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

// kind is one way to go through the events.
type kind struct {
	name          string
	class         class
	writesNothing bool
	do            func(context.Context, *run) error

	// What is asked of it; 0 where nothing is.
	perSecond float64 // events
	ofScan    float64 // times the fastest scan
	ofLoop    float64 // times the fastest single-threaded loop
}

// class says what a kind is compared as.
type class int

const (
	ours     class = iota
	scan           // L1
	loop           // L2
	fourfold       // L2 with four workers
)

var kinds = []kind{
	{name: "scan, pages of 2,000", class: scan, writesNothing: true, do: scanPages(2_000)},
	{name: "scan, pages of 10,000", class: scan, writesNothing: true, do: scanPages(10_000)},
	{name: "scan, one statement", class: scan, writesNothing: true, do: scanStream},
	{name: "loop in Go", class: loop, do: loopInGo(1)},
	{name: "loop in the database", class: loop, do: loopInDatabase(1)},
	{name: "loop in Go, 4 workers", class: fourfold, do: loopInGo(4)},
	{name: "loop in the database, 4 workers", class: fourfold, do: loopInDatabase(4)},
	{name: "Sluice: reading alone, pages of 5,000", writesNothing: true, do: readSource(5_000)},
	{name: "Sluice: Go, nothing", writesNothing: true, do: viaGo(nothing, 1), ofScan: 0.8},
	{name: "Sluice: Go, a statement and its answer an event", do: viaGo(statements, 10)},
	{name: "Sluice: Go, a queued statement an event", do: viaGo(queued, 2), perSecond: 60_000},
	{name: "Sluice: Go, a set", do: viaGo(ledger.Folded, 1), perSecond: 200_000, ofLoop: 0.9},
	{name: "Sluice: SQL each", do: viaSQL(sqlEach, 5)},
	{name: "Sluice: SQL batch", do: viaSQL(sqlBatch, 1), perSecond: 200_000, ofLoop: 0.9},
}

// run is one run of a kind.
type run struct {
	kind
	*ledger.Ledger
	server   *lab.Server
	table    string // the projection's; also the name of processor and group
	segments int
	batch    int

	// What came out.
	handled int64
	took    time.Duration
	cost    lab.Cost
}

// rate is how many events were handled a second.
func (r *run) rate() float64 { return float64(r.handled) / r.took.Seconds() }

func (r *run) String() string {
	perMillion := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(r.handled) }
	return fmt.Sprintf("%-8s %-48s %9.0f events/s  CPU s/M: client %5.2f server %5.2f  peak %3d MB", r.Ledger.Name, r.kind.name, r.rate(),
		perMillion(r.cost.Client), perMillion(r.cost.Server), r.cost.PeakRSS>>20)
}

// begin makes an empty projection.
func (r *run) begin(ctx context.Context) error {
	_, err := r.DB.Exec(ctx, fmt.Sprintf(ledger.Projection, r.table))
	return err
}

// end drops it and has the server write down what it holds, so that it does not do so in the next run. That one begins with a connection that has read
// nothing yet, as a worker's have not: a server process pays for each page of shared memory that it looks at first.
func (r *run) end(ctx context.Context) error {
	r.DB.Reset()
	for _, sql := range []string{"DROP TABLE IF EXISTS " + r.table, "CHECKPOINT"} {
		if _, err := r.DB.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// time measures work that goes through all events.
func (r *run) time(work func() error) error {
	meter, err := r.server.Measure()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := work(); err != nil {
		return err
	}
	r.took, r.handled = time.Since(began), r.Events
	r.cost, err = meter.Stop()
	return err
}

// tableFor names a projection: letters, digits and hyphens are what the names of groups may have too.
func tableFor(n int) string { return fmt.Sprintf("p%d", n) }
