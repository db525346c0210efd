// Throughput measures how fast a worker catches up, as a ratio to what the same server and driver allow in the same round: L1, the
// fastest plain scan of the same rows, and L2, the fastest hand-written loop that moves a token and applies a set-based projection in
// one transaction a page.
//
// It starts a PostgreSQL of its own, makes the events in it, and runs all kinds in turn, round after round, in an order that turns too.
// After each run that writes, the projection is compared with the events: its sum and, for each stream, number, sum, hash and
// order. A wrong projection fails the bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

var distributions = []ledger.Distribution{ledger.Uniform, ledger.Zipf}

// options of the bench.
type options struct {
	events   int64
	rounds   int
	only     string
	segments int
	batch    int
	slack    float64
	profile  string
}

func main() {
	var o options
	flag.Int64Var(&o.events, "events", 1_000_000, "events, half of the runs over evenly spread ones and half over ones by Zipf's law")
	flag.IntVar(&o.rounds, "runs", 5, "rounds, of one run of each kind")
	flag.StringVar(&o.only, "only", "", "runs to make: those whose distribution and name, as printed, contain one of these texts, with semicolons between")
	flag.IntVar(&o.segments, "segments", 4, "segments of a processing group")
	flag.IntVar(&o.batch, "batch", 5000, "maxBatchSize of a processing group; 5000 is the default")
	flag.Float64Var(&o.slack, "slack", 0, "fail where a ratio, by CPU time, misses what is asked of it by more than this factor; 0 never does, and lists what is missed")
	flag.StringVar(&o.profile, "profile", "", "file for a CPU profile of this process")
	lab.Main("bench/throughput", func(ctx context.Context) error {
		return lab.WithServer(ctx, nil, func(server *lab.Server) error { return bench(ctx, server, o) })
	})
}

func bench(ctx context.Context, server *lab.Server, o options) error {
	loads, err := o.generate(ctx, server)
	if err != nil {
		return err
	}
	if o.profile != "" {
		file, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	all, err := o.measure(ctx, server, loads)
	if err != nil {
		return err
	}
	fmt.Print(all)
	return lab.Report(all.figures(), o.slack)
}

// form says which form of the bench this is.
func (o options) form() string {
	name := "full form"
	if o.events < 1_000_000 || o.rounds < 5 {
		name = "SHORT FORM, whose figures tell only of gross misses"
	}
	return fmt.Sprintf("%s: %d events over %d streams, %d rounds, %d segments, batches of at most %d", name, o.events, ledger.Streams, o.rounds, o.segments, o.batch)
}

func (o options) generate(ctx context.Context, server *lab.Server) ([]*ledger.Ledger, error) {
	var all []*ledger.Ledger
	for _, d := range distributions {
		if !o.wantsAny(d) {
			continue
		}
		w, err := ledger.Generate(ctx, server, d, o.events)
		if err != nil {
			return nil, err
		}
		if len(all) == 0 {
			text, err := lab.Introduce(ctx, w.DB)
			if err != nil {
				return nil, err
			}
			fmt.Printf("bench/throughput, %s\n%s", o.form(), text)
		}
		all = append(all, w)
	}
	return all, nil
}

// measure makes the rounds.
func (o options) measure(ctx context.Context, server *lab.Server, loads []*ledger.Ledger) (*results, error) {
	all := &results{}
	count := 0
	for round := range o.rounds {
		fmt.Printf("\nround %d\n", round+1)
		var runs []*run
		for _, w := range loads {
			for i := range kinds {
				k := kinds[(i+round*5)%len(kinds)]
				if !o.wants(w.Name + " " + k.name) {
					continue
				}
				count++
				r := &run{kind: k, Ledger: w, server: server, table: tableFor(count), segments: o.segments, batch: o.batch}
				if err := errors.Join(k.do(ctx, r), r.end(ctx)); err != nil {
					return nil, fmt.Errorf("%s, %s: %w", w.Name, k.name, err)
				}
				fmt.Println(r)
				runs = append(runs, r)
			}
		}
		all.rounds = append(all.rounds, runs)
	}
	return all, nil
}

// wantsAny tells whether anything runs over a distribution.
func (o options) wantsAny(d ledger.Distribution) bool {
	return slices.ContainsFunc(kinds, func(k kind) bool { return o.wants(d.Name + " " + k.name) })
}

func (o options) wants(name string) bool {
	if o.only == "" {
		return true
	}
	for text := range strings.SplitSeq(o.only, ";") {
		if strings.Contains(name, text) {
			return true
		}
	}
	return false
}
