package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// allowed is how much more CPU time a change may cost.
const allowed = 0.03

// spread is the middle of some values and how far apart they lie.
type spread struct {
	median, low, high float64 // low and high are the quartiles
	count             int
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{median: quantile(sorted, 0.5), low: quantile(sorted, 0.25), high: quantile(sorted, 0.75), count: len(sorted)}
}

// quantile lies between the two nearest of the sorted values.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(math.Floor(at))
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

// uncertainty is how far the median may be off, by the notches of box plots (McGill, Tukey and
// Larsen 1978): medians whose notches do not overlap differ, with about 95 % confidence.
func (s spread) uncertainty() float64 {
	return 1.57 * (s.high - s.low) / math.Sqrt(float64(s.count))
}

func (s spread) String() string {
	return fmt.Sprintf("%.3f (%.3f – %.3f)", s.median, s.low, s.high)
}

// pairs are the CPU times, in µs an event, of runs that followed one another.
type pairs struct {
	scenario             string
	base, again, changed []float64 // one a round: of the base twice, for the noise, and of the change
}

// verdict compares the ratios of change and base, the mean of its two runs, with those of base and
// base.
type verdict struct {
	ratio, noise spread
	margin       float64 // what the noise makes of a ratio of 1
}

func (p pairs) verdict() verdict {
	mean := make([]float64, len(p.base))
	for i := range p.base {
		mean[i] = (p.base[i] + p.again[i]) / 2
	}
	v := verdict{ratio: spreadOf(ratios(p.changed, mean)), noise: spreadOf(ratios(p.again, p.base))}
	v.margin = math.Abs(v.noise.median-1) + v.noise.uncertainty()
	return v
}

func ratios(of, to []float64) []float64 {
	all := make([]float64, len(of))
	for i := range of {
		all[i] = of[i] / to[i]
	}
	return all
}

// costsMore reports whether the change costs more than is allowed, beyond what the noise explains.
func (v verdict) costsMore() bool { return v.ratio.median-1 > allowed+v.margin }

// String is what the figures say.
func (v verdict) String() string {
	switch {
	case v.costsMore():
		return fmt.Sprintf("COSTS MORE than %.0f %%", 100*allowed)
	case v.ratio.median-1+v.margin <= allowed:
		return fmt.Sprintf("costs at most %.0f %%", 100*allowed)
	}
	return fmt.Sprintf("cannot be told: the noise is ± %.1f %%; run more PAIRS, on a quiet machine", 100*v.margin)
}

// table has a line for each scenario.
func table(all []pairs) string {
	var b strings.Builder
	b.WriteString("| scenario | pairs | base, CPU µs an event | change, CPU µs an event | change / base | base / base | noise | verdict |\n|---|---|---|---|---|---|---|---|\n")
	for _, p := range all {
		v := p.verdict()
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | ± %.1f %% | %s |\n", p.scenario, len(p.base), micros(p.base), micros(p.changed), v.ratio, v.noise, 100*v.margin, v)
	}
	return b.String()
}

func micros(values []float64) string {
	s := spreadOf(values)
	return fmt.Sprintf("%.1f (%.1f – %.1f)", s.median, s.low, s.high)
}
