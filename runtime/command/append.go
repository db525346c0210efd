package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/eventfile"
)

// appendFlags say what is appended.
type appendFlags struct {
	database                 databaseFlags
	metadata, expected, file string
}

// Append is the command that appends events.
func Append() *cobra.Command {
	var f appendFlags
	cmd := &cobra.Command{
		Use:   "append STREAM TYPE [DATA]",
		Short: "Append an event to a stream, or the events of a file",
		Long: "Append an event to a stream, or all events of a file or none, and print each stream's new version.\n" +
			`A file has one event a line: {"stream": "order-1", "type": "OrderPlaced", "data": {"total": 12}, "metadata": {}}` + "\n\n" +
			"If the processor's events are in a database of their own (spec.source.postgres), name that one by --source-url. Of the\n" +
			"sluice dev that runs in this folder it is known.",
		Example: `  sluice append order-1 OrderPlaced '{"total": 12}' --expected-version none` + "\n  sluice append --file events.jsonl",
		Args:    func(_ *cobra.Command, args []string) error { return f.checkArguments(args) },
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.database.add(cmd)
	f.database.addSource(cmd, "the database with the events, if it is not the store's; it goes before --database-url")
	cmd.Flags().StringVar(&f.metadata, "metadata", "", "the event's metadata, as JSON")
	cmd.Flags().StringVar(&f.expected, "expected-version", "any", "version that the stream must have: a number, none for a stream without events, or any")
	cmd.Flags().StringVar(&f.file, "file", "", "file with events as JSON lines; - for standard input")
	return cmd
}

func (f *appendFlags) checkArguments(args []string) error {
	switch {
	case f.file != "" && len(args) > 0:
		return &usageError{errors.New("give either --file or STREAM TYPE [DATA]")}
	case f.file != "" && (f.metadata != "" || f.expected != "any"):
		return &usageError{errors.New("--metadata and --expected-version are for one event: with --file, write metadata into the lines")}
	case f.file == "" && (len(args) < 2 || len(args) > 3):
		return &usageError{fmt.Errorf("expected STREAM TYPE [DATA], got %d arguments: put quotes around DATA", len(args))}
	}
	for _, text := range append(args, f.metadata) {
		if !utf8.ValidString(text) {
			return &usageError{fmt.Errorf("%q is no UTF-8: use a terminal with UTF-8, or --file", text)}
		}
	}
	return nil
}

func (f *appendFlags) run(cmd *cobra.Command, args []string) error {
	events, expected, err := f.events(cmd.InOrStdin(), args)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	pool, err := f.database.openEvents(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	log := eventspostgres.NewLog(pool, f.database.schema)
	var reached []eventfile.Reached
	if f.file != "" {
		reached, err = appendAll(ctx, pool, log, events)
	} else {
		reached = []eventfile.Reached{{Stream: args[0]}}
		reached[0].Version, err = log.Append(ctx, args[0], expected, events[0].NewEvent)
	}
	if err != nil {
		return err
	}
	for _, r := range reached {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %d\n", r.Stream, int64(r.Version))
	}
	return log.Close()
}

// events are those to append; the expected version is that of the one stream that arguments name.
func (f *appendFlags) events(input io.Reader, args []string) ([]eventfile.Event, eventspostgres.Version, error) {
	if f.file != "" {
		events, err := readEvents(f.file, input)
		return events, eventspostgres.Any, err
	}
	expected, err := parseVersion(f.expected)
	if err != nil {
		return nil, 0, err
	}
	event := eventfile.Event{Stream: args[0], NewEvent: eventspostgres.NewEvent{Type: args[1]}}
	if len(args) == 3 {
		if event.Data, err = parseJSON("DATA", args[2]); err != nil {
			return nil, 0, err
		}
	}
	if f.metadata != "" {
		if event.Metadata, err = parseJSON("--metadata", f.metadata); err != nil {
			return nil, 0, err
		}
	}
	return []eventfile.Event{event}, expected, nil
}

func readEvents(name string, input io.Reader) ([]eventfile.Event, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("opening the events: %w", err)
		}
		defer file.Close()
		input = file
	}
	events, err := eventfile.Read(input)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return events, nil
}

func parseJSON(what, text string) (any, error) {
	if !json.Valid([]byte(text)) {
		return nil, &usageError{fmt.Errorf(`%s is not JSON: %s; write for example '{"total": 12}', in quotes`, what, text)}
	}
	return json.RawMessage(text), nil
}

func parseVersion(text string) (eventspostgres.Version, error) {
	switch text {
	case "any":
		return eventspostgres.Any, nil
	case "none":
		return eventspostgres.NoStream, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, &usageError{fmt.Errorf("--expected-version is %q: choose a number from 0, none or any", text)}
	}
	return eventspostgres.Exactly(n), nil
}

// appendAll appends all events or none.
func appendAll(ctx context.Context, pool *pgxpool.Pool, log *eventspostgres.Log, events []eventfile.Event) (reached []eventfile.Reached, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		reached, err = eventfile.Append(ctx, log, tx, events)
		return err
	})
	if err == nil {
		log.Notify()
	}
	return reached, err
}
