package postgres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

// step says that all events up to a position have been given that the snapshot sees.
type step struct {
	through  int64
	snapshot Snapshot
}

// coverage is a staircase of steps: positions rise and snapshots shrink from one to the next. No steps means that nothing
// has been given. Most of the time there is one step; there are more while late events are drained in several pages.
type coverage struct {
	table string // whose events these are, schema.table.column; empty for Sluice's own
	steps []step
}

// Covers reports whether the event has been given.
func (c *coverage) Covers(e *eventsource.Event) bool { return c.at(e.Position).Visible(e.Mark) }

// at returns the snapshot up to which events at the position have been given: that of the lowest step that reaches so
// far, as the steps above it see less.
func (c *coverage) at(position int64) Snapshot {
	for _, s := range c.steps {
		if s.through >= position {
			return s.snapshot
		}
	}
	return Snapshot{}
}

// Position is that of the highest step, 0 without any.
func (c *coverage) Position() int64 {
	if len(c.steps) == 0 {
		return 0
	}
	return c.steps[len(c.steps)-1].through
}

// Distance implements eventsource.Coverage.
func (c *coverage) Distance(to eventsource.Coverage) int64 { return max(to.Position()-c.Position(), 0) }

// with returns the coverage with a step added, without those steps that it makes superfluous.
func (c *coverage) with(s step) *coverage {
	if s.through <= 0 || c.at(s.through).Contains(s.snapshot) {
		return c
	}
	above := slices.IndexFunc(c.steps, func(t step) bool { return t.through > s.through })
	if above < 0 {
		above = len(c.steps)
	}
	steps := make([]step, 0, len(c.steps)+1)
	for _, below := range c.steps[:above] {
		if !s.snapshot.Contains(below.snapshot) {
			steps = append(steps, below)
		}
	}
	steps = append(steps, s)
	return &coverage{c.table, append(steps, c.steps[above:]...)}
}

// contained returns an error unless the snapshot sees all that was seen before, as later ones of one server do.
func (c *coverage) contained(snapshot Snapshot) error {
	for _, s := range c.steps {
		if !snapshot.Contains(s.snapshot) {
			return fmt.Errorf("%w: a transaction that had ended for the progress %s at position %d has not ended in this server's snapshot %s",
				ErrStoreChanged, s.snapshot, s.through, snapshot)
		}
	}
	return nil
}

// Progress writes the coverage as the position and the snapshot of the highest step, followed by " through@snapshot" for
// each lower one, from high to low. Before that stand the names of the table and of the position's column and a blank, where the table is not Sluice's own.
func (c *coverage) Progress() progress.Progress {
	if len(c.steps) == 0 {
		return progress.Progress{}
	}
	var b strings.Builder
	if c.table != "" {
		b.WriteString(c.table)
		b.WriteByte(' ')
	}
	for i, s := range slices.Backward(c.steps) {
		if i < len(c.steps)-1 {
			b.WriteByte(' ')
			b.WriteString(strconv.FormatInt(s.through, 10))
			b.WriteByte('@')
		}
		b.WriteString(s.snapshot.String())
	}
	return progress.Progress{Position: c.Position(), State: b.String()}
}

// parseProgress reads what Progress writes, and nothing else. The error says what is wrong.
func parseProgress(p progress.Progress) (*coverage, error) {
	if p.Position == 0 && p.State == "" {
		return &coverage{}, nil
	}
	if p.Position <= 0 {
		return nil, fmt.Errorf("progress: position %d with snapshot %q: only 0 without a snapshot and positions above 0 mean something", p.Position, p.State)
	}
	table, text := "", p.State
	if first, rest, _ := strings.Cut(text, " "); !strings.Contains(first, ":") {
		table, text = first, rest
	}
	var steps []step
	for i, text := range strings.Split(text, " ") {
		through := p.Position
		if i > 0 {
			number, rest, _ := strings.Cut(text, "@")
			var err error
			if through, err = parseThrough(number, steps[i-1].through); err != nil {
				return nil, fmt.Errorf("progress %q, step %q: %w", p.State, text, err)
			}
			text = rest
		}
		snapshot, err := ParseSnapshot(text)
		if err != nil {
			return nil, fmt.Errorf("progress at position %d: %w", p.Position, err)
		}
		if i > 0 && (!snapshot.Contains(steps[i-1].snapshot) || snapshot.Equal(steps[i-1].snapshot)) {
			return nil, fmt.Errorf("progress %q: the snapshot at %d does not see more than the one at %d", p.State, through, steps[i-1].through)
		}
		steps = append(steps, step{through, snapshot})
	}
	slices.Reverse(steps)
	return &coverage{table, steps}, nil
}

func parseThrough(text string, above int64) (int64, error) {
	through, err := strconv.ParseInt(text, 10, 64)
	if err != nil || through <= 0 || strconv.FormatInt(through, 10) != text {
		return 0, fmt.Errorf("want position@snapshot, and %q is not a position", text)
	}
	if through >= above {
		return 0, fmt.Errorf("position %d is not below the one before, %d", through, above)
	}
	return through, nil
}
