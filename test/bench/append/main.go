// Append measures what appending costs: one event at a time and ten through the Go API and by the database's function, with and without an
// expected version, as a ratio to a plain INSERT into the same table; and what the table's own columns and index cost, as a ratio of
// that INSERT to one into a table without them.
//
// All of them take turns of a quarter of a second, in an order that turns too, so that what else the machine does falls on all of them; a
// kind's turns of a round are its slice, and each ratio is of two slices of the same round. Each append is a transaction of its own,
// synced. Clients append to streams of their own. After each round the versions of all streams are checked to be without a gap.
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

// turn is how long a kind appends until it is the next one's turn.
const turn = 250 * time.Millisecond

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "of each slice, in turns of a quarter of a second")
	flag.IntVar(&o.rounds, "runs", 5, "rounds, of a slice of each kind at each number of clients")
	flag.Float64Var(&o.slack, "slack", 0, "fail where a ratio by CPU time misses its goal by more than this factor; 0 never does")
	lab.Main("bench/append", func(ctx context.Context) error {
		return lab.WithServer(ctx, nil, func(server *lab.Server) error { return bench(ctx, server, o) })
	})
}

func bench(ctx context.Context, server *lab.Server, o options) error {
	w, err := newWorld(ctx, server)
	if err != nil {
		return err
	}
	defer w.db.Close()
	text, err := lab.Introduce(ctx, w.db)
	if err != nil {
		return err
	}
	fmt.Printf("bench/append: events of 250 bytes, one or ten a transaction, %d rounds of slices of %s\n%s", o.rounds, o.duration, text)
	var all results
	for round := range o.rounds {
		fmt.Printf("\nround %d\n", round+1)
		for _, n := range clients {
			slices, err := w.round(ctx, n, round, o.duration)
			if err != nil {
				return fmt.Errorf("%d clients: %w", n, err)
			}
			all = append(all, slices...)
		}
	}
	fmt.Print("\n", all)
	return lab.Report(all.figures(), o.slack)
}

// round has all kinds take turns.
func (w *world) round(ctx context.Context, clients, round int, duration time.Duration) (results, error) {
	var all results
	for _, k := range kinds {
		s := &slice{kind: k, clients: clients}
		if err := w.warm(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		all = append(all, s)
	}
	if _, err := w.db.Exec(ctx, "CHECKPOINT"); err != nil { // not in the middle of somebody's turn
		return nil, err
	}
	for t := range max(int(duration/turn), 1) {
		for i := range all {
			s := all[(i+t*3+round)%len(all)]
			if err := w.measure(ctx, s); err != nil {
				return nil, fmt.Errorf("%s: %w", s.kind.name, err)
			}
		}
	}
	for _, s := range all {
		if err := w.check(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.kind.name, err)
		}
		fmt.Println(s)
	}
	return all, nil
}
