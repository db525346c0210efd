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
			if one.workload.name == distribution && one.kind.name == kind {
				all = append(all, one)
			}
		}
	}
	return all
}

// ratios of runs to the fastest of a class in the same round; none where the class did not run.
func (r *results) ratios(distribution, kind string, to class) []float64 {
	var all []float64
	for _, round := range r.rounds {
		var own, best float64
		for _, one := range round {
			switch {
			case one.workload.name != distribution:
			case one.kind.name == kind:
				own = one.rate()
			case one.class == to:
				best = max(best, one.rate())
			}
			if one.workload.name == distribution && one.class == to {
				best = max(best, one.rate())
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
			if runs := r.of(d.name, k.name); len(runs) > 0 {
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", d.name, k.name, thousands(lab.Median(rates(runs))),
					thousands(slices.Min(rates(runs)))+" – "+thousands(slices.Max(rates(runs))),
					ratio(r.ratios(d.name, k.name, scan)), ratio(r.ratios(d.name, k.name, loop)), ratio(r.ratios(d.name, k.name, fourfold)), cpu(runs), peak(runs))
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

// misses says which figures miss what is asked of them, divided by slack; those in events a second, which are the machine's as much
// as ours, only where absolute ones are to be judged too.
func (r *results) misses(slack float64, absolute bool) []string {
	var all []string
	for _, d := range distributions {
		for _, k := range kinds {
			runs := r.of(d.name, k.name)
			if len(runs) == 0 {
				continue
			}
			miss := func(what string, got, want float64, format string) {
				if want > 0 && got < want/slack {
					all = append(all, fmt.Sprintf("%s, %s: "+format+" %s, want "+format, d.name, k.name, got, what, want/slack))
				}
			}
			if absolute {
				miss("events/s", lab.Median(rates(runs)), k.perSecond, "%.0f")
			}
			if ratios := r.ratios(d.name, k.name, scan); len(ratios) > 0 {
				miss("× L1", lab.Median(ratios), k.ofScan, "%.2f")
			}
			if ratios := r.ratios(d.name, k.name, loop); len(ratios) > 0 {
				miss("× L2", lab.Median(ratios), k.ofLoop, "%.2f")
			}
		}
	}
	return all
}
