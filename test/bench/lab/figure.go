package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// FiguresFile names the environment variable with the file that benches append their figures to, one JSON object a line, so that
// several make one table. Nothing is written where it is not set.
const FiguresFile = "SLUICE_BENCH_FIGURES"

// Figure is something measured in each of several rounds, with what is asked of it.
type Figure struct {
	Work   string    `json:"work"`   // what was done
	Unit   string    `json:"unit"`   // what the number is
	Rounds []float64 `json:"rounds"` // at least one
	Goal   float64   `json:"goal"`   // for the median; 0 where nothing is asked
	AtMost bool      `json:"atMost"` // the goal is the most that is good, and not the least
	// Noisy figures depend on how busy the machine is. The short form does not judge them.
	Noisy bool `json:"noisy"`
	// Slack is the factor by which the goal may be missed in the short form; 0 in the full one, where it may not.
	Slack float64 `json:"slack"`
}

// Missed says whether the median is off the goal by more than a factor, 1 for any miss.
func (f Figure) Missed(slack float64) bool {
	median := Median(f.Rounds)
	if f.AtMost {
		return f.Goal > 0 && median > f.Goal*slack
	}
	return median < f.Goal/slack
}

// text writes a value of the figure, without its unit.
func text(value float64) string {
	switch {
	case value >= 1000:
		return fmt.Sprintf("%.0f", value)
	case value >= 20:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

// goal is what is asked of the figure.
func (f Figure) goal() string {
	switch {
	case f.Goal == 0:
		return "-"
	case f.AtMost:
		return "≤ " + text(f.Goal)
	}
	return "≥ " + text(f.Goal)
}

// verdict says whether the goal is reached. A short form cannot tell: it says what it judges.
func (f Figure) verdict() string {
	switch {
	case f.Goal == 0:
		return ""
	case f.Slack == 0 && f.Missed(1):
		return "missed"
	case f.Slack == 0:
		return "reached"
	case f.Noisy:
		return "not judged"
	case f.Missed(f.Slack):
		return "missed grossly"
	}
	return fmt.Sprintf("judged × %g", f.Slack)
}

// FiguresTable writes figures as a table, with median and spread of their rounds.
func FiguresTable(all []Figure) string {
	var b strings.Builder
	b.WriteString("| work | figure | goal | median | min – max | rounds | |\n|---|---|---|---|---|---|---|\n")
	for _, f := range all {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s – %s | %d | %s |\n", f.Work, f.Unit, f.goal(), text(Median(f.Rounds)), text(slices.Min(f.Rounds)),
			text(slices.Max(f.Rounds)), len(f.Rounds), f.verdict())
	}
	return b.String()
}

// Report prints a bench's figures and appends them to the file that the environment names. With a slack above 0 it fails where one
// that is not noisy is missed by more than this factor, or its own where it has one.
func Report(all []Figure, slack float64) error {
	for i := range all {
		if slack == 0 || all[i].Slack == 0 {
			all[i].Slack = slack
		}
	}
	fmt.Printf("\n%s", FiguresTable(all))
	err := appendFigures(all)
	for _, f := range all {
		if slack > 0 && !f.Noisy && f.Missed(f.Slack) {
			err = errors.Join(err, fmt.Errorf("%s, %s: the median %s misses the goal, %s, by more than a factor of %g", f.Work, f.Unit, text(Median(f.Rounds)), f.goal(), f.Slack))
		}
	}
	return err
}

func appendFigures(all []Figure) error {
	path := os.Getenv(FiguresFile)
	if path == "" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writing figures: %w", err)
	}
	encoder := json.NewEncoder(file)
	for _, f := range all {
		err = errors.Join(err, encoder.Encode(f))
	}
	return errors.Join(err, file.Close())
}
