// Pods measures how many rows the database sends to four workers that share sixteen segments, as a ratio to the events: each event is wanted by
// one of them. First the workers catch up on events that were there before them, claiming their segments meanwhile; then events arrive at a
// steady rate.
//
// Workers are processes of this program. The server counts the rows (pg_stat_statements) of the statement that reads events; each of its
// answers begins with a row that tells of the page and holds no event, counted apart. The projection is compared with the events
// after both parts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/sluice-project/sluice"
	"github.com/sluice-project/sluice/test/bench/lab"
)

// options of the bench.
type options struct {
	events   int64
	rounds   int
	rate     int
	duration time.Duration
	slack    float64
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		sluice.Main(nil)
	}
	var o options
	flag.Int64Var(&o.events, "events", 200_000, "events to catch up on")
	flag.IntVar(&o.rounds, "runs", 3, "rounds")
	flag.IntVar(&o.rate, "rate", 500, "events appended a second at the tail")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long they are appended")
	flag.Float64Var(&o.slack, "slack", 0, "fail where a ratio misses its goal by more than this factor; 0 never does")
	lab.Main("bench/pods", func(ctx context.Context) error {
		return lab.WithServer(ctx, map[string]string{"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "top"}, func(server *lab.Server) error { return bench(ctx, server, o) })
	})
}

func bench(ctx context.Context, server *lab.Server, o options) error {
	w, err := newWorld(ctx, server, o)
	if err != nil {
		return err
	}
	defer w.events.DB.Close()
	text, err := lab.Introduce(ctx, w.events.DB)
	if err != nil {
		return err
	}
	fmt.Printf("bench/pods: %d workers, %d segments, %d events, then %d a second for %s, %d rounds\n%s\n", workers, segments, o.events, o.rate, o.duration, o.rounds, text)
	for round := range o.rounds {
		if err := w.round(ctx, fmt.Sprintf("p%d", round)); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	return lab.Report(w.figures(), o.slack)
}
