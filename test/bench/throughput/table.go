package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// results are all runs.
type results struct{ rounds [][]*run } // by round

// of returns the runs of a kind over a distribution, a round each.
func (r *results) of(distribution, kind string) []*run {
	var all []*run
	for _, round := range r.rounds {
		for _, one := range round {
			if one.Ledger.Name == distribution && one.kind.name == kind {
				all = append(all, one)
			}
		}
	}
	return all
}

// ratios of runs' rates to the fastest of a class in the same round; none where the class did not run.
func (r *results) ratios(distribution, kind string, to class) []float64 {
	return r.compare(distribution, kind, to, (*run).rate)
}

// perCPU are ratios of what was handled for a second of CPU time, the server's and this process's, which others disturb least.
func (r *results) perCPU(distribution, kind string, to class) []float64 {
	return r.compare(distribution, kind, to, func(one *run) float64 {
		return float64(one.handled) / (one.cost.Client + one.cost.Server).Seconds()
	})
}

// compare returns, by round, a figure of a kind's run divided by the highest of a class.
func (r *results) compare(distribution, kind string, to class, figure func(*run) float64) []float64 {
	var all []float64
	for _, round := range r.rounds {
		var own, best float64
		for _, one := range round {
			if one.Ledger.Name != distribution {
				continue
			}
			if one.kind.name == kind {
				own = figure(one)
			}
			if one.class == to {
				best = max(best, figure(one))
			}
		}
		if own > 0 && best > 0 {
			all = append(all, own/best)
		}
	}
	return all
}

func (r *results) String() string {
	var b strings.Builder
	b.WriteString("\n| events | run | events/s, median | min – max | × L1 | × L2 | × L2, 4 workers | CPU s per million, client + server | peak memory |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, d := range distributions {
		for _, k := range kinds {
			if runs := r.of(d.Name, k.name); len(runs) > 0 {
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", d.Name, k.name, thousands(lab.Median(rates(runs))),
					thousands(slices.Min(rates(runs)))+" – "+thousands(slices.Max(rates(runs))),
					ratio(r.ratios(d.Name, k.name, scan)), ratio(r.ratios(d.Name, k.name, loop)), ratio(r.ratios(d.Name, k.name, fourfold)), cpu(runs), peak(runs))
			}
		}
	}
	b.WriteString("\nL1: the fastest scan of the round; L2: the fastest loop. Ratios are medians of the rounds, with min – max.\n")
	return b.String()
}

func rates(runs []*run) []float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, r.rate())
	}
	return all
}

func ratio(all []float64) string {
	switch len(all) {
	case 0:
		return "-"
	case 1:
		return fmt.Sprintf("%.2f", all[0])
	}
	return fmt.Sprintf("%.2f (%.2f – %.2f)", lab.Median(all), slices.Min(all), slices.Max(all))
}

func cpu(runs []*run) string {
	var client, server []float64
	for _, r := range runs {
		perMillion := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(r.handled) }
		client, server = append(client, perMillion(r.cost.Client)), append(server, perMillion(r.cost.Server))
	}
	return fmt.Sprintf("%.1f + %.1f", lab.Median(client), lab.Median(server))
}

func peak(runs []*run) string {
	highest := int64(0)
	for _, r := range runs {
		highest = max(highest, r.cost.PeakRSS)
	}
	return fmt.Sprintf("%d MB", highest>>20)
}

// thousands writes a number in thousands: more digits would mean nothing.
func thousands(n float64) string {
	if n < 10_000 {
		return fmt.Sprintf("%.1f k", n/1000)
	}
	return fmt.Sprintf("%.0f k", n/1000)
}

// figures are what is asked of the kinds, with ratios by time and by CPU time.
func (r *results) figures() []lab.Figure {
	var figures []lab.Figure
	for _, d := range distributions {
		for _, k := range kinds {
			work := "catch-up, " + d.Name + ": " + k.name
			add := func(unit string, rounds []float64, goal float64, noisy bool) {
				if goal > 0 && len(rounds) > 0 {
					figures = append(figures, lab.Figure{Work: work, Unit: unit, Rounds: rounds, Goal: goal, Noisy: noisy})
				}
			}
			add("events/s", rates(r.of(d.Name, k.name)), k.perSecond, true)
			add("× L1, the fastest scan", r.ratios(d.Name, k.name, scan), k.ofScan, true)
			add("× L1 by CPU time", r.perCPU(d.Name, k.name, scan), k.ofScan, false)
			add("× L2, the fastest loop", r.ratios(d.Name, k.name, loop), k.ofLoop, true)
			add("× L2 by CPU time", r.perCPU(d.Name, k.name, loop), k.ofLoop, false)
		}
	}
	return figures
}
