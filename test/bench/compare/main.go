// Compare says what a change costs: it builds two versions of Sluice, has them do the same work in
// turn, again and again, and compares the CPU time of client and server together. The older
// version, the base, runs twice in each round: what these two runs differ by is noise.
//
// Both versions are driven from outside, by `migrate` and `dev` of a program that is built from the
// same source with each of them. Each has a database of its own on one server, with the same
// events. All of it runs on one CPU. After each run the projection is compared with the events.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

type options struct {
	base   string
	pairs  int
	events int64
	live   time.Duration
	only   string
}

func main() {
	var o options
	flag.StringVar(&o.base, "base", "", "commit to compare the working tree with")
	flag.IntVar(&o.pairs, "pairs", 20, "rounds, of one run of the change and two of the base")
	flag.Int64Var(&o.events, "events", 200_000, "events to catch up on")
	flag.DurationVar(&o.live, "live", 4*time.Second, "how long events are appended in a run of live load")
	flag.StringVar(&o.only, "only", "", "scenarios to run: those whose name contains this text")
	lab.Main("bench/compare", func(ctx context.Context) error { return compare(ctx, o) })
}

func compare(ctx context.Context, o options) (err error) {
	if o.base == "" {
		return errors.New("-base is missing: name the commit to compare with, as in `make bench-compare BASE=main`")
	}
	if o.pairs < 1 || o.events < 4 {
		return fmt.Errorf("-pairs is %d and -events %d: there have to be at least one pair and four events", o.pairs, o.events)
	}
	dir, err := os.MkdirTemp("", "sluice-bench-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	base, err := buildBase(ctx, o.base, dir)
	if err != nil {
		return err
	}
	change, err := build(ctx, ".", filepath.Join(dir, "change"))
	if err != nil {
		return err
	}
	if err := lab.OneCPU(); err != nil {
		return err
	}
	return lab.WithServer(ctx, map[string]string{"autovacuum": "off"}, func(server *lab.Server) error {
		b := &bench{options: o, server: server, dir: dir}
		for _, v := range []struct {
			name     string
			programs programs
		}{{"base", base}, {"again", base}, {"change", change}} {
			if err := b.add(ctx, v.name, v.programs); err != nil {
				return err
			}
		}
		return b.run(ctx)
	})
}

// programs are those of one version.
type programs struct{ sluice, bench string }

// programSource is built with each version.
const programSource = "test/bench/compare/program"

// buildBase builds the programs of a commit, in a worktree that is gone afterwards.
func buildBase(ctx context.Context, commit, dir string) (p programs, err error) {
	tree := filepath.Join(dir, "tree")
	if err := command(ctx, "git", "worktree", "add", "--quiet", "--detach", tree, commit); err != nil {
		return p, err
	}
	defer func() {
		err = errors.Join(err, command(context.WithoutCancel(ctx), "git", "worktree", "remove", "--force", tree))
	}()
	if err := os.RemoveAll(filepath.Join(tree, programSource)); err != nil {
		return p, err
	}
	if err := os.CopyFS(filepath.Join(tree, programSource), os.DirFS(programSource)); err != nil {
		return p, err
	}
	return build(ctx, tree, filepath.Join(dir, "base"))
}

func build(ctx context.Context, tree, into string) (programs, error) {
	p := programs{sluice: filepath.Join(into, "sluice"), bench: filepath.Join(into, "bench")}
	for path, source := range map[string]string{p.sluice: "./cmd/sluice", p.bench: "./" + programSource} {
		if err := command(ctx, "go", "build", "-C", tree, "-trimpath", "-o", path, source); err != nil {
			return p, err
		}
	}
	return p, nil
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// run runs all scenarios and prints what came out. It fails if one costs more than is allowed.
func (b *bench) run(ctx context.Context) error {
	text, err := lab.Introduce(ctx, b.versions[0].DB)
	if err != nil {
		return err
	}
	fmt.Printf("bench/compare: the working tree with %s, %d pairs, %d events to catch up on, %s of live load\n%s", b.base, b.pairs, b.events, b.live, text)
	var all []pairs
	var failed error
	for _, s := range scenarios {
		if !strings.Contains(s.name, b.only) {
			continue
		}
		p, err := b.measure(ctx, s)
		if err != nil {
			return err
		}
		all = append(all, p)
		if v := p.verdict(); v.costsMore() {
			failed = errors.Join(failed, fmt.Errorf("%s costs %.1f %% more CPU time", s.name, 100*(v.ratio.median-1)))
		}
	}
	fmt.Printf("\nMedians with quartiles; ratios are those of the runs of one round.\n\n%s", table(all))
	return failed
}

// measure runs a scenario in rounds, after one that does not count. Each version comes first,
// second and last in turn.
func (b *bench) measure(ctx context.Context, s scenario) (pairs, error) {
	p := pairs{scenario: s.name}
	series := []*[]float64{&p.base, &p.again, &p.changed}
	for round := range b.pairs + 1 {
		for i := range b.versions {
			at := (i + round) % len(b.versions)
			cost, err := b.once(ctx, b.versions[at], s)
			if err != nil {
				return p, fmt.Errorf("%s, %s: %w", s.name, b.versions[at].Name, err)
			}
			fmt.Printf("round %2d  %-40s %-6s  CPU µs an event: client %6.1f server %6.1f\n", round, s.name, b.versions[at].Name, cost.client, cost.server)
			if round > 0 {
				*series[at] = append(*series[at], cost.client+cost.server)
			}
		}
	}
	return p, nil
}

// ledgerOf is a database with events, made by a version's own migrations.
func (b *bench) ledgerOf(ctx context.Context, name string, p programs) (*ledger.Ledger, error) {
	url, pool, err := b.server.NewEmptyDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := command(ctx, p.sluice, "migrate", "--database-url", url); err != nil {
		return nil, err
	}
	l := &ledger.Ledger{Distribution: ledger.Uniform, URL: url, DB: pool, Events: b.events}
	l.Name = name
	return l, l.Fill(ctx)
}
