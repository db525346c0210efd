package postgres

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/progress"
)

// gapped is the coverage of a table whose rows do not tell their transaction: the set of the positions at which nothing is to be given any
// more, as their event was, or as there will never be one. What is missing below its highest position are gaps, which are looked at
// until they are filled or proved dead.
type gapped struct {
	table string // whose events these are, schema.table.column
	set   ranges
	// Not part of the progress:
	pace   pace   // of Reserved positions
	held   []link // by position: events at gaps that wait for those before them in their streams
	server string // that the last page came from, empty if all of it has been stored
}

// pace is how far gaps that may stay open for ever have been looked at.
type pace struct {
	looked time.Time // last at all of them
	old    int64     // gaps up to here were there then; those above are looked at by each read
}

// Covers reports whether the event has been given.
func (c *gapped) Covers(e *eventsource.Event) bool { return c.set.has(e.Position) }

// Position is the highest that is covered, 0 without any.
func (c *gapped) Position() int64 { return c.set.last() }

// Distance implements eventsource.Coverage.
func (c *gapped) Distance(to eventsource.Coverage) int64 { return max(to.Position()-c.Position(), 0) }

// gapsWord stands in a token between the names of the table and its column, and the runs.
const gapsWord = " gaps"

// Progress writes the coverage as its highest position and "schema.table.column gaps", followed by a blank and the runs of positions,
// where there are gaps; see writeRuns.
func (c *gapped) Progress() progress.Progress {
	if len(c.set) == 0 {
		return progress.Progress{}
	}
	text := c.table + gapsWord
	if runs := writeRuns(c.set); runs != "" {
		text += " " + runs
	}
	return progress.Progress{Position: c.Position(), State: text}
}

// parseGapped reads what Progress writes, and nothing else.
func parseGapped(p progress.Progress) (*gapped, error) {
	if p.Position == 0 && p.State == "" {
		return &gapped{}, nil
	}
	table, runs, ok := strings.Cut(p.State, gapsWord)
	if p.Position <= 0 || !ok || table == "" || strings.ContainsAny(table, " :") || runs != "" && runs[0] != ' ' {
		return nil, fmt.Errorf("progress at position %d: %q is none of a table without a column of transactions", p.Position, p.State)
	}
	set, err := parseRuns(p.Position, strings.TrimPrefix(runs, " "))
	if err != nil {
		return nil, fmt.Errorf("progress at position %d: %w", p.Position, err)
	}
	c := &gapped{table: table, set: set}
	if c.Progress() != p {
		return nil, fmt.Errorf("progress at position %d: %q is not written as it would be", p.Position, p.State)
	}
	return c, nil
}

const runDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// writeRuns writes the set from its highest position down: how many positions belong to it, how many below those do not, and so on in
// pairs. Below the last pair everything belongs to it, so a set without gaps is the empty text. A number is written in groups of five bits, the lowest
// first, a group a character; in all but the last one a sixth bit is set. Runs of up to 31 positions, which most are, take one character.
func writeRuns(set ranges) string {
	holes := set.holes()
	var text []byte
	number := func(n int64) {
		for ; n >= 32; n >>= 5 {
			text = append(text, runDigits[n&31|32])
		}
		text = append(text, runDigits[n])
	}
	above := set.last()
	for i := len(holes) - 1; i >= 0; i-- {
		number(above - holes[i].to)
		number(holes[i].to - holes[i].from + 1)
		above = holes[i].from - 1
	}
	return string(text)
}

// parseRuns reads what writeRuns wrote of a set with this highest position, and maybe some that it would not write.
func parseRuns(last int64, text string) (ranges, error) {
	var numbers []int64
	var n int64
	var shift uint
	for i := range len(text) {
		digit := strings.IndexByte(runDigits, text[i])
		if digit < 0 || shift > 60 {
			return nil, fmt.Errorf("runs %q: character %d is not one that could stand there", text, i+1)
		}
		n |= int64(digit&31) << shift
		if shift += 5; digit < 32 {
			numbers = append(numbers, n)
			n, shift = 0, 0
		}
	}
	if shift > 0 || len(numbers)%2 > 0 {
		return nil, fmt.Errorf("runs %q: the end is missing", text)
	}
	upTo := last
	var set ranges // from high to low
	for i := 0; i < len(numbers); i += 2 {
		given, gap := numbers[i], numbers[i+1]
		if given < 1 || gap < 1 || given > upTo || gap > upTo-given {
			return nil, fmt.Errorf("runs %q: runs of %d and %d positions do not fit below %d", text, given, gap, upTo)
		}
		set = append(set, span{upTo - given + 1, upTo})
		upTo -= given + gap
	}
	if upTo > 0 {
		set = append(set, span{1, upTo})
	}
	for i, j := 0, len(set)-1; i < j; i, j = i+1, j-1 {
		set[i], set[j] = set[j], set[i]
	}
	return set, nil
}
