package dev

import (
	"bytes"
	"log/slog"
	"testing"
)

// TestAFailureIsToldOnce has a worker log a failure of a segment, of which the line of its batch
// tells. Nothing else tells that an event ends its calls.
func TestAFailureIsToldOnce(t *testing.T) {
	for name, c := range map[string]struct {
		level slog.Level
		about []any
		want  string
	}{
		"an event that fails": {slog.LevelError, []any{"group", "totals", "segment", 3, "position", 7, "reason", "HandlerFailed", "error", "no"}, ""},
		"an unknown outcome":  {slog.LevelWarn, []any{"group", "totals", "segment", 3, "reason", "HandlerTimedOut", "error", "late"}, ""},
		"a call that did not end": {slog.LevelError, []any{"group", "totals", "segment", 3, "position", 7, "reason", "CallDidNotEnd", "error", "the connection was lost"},
			"totals/3             CallDidNotEnd: the event at position 7 fails, its segment waits: the connection was lost\n  correct the handler; it is tried again until it succeeds\n"},
		"a group that fails":   {slog.LevelError, []any{"group", "totals", "reason", "SetupFailed", "error", "no"}, "totals               SetupFailed: said: no\n  correct the setup and save\n"},
		"a warning of a group": {slog.LevelWarn, []any{"group", "totals"}, "said group=totals\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			slog.New(&lines{newPrinter(&out, &out, false)}).With("pod", "dev").Log(t.Context(), c.level, "said", c.about...)
			if got := out.String(); got != c.want {
				t.Errorf("it prints %q, want %q", got, c.want)
			}
		})
	}
}
