package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

// kind is a handler.
type kind struct {
	name          string
	writesNothing bool
	handler       func(table string) handler.Handler
}

var kinds = []kind{
	{name: "Go, nothing", writesNothing: true, handler: func(string) handler.Handler {
		return handler.Each(func(context.Context, pgx.Tx, handler.Event) error { return nil })
	}},
	{name: "Go, a set", handler: ledger.Folded},
}

// run is one run of a worker.
type run struct {
	kind    kind
	handled int64
	table   string // the projection's; also the name of processor and group

	// What came out.
	caught lab.CatchUp
	memory []int64 // resident, in bytes, at equal distances of time
}

// measure has a worker handle the last events while its memory is sampled.
func (r *run) measure(ctx context.Context, server *lab.Server, events *ledger.Ledger, segments int) (err error) {
	table := strings.ReplaceAll(r.table, "-", "_")
	if _, err := events.DB.Exec(ctx, fmt.Sprintf(ledger.Projection, table)); err != nil {
		return err
	}
	p := &lab.Processor{Name: r.table, URL: events.URL, DB: events.DB, Handlers: map[string]handler.Handler{"bench": r.kind.handler(table)},
		Groups: fmt.Sprintf("  - name: %s\n    segments: %d\n    handler: {type: Go, go: {handler: bench}}\n", r.table, segments)}
	above := events.Events - r.handled
	begin := sync.OnceValue(func() *lab.Sampler { return lab.SampleMemory(20 * time.Millisecond) })
	p.OnBatch = func(worker.Batch) { begin() } // while it comes up it has not had time to take memory
	r.caught, err = p.CatchUp(ctx, server, above+1, r.handled, time.Hour)
	memory, failed := begin().Stop()
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	r.memory = memory
	if !r.kind.writesNothing {
		if err := events.Verify(ctx, table, above); err != nil {
			return err
		}
	}
	for _, sql := range []string{"DROP TABLE " + table, "CHECKPOINT"} {
		if _, err := events.DB.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) rate() float64 { return float64(r.handled) / r.caught.Took.Seconds() }

func (r *run) perCPU() float64 {
	return float64(r.handled) / (r.caught.Cost.Client + r.caught.Cost.Server).Seconds()
}

const mb = 1 << 20

func (r *run) String() string {
	return fmt.Sprintf("%-12s %9d events  %8.0f events/s, %8.0f a CPU second  memory: peak %4d MB, median of the first half %4d MB, of the second %4d MB", r.kind.name, r.handled, r.rate(),
		r.perCPU(), r.caught.Cost.PeakRSS/mb, lab.Median(r.half(0))/mb, lab.Median(r.half(1))/mb)
}

// half is the memory in the first or the second half of the run.
func (r *run) half(n int) []int64 {
	middle := len(r.memory) / 2
	if n == 0 {
		return r.memory[:middle]
	}
	return r.memory[middle:]
}

// results are all runs.
type results []*run

// figures of each kind, by round.
func (all results) figures(events int64) []lab.Figure {
	var figures []lab.Figure
	for _, k := range kinds {
		work := fmt.Sprintf("catch-up on %d events: %s", events, k.name)
		peak := lab.Figure{Work: work, Unit: "MB at the peak", Goal: 150, AtMost: true}
		flat := lab.Figure{Work: work, Unit: "× the memory of the first half, in the second", Goal: 1.1, AtMost: true}
		rate := lab.Figure{Work: work, Unit: "× the rate over the last tenth", Goal: 0.85, Noisy: true}
		cpu := lab.Figure{Work: work, Unit: "× the rate over the last tenth, by CPU time", Goal: 0.85}
		var of, tenth []*run
		for _, r := range all {
			switch {
			case r.kind.name != k.name:
			case r.handled == events:
				of = append(of, r)
			default:
				tenth = append(tenth, r)
			}
		}
		for i, r := range of {
			peak.Rounds = append(peak.Rounds, float64(r.caught.Cost.PeakRSS)/mb)
			flat.Rounds = append(flat.Rounds, float64(lab.Median(r.half(1)))/float64(lab.Median(r.half(0))))
			rate.Rounds = append(rate.Rounds, r.rate()/tenth[i].rate())
			cpu.Rounds = append(cpu.Rounds, r.perCPU()/tenth[i].perCPU())
		}
		figures = append(figures, peak, flat, rate, cpu)
	}
	return figures
}
