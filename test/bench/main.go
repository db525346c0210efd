// Bench runs all benches that the goals for reading, applying and appending events are about, one after another, and prints one
// table of what came out. In its short form each is as short as can tell of a gross miss: it fails there, and nowhere else. What is judged then
// are ratios within a run, by CPU time where there are such, since the machine may be busy with other things.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// options are what flags set. All but short and only are of the full form.
type options struct {
	short              bool
	only               string
	events, peerEvents int64
	runs               int
	duration           time.Duration
}

func main() {
	var o options
	flag.BoolVar(&o.short, "short", false, "run the short form, which fails where a figure is missed grossly")
	flag.StringVar(&o.only, "only", "", "benches to run, by name, with commas between: "+strings.Join(names(), ", ")+"; all by default")
	flag.Int64Var(&o.events, "events", 1_000_000, "events to catch up on; those of memory and of latency take ten times as many")
	flag.Int64Var(&o.peerEvents, "peer-events", 20_000, "events for the peers")
	flag.IntVar(&o.runs, "runs", 5, "rounds")
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "of each scenario of latency; that of a replay ends with it")
	lab.Main("bench", func(ctx context.Context) error { return run(ctx, o) })
}

// figuresFile is where benches put their figures.
const figuresFile = "figures"

// run runs the benches, all of them even where one fails, and prints the table.
func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	failed := runAll(ctx, o, dir)
	figures, err := read(filepath.Join(dir, figuresFile))
	if err != nil {
		return errors.Join(failed, err)
	}
	fmt.Printf("\n== all figures, %s, in %s\n\n%s", o.form(), time.Since(began).Round(time.Second), lab.FiguresTable(figures))
	return failed
}

// runAll builds and runs the benches that are wanted in a directory, one after another, but for those that may run beside the others. Their
// output comes when they have ended.
func runAll(ctx context.Context, o options, dir string) error {
	failed, later := make([]error, len(benches)), make([]bytes.Buffer, len(benches))
	var beside sync.WaitGroup
	for i, b := range benches {
		if o.wants(b) && o.beside(b) {
			beside.Go(func() { failed[i] = b.run(ctx, o, dir, &later[i]) })
		}
	}
	for i, b := range benches {
		if o.wants(b) && !o.beside(b) {
			failed[i] = b.run(ctx, o, dir, os.Stdout)
		}
	}
	beside.Wait()
	for i := range later {
		_, err := later[i].WriteTo(os.Stdout)
		failed[i] = errors.Join(failed[i], err)
	}
	return errors.Join(failed...)
}

func (o options) wants(b bench) bool {
	return o.only == "" || strings.Contains(","+o.only+",", ","+b.name+",")
}

// beside tells whether a bench runs beside the others.
func (o options) beside(b bench) bool { return o.short && b.beside }

// form says what was run.
func (o options) form() string {
	if o.short {
		return "SHORT FORM, which tells only of gross misses"
	}
	return fmt.Sprintf("full form: %d events, for memory and replay %d, %d rounds, %s a scenario of latency", o.events, 10*o.events, o.runs, o.duration)
}

// read returns the figures that benches have appended to a file.
func read(file string) ([]lab.Figure, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // none has come so far
	}
	if err != nil {
		return nil, err
	}
	var all []lab.Figure
	decoder := json.NewDecoder(bytes.NewReader(text))
	for decoder.More() {
		var f lab.Figure
		if err := decoder.Decode(&f); err != nil {
			return nil, fmt.Errorf("reading figures: %w", err)
		}
		all = append(all, f)
	}
	return all, nil
}

// run builds and runs a bench, which appends its figures to a file in the directory.
func (b bench) run(ctx context.Context, o options, dir string, out io.Writer) error {
	module, program, binary := ".", "./test/bench/"+b.name, filepath.Join(dir, b.name)
	if b.module {
		module, program = "test/bench/"+b.name, "."
	}
	args := b.full(o)
	if o.short {
		args = b.short
	}
	fmt.Fprintf(out, "\n== %s %s\n", b.name, strings.Join(args, " "))
	began := time.Now()
	build := exec.CommandContext(ctx, "go", "build", "-C", module, "-o", binary, program)
	build.Stdout, build.Stderr = out, out
	if err := build.Run(); err != nil {
		return fmt.Errorf("building %s: %w", b.name, err)
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), lab.FiguresFile+"="+filepath.Join(dir, figuresFile))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it stops its PostgreSQL then
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	fmt.Fprintf(out, "\n%s took %s\n", b.name, time.Since(began).Round(time.Second))
	return nil
}
