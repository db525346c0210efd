package eventfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

// Pipe appends the events of a stream of lines, such as standard input, each as it comes. It ends with the stream, or at
// the first line that is no event.
func Pipe(ctx context.Context, log *postgres.Log, source io.Reader, fed func(events int)) error {
	lines := bufio.NewReader(source)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading events: %w", err)
		}
		event, blank, wrong := parseLine(number, line)
		if wrong != nil {
			return wrong
		}
		if !blank {
			if _, failed := log.Append(ctx, event.Stream, postgres.Any, event.NewEvent); failed != nil {
				return fmt.Errorf("line %d: %w", number, failed)
			}
			fed(1)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
	}
}
