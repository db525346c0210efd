// Latency measures how long it takes from the commit of an event to the commit of its projection's row, while events arrive at a
// steady rate, and what an idle worker costs.
//
// Both commits are those of the server: it notes the time of each commit (track_commit_timestamp), before it writes it to the disk. So
// the event's own sync counts, and the projection's does not; both ends are measured alike. Events are appended when they are due,
// however long those before them took.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sluice-project/sluice"
	"github.com/sluice-project/sluice/test/bench/lab"
)

// options of the bench.
type options struct {
	rate     int
	duration time.Duration
	backlog  int64
	idle     time.Duration
	slack    float64
	only     string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		sluice.Main(nil)
	}
	var o options
	flag.IntVar(&o.rate, "rate", 1000, "events appended a second")
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "of each scenario; that of a replay ends with it")
	flag.Int64Var(&o.backlog, "backlog", 10_000_000, "events that another group replays meanwhile, in one of the scenarios")
	flag.DurationVar(&o.idle, "idle", 20*time.Second, "how long the idle worker is watched, after 15 s in which it comes to rest")
	flag.Float64Var(&o.slack, "slack", 0, "fail where a figure misses its goal by more than this factor; 0 never does")
	flag.StringVar(&o.only, "only", "", "scenarios whose name contains this text; idle is one")
	lab.Main("bench/latency", func(ctx context.Context) error {
		return lab.WithServer(ctx, map[string]string{"track_commit_timestamp": "on", "shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "top"}, func(server *lab.Server) error { return bench(ctx, server, o) })
	})
}

func bench(ctx context.Context, server *lab.Server, o options) error {
	url, db, err := server.NewDatabase(ctx, "latency")
	if err != nil {
		return err
	}
	defer db.Close()
	text, err := lab.Introduce(ctx, db)
	if err != nil {
		return err
	}
	fmt.Printf("bench/latency: %d events/s, %s each, 16 segments\n%s\n| scenario | events | p50 | p99 | maximum | appended late, p99 | events a transaction | CPU µs an event, client + server |\n|---|---|---|---|---|---|---|---|\n", o.rate, o.duration, text)
	if _, err := db.Exec(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
		return err
	}
	w := &world{options: o, server: server, url: url, db: db}
	for _, s := range scenarios {
		if !strings.Contains(s.name, o.only) {
			continue
		}
		if err := w.measure(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if strings.Contains("idle", o.only) {
		if err := w.idle(ctx); err != nil {
			return err
		}
	}
	return lab.Report(w.figures, o.slack)
}
