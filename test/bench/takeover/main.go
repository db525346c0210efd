// Takeover measures how long segments stand still when their owner goes away, with real pods on the cluster of hack/cluster.
//
// A writer appends an event to each segment every 20 ms. The handler stamps each event with the database's clock and the
// worker, in the transaction that moves the token. A run's figure is the time from the signal to the first stamp by another
// worker, of the last of the victim's segments that has one; a stamp is made right before its commit. Beside it stands the
// machine's baseline: when a connection that waits for the victim's session lock gets it from the server.
//
// It needs root on the machine of the local cluster: processes are signalled by their ids on the host.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// scenario is one way for an owner to go away.
type scenario struct {
	name string
	goal string
	run  func(context.Context, *world) (result, error)
}

var scenarios = []scenario{
	{"sigkill", "300 ms", signalled(syscall.SIGKILL)},
	{"sigterm", "200 ms and the batch", signalled(syscall.SIGTERM)},
	{"sigstop", "lease (5 s) and 2 s", signalled(syscall.SIGSTOP)},
	{"cut", "4 s", cutOff},
	{"postgres", "1 s after it is back", postgresRestarted},
	{"rollout", "", rolledOut},
}

func main() {
	runs := flag.Int("runs", 5, "runs of each scenario")
	only := flag.String("only", "", "scenarios to run, by name, with commas between; all by default")
	lab.Main("bench/takeover", func(ctx context.Context) error { return bench(ctx, *runs, *only) })
}

// bench runs the scenarios and prints what came out. Its error says that a run was not completed.
func bench(ctx context.Context, runs int, only string) error {
	w, err := newWorld(ctx)
	if err != nil {
		return err
	}
	if err := w.introduce(ctx, runs); err != nil {
		return err
	}
	table := summary{}
	for _, s := range scenarios {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		results, err := w.measure(ctx, s, runs)
		if len(results) > 0 {
			table.add(s, results)
		}
		if err != nil {
			fmt.Print(table.String())
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Print(table.String())
	return w.leave(ctx)
}

// measure runs a scenario, each time on a processor of its own: a segment that was taken over stays where it went for a while,
// so that one run would change what the next one finds.
func (w *world) measure(ctx context.Context, s scenario, runs int) ([]result, error) {
	fmt.Printf("\n%s\n", s.name)
	var results []result
	for i := range runs {
		r, err := w.once(ctx, s, i+1)
		if err != nil {
			return results, fmt.Errorf("run %d: %w", i+1, err)
		}
		fmt.Printf("  run %d: %s\n", i+1, r)
		results = append(results, r)
	}
	return results, nil
}

// once is one run.
func (w *world) once(ctx context.Context, s scenario, run int) (r result, err error) {
	if err := w.begin(ctx, fmt.Sprint(s.name, run)); err != nil {
		return r, err
	}
	if err := w.settle(ctx); err != nil {
		return r, errors.Join(err, w.end(ctx))
	}
	r, err = s.run(ctx, w)
	return r, errors.Join(err, w.end(ctx))
}
