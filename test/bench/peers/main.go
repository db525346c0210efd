// Peers runs other systems for the same job on the same events and the same projection, and Sluice in the same rounds: watermill-sql and
// River, each at its defaults and at the best settings that its documentation and its code allow here. All of them apply one statement an
// event, in the transaction that also notes that the event has been handled.
//
// It is a module of its own, so that what the peers depend on does not become a dependency of Sluice.
//
// Each has a table of its own, filled with the same 250 bytes of data an event before it is measured. After each run the projection is
// compared with the events: each exactly once. Only River is not asked for their order, since it promises none; how many streams
// were out of order is printed.
package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

// options of the bench.
type options struct {
	events int64
	rounds int
	only   string
	slack  float64
}

func main() {
	var o options
	flag.Int64Var(&o.events, "events", 20_000, "events; River handles a fifth of them")
	flag.IntVar(&o.rounds, "runs", 5, "rounds, of one run of each kind")
	flag.StringVar(&o.only, "only", "", "runs to make: those whose name contains one of these texts, with semicolons between")
	flag.Float64Var(&o.slack, "slack", 0, "fail where a ratio by CPU time misses its goal by more than this factor; 0 never does")
	lab.Main("bench/peers", func(ctx context.Context) error {
		return lab.WithServer(ctx, nil, func(server *lab.Server) error { return bench(ctx, server, o) })
	})
}

func bench(ctx context.Context, server *lab.Server, o options) error {
	events, err := ledger.Generate(ctx, server, ledger.Uniform, o.events)
	if err != nil {
		return err
	}
	defer events.DB.Close()
	text, err := lab.Introduce(ctx, events.DB)
	if err != nil {
		return err
	}
	fmt.Printf("bench/peers: %d events of 250 bytes over %d streams, evenly spread, %d rounds\n%swatermill-sql %s, River %s\n", o.events, ledger.Streams, o.rounds, text,
		lab.ModuleVersion("github.com/ThreeDotsLabs/watermill-sql/v4"), lab.ModuleVersion("github.com/riverqueue/river"))
	all, err := o.measure(ctx, server, events)
	if err != nil {
		return err
	}
	fmt.Print("\n", all)
	return lab.Report(all.figures(), o.slack)
}

// measure makes the rounds, each in another order.
func (o options) measure(ctx context.Context, server *lab.Server, events *ledger.Ledger) (results, error) {
	all := results{}
	for round := range o.rounds {
		fmt.Printf("\nround %d\n", round+1)
		var runs []*run
		for i := range kinds {
			k := kinds[(i+round*3)%len(kinds)]
			if !o.wants(k.name) {
				continue
			}
			r := &run{kind: k, Ledger: events, server: server, table: fmt.Sprintf("p%d", len(all)*len(kinds)+i)}
			if err := r.once(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			fmt.Println(r)
			runs = append(runs, r)
		}
		all = append(all, runs)
	}
	return all, nil
}

func (o options) wants(name string) bool {
	for text := range strings.SplitSeq(o.only, ";") {
		if strings.Contains(name, text) {
			return true
		}
	}
	return false
}
