package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// result of one run.
type result struct {
	pauses   []time.Duration // of each segment concerned
	baseline time.Duration   // 0 where there is none
	note     string
}

// figure is the longest pause.
func (r result) figure() time.Duration { return slices.Max(r.pauses) }

func (r result) String() string {
	text := fmt.Sprintf("%9s", ms(r.figure()))
	if n := len(r.pauses); n > 1 {
		text += fmt.Sprintf(" (%d segments, first %s, median %s)", n, ms(slices.Min(r.pauses)), ms(median(r.pauses)))
	}
	if r.baseline > 0 {
		text += ", baseline " + ms(r.baseline)
	}
	if r.note != "" {
		text += ", " + r.note
	}
	return text
}

// summary is the table at the end.
type summary struct{ rows []string }

func (s *summary) add(of scenario, results []result) {
	var figures, baselines []time.Duration
	for _, r := range results {
		figures = append(figures, r.figure())
		if r.baseline > 0 {
			baselines = append(baselines, r.baseline)
		}
	}
	base := "-"
	if len(baselines) > 0 {
		base = ms(median(baselines)) + " / " + ms(slices.Max(baselines))
	}
	s.rows = append(s.rows, fmt.Sprintf("| %s | %s | %d | %s | %s | %s |", of.name, of.goal, len(results), ms(median(figures)), ms(slices.Max(figures)), base))
}

func (s *summary) String() string {
	return "\n| scenario | goal (median) | runs | median | maximum | baseline (median / maximum) |\n|---|---|---|---|---|---|\n" + strings.Join(s.rows, "\n") + "\n"
}

// median of some durations; of an even number the mean of the two in the middle.
func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}
