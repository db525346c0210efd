package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// results are all runs, by round.
type results [][]*run

// of returns a kind's runs, a round each.
func (all results) of(name string) []*run {
	var runs []*run
	for _, round := range all {
		for _, r := range round {
			if r.name == name {
				runs = append(runs, r)
			}
		}
	}
	return runs
}

// ratios are, by round, a figure of one kind divided by that of another; none where one of them did not run.
func (all results) ratios(of, to string, figure func(*run) float64) []float64 {
	var ratios []float64
	a, b := all.of(of), all.of(to)
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, figure(a[i])/figure(b[i]))
	}
	return ratios
}

const (
	queued   = "Sluice: a queued statement an event"
	defaults = "watermill-sql, defaults"
)

func (all results) String() string {
	var b strings.Builder
	b.WriteString("| run | events/s, median | min – max | Sluice, queued, is × this | by CPU time | CPU s per million, client + server | out of order |\n|---|---|---|---|---|---|---|\n")
	for _, k := range kinds {
		runs := all.of(k.name)
		if len(runs) == 0 {
			continue
		}
		rates := values(runs, (*run).rate)
		late := "0"
		if k.unordered {
			late = fmt.Sprintf("%.0f streams", lab.Median(values(runs, func(r *run) float64 { return float64(r.late) })))
		}
		fmt.Fprintf(&b, "| %s | %.0f | %.0f – %.0f | %s | %s | %.1f + %.1f | %s |\n", k.name, lab.Median(rates), slices.Min(rates), slices.Max(rates),
			spread(all.ratios(queued, k.name, (*run).rate)), spread(all.ratios(queued, k.name, (*run).perCPU)),
			lab.Median(values(runs, func(r *run) float64 { return r.cost.Client.Seconds() * 1e6 / float64(r.handled()) })),
			lab.Median(values(runs, func(r *run) float64 { return r.cost.Server.Seconds() * 1e6 / float64(r.handled()) })), late)
	}
	return b.String()
}

func values(runs []*run, figure func(*run) float64) []float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, figure(r))
	}
	return all
}

func spread(ratios []float64) string {
	if len(ratios) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f – %.2f)", lab.Median(ratios), slices.Min(ratios), slices.Max(ratios))
}

// figures are what is asked of Sluice. The ratio of rates depends on how busy the machine is: a peer that waits for answers all the time
// loses more by that.
func (all results) figures() []lab.Figure {
	var figures []lab.Figure
	if rates := all.ratios(queued, defaults, (*run).rate); len(rates) > 0 {
		figures = append(figures, lab.Figure{Work: "catch-up, a queued statement an event", Unit: "× watermill-sql at its defaults", Rounds: rates, Goal: 10, Noisy: true},
			lab.Figure{Work: "catch-up, a queued statement an event", Unit: "× watermill-sql at its defaults, by CPU time", Rounds: all.ratios(queued, defaults, (*run).perCPU)})
	}
	return figures
}
