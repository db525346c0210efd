package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// figure is something measured in several runs.
type figure struct {
	name, unit string
	goal       float64 // 0 for none
	atLeast    bool    // the goal is the least that is good, and not the most
	runs       []float64
}

// summary is the table at the end.
type summary struct {
	settings string
	figures  []*figure
}

// add enters what a run has measured, and tells of it at once.
func (s *summary) add(name, unit string, goal float64, atLeast bool, value float64) {
	i := slices.IndexFunc(s.figures, func(f *figure) bool { return f.name == name })
	if i < 0 {
		i = len(s.figures)
		s.figures = append(s.figures, &figure{name: name, unit: unit, goal: goal, atLeast: atLeast})
	}
	s.figures[i].runs = append(s.figures[i].runs, value)
	fmt.Fprintf(os.Stderr, "  %s: %s\n", name, s.figures[i].text(value))
}

// seconds enters a time, with the longest that is good, or 0.
func (s *summary) seconds(name string, goal, value float64) { s.add(name, "s", goal, false, value) }

func (s *summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n\n| figure | goal | runs | median | spread |\n|---|---|---|---|---|\n", s.settings)
	for _, f := range s.figures {
		goal := ""
		if f.goal > 0 {
			goal = map[bool]string{true: "over ", false: "under "}[f.atLeast] + f.text(f.goal)
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s to %s |\n", f.name, goal, len(f.runs), f.text(f.median()), f.text(slices.Min(f.runs)), f.text(slices.Max(f.runs)))
	}
	return b.String()
}

func (f *figure) text(value float64) string {
	if f.unit == "s" && value < 1 {
		return fmt.Sprintf("%.0f ms", 1000*value)
	}
	return fmt.Sprintf("%.4g %s", value, f.unit)
}

// median of the runs; of an even number the mean of the two in the middle.
func (f *figure) median() float64 {
	sorted := slices.Sorted(slices.Values(f.runs))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// missed returns an error that names what is off its goal by half or more: of a share, what is left to the whole counts.
func (s *summary) missed() error {
	var all []error
	for _, f := range s.figures {
		median := f.median()
		grossly := f.goal > 0 && median > 1.5*f.goal
		if f.atLeast {
			grossly = 100-median > 1.5*(100-f.goal)
		}
		if grossly {
			all = append(all, fmt.Errorf("%s: the median %s is far from the goal, %s", f.name, f.text(median), f.text(f.goal)))
		}
	}
	return errors.Join(all...)
}
