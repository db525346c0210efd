// Tokens measures what many segments cost: how long five workers take to own ten thousand segments, how long the others take to own
// those of one that was killed, how long one statement takes to claim a thousand, how long splits and merges between one segment and
// the largest number take, and which share of the token table's updates are heap-only while batches run.
//
// Workers are processes, of this program, and plan by themselves; PostgreSQL is a server of its own with its default settings. All run
// on one machine. It exits with 1 where a run was not completed or a figure's median misses its goal grossly, by half or more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluice-project/sluice"
	"github.com/sluice-project/sluice/test/bench/lab"
)

// options are what flags set.
type options struct {
	runs, workers, segments int
	load                    time.Duration
	only                    string
}

// measure is one thing that is measured; each run has a server and workers of its own.
type measure struct {
	name string
	run  func(context.Context, *world, *summary) error
}

var measures = []measure{
	{"claim", claimThousand},
	{"own", ownAll},
	{"reshape", reshape},
	{"hot", hotShare},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		sluice.Main(nil)
	}
	var o options
	flag.IntVar(&o.runs, "runs", 5, "runs of each measure")
	flag.IntVar(&o.workers, "workers", 5, "worker processes")
	flag.IntVar(&o.segments, "segments", 10_000, "segments of the group")
	flag.DurationVar(&o.load, "load", 10*time.Second, "how long batches run for the share of heap-only updates")
	flag.StringVar(&o.only, "only", "", "measures to run, by name, with commas between: claim, own, reshape, hot; all by default")
	lab.Main("bench/tokens", func(ctx context.Context) error { return bench(ctx, o) })
}

// bench runs the measures and prints what came out. Its error says that a run was not completed, or what was missed grossly.
func bench(ctx context.Context, o options) error {
	table := &summary{}
	for _, m := range measures {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		for run := range o.runs {
			fmt.Fprintf(os.Stderr, "%s, run %d of %d\n", m.name, run+1, o.runs)
			if err := once(ctx, o, m, table); err != nil {
				fmt.Print(table.String())
				return fmt.Errorf("%s, run %d: %w", m.name, run+1, err)
			}
		}
	}
	fmt.Print(table.String())
	return table.missed()
}

func once(ctx context.Context, o options, m measure, table *summary) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	table.settings = w.settings
	return errors.Join(m.run(ctx, w, table), w.close())
}
