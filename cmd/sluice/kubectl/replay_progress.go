package kubectl

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// followEvery is the time between two looks at a Replay.
const followEvery = 300 * time.Millisecond

// follow shows a replay's progress until it has ended; an error says that it did not complete, or that one which was just asked
// for had run before. When the context ends it leaves the replay running.
func (c *cluster) follow(ctx context.Context, out io.Writer, name string, asked bool) error {
	bar := newBar(out)
	id := name[strings.LastIndexByte(name, '.')+1:]
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for {
		var replay v1alpha1.Replay
		err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, &replay)
		switch {
		case ctx.Err() != nil:
			bar.end()
			fmt.Fprintf(out, "the replay goes on; follow it again with --follow --id %s, or stop it by its spec.desiredState\n", id)
			return nil
		case apierrors.IsNotFound(err):
			bar.end()
			return fmt.Errorf("Replay %s was deleted; if it had been reset, it goes on", name)
		case err != nil:
			bar.end()
			return fmt.Errorf("looking at Replay %s: %w", name, err)
		}
		bar.show(progressLine(&replay, time.Now()))
		if over, err := verdict(&replay, asked); over {
			bar.end()
			return err
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// verdict reports whether a replay has ended or been refused, with an error unless it is complete. One that was asked for just now
// is to have run now.
func verdict(replay *v1alpha1.Replay, asked bool) (over bool, err error) {
	is := func(kind string, status metav1.ConditionStatus) *metav1.Condition {
		if c := meta.FindStatusCondition(replay.Status.Conditions, kind); c != nil && c.Status == status {
			return c
		}
		return nil
	}
	if replay.Status.ObservedGeneration < replay.Generation {
		return false, nil
	}
	if c := is(v1alpha1.ConditionComplete, metav1.ConditionTrue); c != nil {
		if asked && c.Reason == v1alpha1.ReasonAlreadyRun {
			return true, fmt.Errorf("replay %s has not run now, because its id had run before: %s; ask again with another --id", replay.ID(), c.Message)
		}
		return true, nil
	}
	if c := is(v1alpha1.ConditionFailed, metav1.ConditionTrue); c != nil {
		return true, fmt.Errorf("replay %s has failed (%s): %s", replay.ID(), c.Reason, c.Message)
	}
	if c := is(v1alpha1.ConditionAccepted, metav1.ConditionFalse); c != nil {
		return true, fmt.Errorf("replay %s is not accepted (%s): %s; it is looked at again when the processor changes: delete Replay %s if it is not to run then",
			replay.ID(), c.Reason, c.Message, replay.Name)
	}
	return false, nil
}

const barWidth = 30

// progressLine is one line about a replay.
func progressLine(replay *v1alpha1.Replay, now time.Time) string {
	s := replay.Status
	complete := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionComplete)
	switch {
	case complete == nil:
		return "waiting for the operator"
	case s.Progress == nil, complete.Reason == v1alpha1.ReasonAlreadyRun, complete.Reason == v1alpha1.ReasonProcessorNotFound:
		return fmt.Sprintf("%s: %s", complete.Reason, complete.Message)
	}
	percent := int(*s.Progress)
	done := percent * barWidth / 100
	line := fmt.Sprintf("[%s%s] %3d %%  %d of %d events", strings.Repeat("#", done), strings.Repeat("-", barWidth-done), percent, s.Events.Handled, s.Events.Total)
	switch {
	case s.CompletedAt != nil && s.ResetAt != nil:
		line += fmt.Sprintf(" in %s: %s", duration.HumanDuration(s.CompletedAt.Sub(s.ResetAt.Time)), complete.Reason)
	case s.ETA != nil:
		line += fmt.Sprintf(", about %s left", duration.HumanDuration(max(s.ETA.Sub(now), 0)))
	}
	return line
}

// bar shows a line that changes: on a terminal in its place, else again when it has changed.
type bar struct {
	out      io.Writer
	terminal bool
	last     string
}

func newBar(out io.Writer) *bar {
	file, ok := out.(*os.File)
	return &bar{out: out, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

func (b *bar) show(line string) {
	if line == b.last {
		return
	}
	b.last = line
	if b.terminal {
		fmt.Fprintf(b.out, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(b.out, line)
}

// end leaves the line as it is.
func (b *bar) end() {
	if b.terminal && b.last != "" {
		fmt.Fprintln(b.out)
	}
}
