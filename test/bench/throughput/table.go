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

// misses says which figures miss what is asked of them, divided by slack. On a machine that others use too only what CPU time
// tells means something; otherwise, quiet, it is judged by time.
func (r *results) misses(slack float64, quiet bool) []string {
	var missed []string
	for _, d := range distributions {
		for _, k := range kinds {
			runs := r.of(d.Name, k.name)
			if len(runs) == 0 {
				continue
			}
			miss := func(what string, got, want float64, format string) {
				if want > 0 && got < want/slack {
					missed = append(missed, fmt.Sprintf("%s, %s: "+format+" %s, want "+format, d.Name, k.name, got, what, want/slack))
				}
			}
			ratios, unit := r.perCPU, " by CPU time"
			if quiet {
				ratios, unit = r.ratios, ""
				miss("events/s", lab.Median(rates(runs)), k.perSecond, "%.0f")
			}
			if all := ratios(d.Name, k.name, scan); len(all) > 0 {
				miss("× L1"+unit, lab.Median(all), k.ofScan, "%.2f")
			}
			if all := ratios(d.Name, k.name, loop); len(all) > 0 {
				miss("× L2"+unit, lab.Median(all), k.ofLoop, "%.2f")
			}
		}
	}
	return missed
}
