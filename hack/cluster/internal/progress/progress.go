// Package progress tells the person at the terminal what is being done, how long it took, and asks before the machine
// is changed. It writes to standard error, so that standard output stays for what other programs read.
package progress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// ErrDeclined is returned by Confirm when the answer is not yes.
var ErrDeclined = errors.New("declined; nothing was changed (YES=1 answers yes)")

// Log writes the steps of one command.
type Log struct {
	Out io.Writer
	Now func() time.Time
}

// Stderr returns a Log on standard error and the wall clock.
func Stderr() *Log { return &Log{Out: os.Stderr, Now: time.Now} }

// Say writes one line.
func (l *Log) Say(format string, args ...any) {
	fmt.Fprintf(l.Out, format+"\n", args...)
}

// Step runs f and writes its name, then how it ended and after how long. The error of f comes back wrapped with the
// step's name.
func (l *Log) Step(name string, f func() error) error {
	start := l.Now()
	fmt.Fprintf(l.Out, "• %s\n", name)
	err := f()
	took := l.Now().Sub(start)
	if err != nil {
		fmt.Fprintf(l.Out, "  failed after %s\n", Seconds(took))
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(l.Out, "  done in %s\n", Seconds(took))
	return nil
}

// Seconds writes a duration the way a person reads it: "0.3 s", "2 min 5 s".
func Seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	return fmt.Sprintf("%d min %d s", int(d/time.Minute), int(d%time.Minute/time.Second))
}

// Confirm lists what is about to be done and, where in is a terminal and yes is not set, asks. Without a terminal there
// is nobody to ask, and it goes on.
func (l *Log) Confirm(plan []string, in *os.File, yes bool) error {
	if len(plan) == 0 {
		return nil
	}
	l.Say("This is going to:")
	for _, p := range plan {
		l.Say("  - %s", p)
	}
	if yes || !isTerminal(in) {
		return nil
	}
	fmt.Fprint(l.Out, "Go on? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if !isYes(answer) {
		return ErrDeclined
	}
	return nil
}

func isYes(answer string) bool {
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}
