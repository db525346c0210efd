package dev

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// printer writes whole lines, from any goroutine.
type printer struct {
	mu       sync.Mutex
	out, log io.Writer
	colour   bool
}

func newPrinter(out, log io.Writer, colour bool) *printer {
	return &printer{out: out, log: log, colour: colour}
}

const (
	red   = "\x1b[31m"
	faint = "\x1b[2m"
	plain = "\x1b[0m"
)

func (p *printer) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return colour + text + plain
}

func (p *printer) line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, text)
}

// note tells of what takes a while.
func (p *printer) note(text string) { p.line(p.paint(faint, text)) }

// tell says what has happened to something.
func (p *printer) tell(what, text string) { p.line(fmt.Sprintf("%-20s %s", what, text)) }

// fault says what is wrong with something, and what to do.
func (p *printer) fault(what, text string) {
	p.line(p.paint(red, fmt.Sprintf("%-20s %s", what, strings.ReplaceAll(text, "\n", "\n  "))))
}

func (p *printer) invalid(file string, err error) {
	p.fault("not taken over", fmt.Sprintf("%s: the last valid one goes on\n%v", file, err))
}

func (p *printer) fed(file string, events int) {
	p.note(fmt.Sprintf("%-20s %s from %s", "appended", counted(events, "event"), file))
}

func (p *printer) welcome(document definition.Document, db *database, source, schema, folder string) {
	from := "its data are kept in .sluice until --reset"
	if db.server == nil {
		from = "schema " + schema
	}
	url, psql := db.url, "'"+db.url+"'"
	if shown := withoutPassword(db.url); shown != db.url {
		url, psql = shown, fmt.Sprintf(`"$(cat %s)"`, urlFile(folder, storeURL))
	}
	if source != "" {
		url += "\nEvents (spec.source.postgres):\n  " + withoutPassword(source)
	}
	p.line(fmt.Sprintf(`%s runs. Database (%s):
  %s
Try, in another terminal of this folder:
  %s
  psql %s
`, document.Name, from, url, try(document.Spec), psql))
}

// withoutPassword is a URL that may be shown: terminals are recorded.
func withoutPassword(url string) string {
	if parsed, err := definition.ParseStoreURL(url); err == nil && parsed.Password != "" {
		return parsed.String()
	}
	return url
}

// batch writes one line for a batch that has committed, or for a fault that needs somebody.
func (p *printer) batch(b worker.Batch) {
	name := fmt.Sprintf("%s/%d", b.Group, b.Segment)
	if b.Segments > 1 { // that shared it
		name += fmt.Sprintf("+%d", b.Segments-1)
	}
	if b.Err == nil {
		p.tell(name, batchText(b))
		return
	}
	if text, worth := faultText(b); worth {
		p.fault(name, text)
	}
}

func batchText(b worker.Batch) string {
	text := fmt.Sprintf("%s → position %d   %s   lag %s", counted(b.Events, "event"), b.Position, rounded(b.Took), rounded(b.Lag))
	if b.Skipped > 0 {
		text += fmt.Sprintf("   (%d of other types)", b.Skipped)
	}
	return text
}

// faultText says what is wrong. Batches that were halved to find the event at fault, and those that lost a race, are not
// worth a line.
func faultText(b worker.Batch) (text string, worth bool) {
	if errors.Is(b.Err, tokenstore.ErrFenced) {
		return "", false
	}
	kind, reason := handler.Classify(b.Err, postgres.Errors{})
	what := explained(b.Err)
	inGo := inGoHandler(b.Err)
	switch kind {
	case tokenstore.EventFault:
		correct := "correct the handler and save"
		if inGo {
			correct = "correct the handler and start this program again"
		}
		var mapping *handler.MappingError
		if errors.As(b.Err, &mapping) {
			correct = "correct the row, the mapping or the handler, and save"
		}
		return fmt.Sprintf("%s: the event at position %d fails, its segment waits: %s\n%s; it is tried again until it succeeds", reason, b.Position, what, correct), b.Events == 1
	case tokenstore.DefinitionFault:
		if inGo {
			return fmt.Sprintf("%s: %s\ncorrect the handler and start this program again", reason, what), true
		}
		return fmt.Sprintf("%s: %s\ncorrect the statement, or the table it needs, and save", reason, what), true
	case tokenstore.ContentionFault:
		return "", false
	default:
		return fmt.Sprintf("%s: %s\nit is tried again", reason, what), true
	}
}

// inGoHandler reports whether the Go code of a handler failed: saving the manifest does not replace
// it.
func inGoHandler(err error) bool {
	_, is := errors.AsType[*handler.UserError](err)
	// Statements of SQL handlers that end the transaction are refused when they are prepared.
	return is || errors.Is(err, tokenstore.ErrManagedTransaction)
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// rounded keeps two digits or so.
func rounded(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < 10*time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return d.Round(time.Second).String()
}

// logger writes what the worker warns of to the log.
func (p *printer) logger() *slog.Logger {
	return slog.New(&lines{printer: p})
}
