// Memory measures how much memory a worker takes while it catches up on many events, whether that stays the same from the first half to the
// second, and whether it is as fast over all of them as over the last tenth.
//
// The worker runs in this process, whose resident memory is sampled while it does: what the bench itself takes counts too. After each run
// the projection is compared with the events.
package main

import (
	"context"
	"flag"
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

// options of the bench.
type options struct {
	events   int64
	rounds   int
	segments int
	slack    float64
}

func main() {
	var o options
	flag.Int64Var(&o.events, "events", 10_000_000, "events")
	flag.IntVar(&o.rounds, "runs", 3, "rounds, of a run over all events and one over the last tenth for each kind of handler")
	flag.IntVar(&o.segments, "segments", 4, "segments of a processing group")
	flag.Float64Var(&o.slack, "slack", 0, "fail where memory, or the ratio by CPU time, misses its goal by more than this factor; 0 never does")
	lab.Main("bench/memory", func(ctx context.Context) error {
		return lab.WithServer(ctx, nil, func(server *lab.Server) error { return bench(ctx, server, o) })
	})
}

func bench(ctx context.Context, server *lab.Server, o options) error {
	fmt.Printf("bench/memory: %d events of 250 bytes, and their last tenth; %d segments, %d rounds\n", o.events, o.segments, o.rounds)
	events, err := ledger.Generate(ctx, server, ledger.Uniform, o.events)
	if err != nil {
		return err
	}
	defer events.DB.Close()
	text, err := lab.Introduce(ctx, events.DB)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", text)
	var all results
	for round := range o.rounds {
		for i, k := range kinds {
			parts := []int64{o.events, max(o.events/10, 1)}
			if round%2 == 1 {
				slices.Reverse(parts)
			}
			for j, part := range parts {
				r := &run{kind: k, handled: part, table: fmt.Sprintf("p%d-%d-%d", round, i, j)}
				if err := r.measure(ctx, server, events, o.segments); err != nil {
					return fmt.Errorf("%s, %d events: %w", k.name, part, err)
				}
				fmt.Println(r)
				all = append(all, r)
			}
		}
	}
	return lab.Report(all.figures(o.events), o.slack)
}
