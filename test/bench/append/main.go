// Append measures what appending costs: one event at a time through the Go API and by the database's function, with and without an
// expected version, as a ratio to a plain INSERT into the same table; and what the table's own columns and index cost, as a ratio of
// that INSERT to one into a table without them.
//
// All of them take turns, in slices of a few seconds, in an order that turns too; each ratio is of two slices of the same round. Each
// event is a transaction of its own, synced. Clients append to streams of their own. After each slice the versions of its streams are
// checked to be without a gap.
package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// options of the bench.
type options struct {
	duration time.Duration
	rounds   int
	slack    float64
}

// clients at once.
var clients = []int{1, 64}

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "of each slice")
	flag.IntVar(&o.rounds, "runs", 5, "rounds, of a slice of each kind at each number of clients")
	flag.Float64Var(&o.slack, "slack", 0, "fail where a ratio by CPU time misses its goal by more than this factor; 0 never does")
	lab.Main("bench/append", func(ctx context.Context) error {
		return lab.WithServer(ctx, nil, func(server *lab.Server) error { return bench(ctx, server, o) })
	})
}

func bench(ctx context.Context, server *lab.Server, o options) error {
	w, err := newWorld(ctx, server, o.duration)
	if err != nil {
		return err
	}
	defer w.db.Close()
	text, err := lab.Introduce(ctx, w.db)
	if err != nil {
		return err
	}
	fmt.Printf("bench/append: events of 250 bytes, one a transaction, %d rounds of slices of %s\n%s", o.rounds, o.duration, text)
	var all results
	for round := range o.rounds {
		fmt.Printf("\nround %d\n", round+1)
		for _, n := range clients {
			for i := range kinds {
				s := &slice{kind: kinds[(i+round*3)%len(kinds)], clients: n, round: round}
				if err := w.measure(ctx, s); err != nil {
					return fmt.Errorf("%s, %d clients: %w", s.kind.name, n, err)
				}
				fmt.Println(s)
				all = append(all, s)
			}
		}
	}
	fmt.Print("\n", all)
	return lab.Report(all.figures(), o.slack)
}
