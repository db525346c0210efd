package dev

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/sluice-project/sluice/runtime/handler"
)

// lines is a slog.Handler that writes what a worker warns of as readable lines, with what to do about it.
type lines struct {
	printer *printer
}

// Enabled implements slog.Handler.
func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// WithAttrs implements slog.Handler. A worker's constant attributes tell a developer nothing.
func (l *lines) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *lines) WithGroup(string) slog.Handler { return l }

// advices by the reason that the worker gives.
var advices = map[string]string{
	"StatementInvalid": "correct the statement and save",
	"SyntaxError":      "correct the statement and save",
	"SetupFailed":      "correct the setup and save",
	"TableMissing":     "make the table in the handler's setup, or correct its name, and save",
	"ColumnMissing":    "correct the column's name, or --reset where the setup has changed the table",
}

// Handle implements slog.Handler. Errors of a group go where the batches do. Those of a segment are
// left out, since the lines of batches tell of them, except for one: that an event ends its calls
// is known to the next owner only.
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	values := map[string]string{}
	var rest strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		values[a.Key] = a.Value.String()
		if err, ok := a.Value.Any().(error); ok {
			values[a.Key] = explained(err)
		}
		fmt.Fprintf(&rest, " %s=%v", a.Key, a.Value)
		return true
	})
	group, segment, reason := values["group"], values["segment"], values["reason"]
	switch fails := r.Level >= slog.LevelError; {
	case group == "" || !fails && reason == "": // what is not about a failure of a group
	case reason == handler.ReasonUnended:
		l.printer.fault(group+"/"+segment, fmt.Sprintf("%s: the event at position %s fails, its segment waits: %s\ncorrect the handler; it is tried again until it succeeds",
			reason, values["position"], values["error"]))
		return nil
	case segment != "":
		return nil
	case fails:
		l.printer.fault(group, groupFault(r.Message, reason, values["error"]))
		return nil
	}
	line := r.Message + rest.String()
	if r.Level >= slog.LevelError {
		line = l.printer.paint(red, line)
	}
	l.printer.mu.Lock()
	defer l.printer.mu.Unlock()
	_, err := fmt.Fprintln(l.printer.log, line)
	return err
}

func groupFault(message, reason, err string) string {
	text := fmt.Sprintf("%s: %s: %s", reason, message, err)
	if advice := advices[reason]; advice != "" {
		text += "\n" + advice
	}
	return text
}
