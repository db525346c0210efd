// Package eventfile reads events from JSON lines: one event a line, as in
//
//	{"stream": "payment-1", "type": "PaymentCreated", "data": {"amount": "10.00"}}
//
// Nothing is skipped but blank lines: a line that is no event is an error that names the line and the field.
package eventfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

// Event is a line's event, for a stream.
type Event struct {
	Stream string
	postgres.NewEvent
}

// LineError says what is wrong with a line.
type LineError struct {
	Line int    // from 1
	Text string // names the field
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// line is an event as it is written.
type line struct {
	Stream   string          `json:"stream"`
	Type     string          `json:"type"`
	Data     json.RawMessage `json:"data"`
	Metadata json.RawMessage `json:"metadata"`
	ID       string          `json:"id"`
}

// ParseLine reads one line that is not blank. Its error is a *LineError.
func ParseLine(number int, text []byte) (Event, error) {
	wrong := func(format string, args ...any) (Event, error) {
		return Event{}, &LineError{number, fmt.Sprintf(format, args...)}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) {
			return wrong(`it is a JSON %s: write an object such as {"stream": "order-1", "type": "OrderPlaced", "data": {}}`, wrongType.Value)
		}
		return wrong("it is no JSON: %v", err)
	}
	known := []string{"stream", "type", "data", "metadata", "id"}
	for _, name := range sortedKeys(fields) {
		if !slices.Contains(known, name) {
			return wrong("field %q is not known: choose stream, type, data, metadata or id", name)
		}
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) {
			return wrong("field %q must be a string, not a %s", wrongType.Field, wrongType.Value)
		}
		return wrong("%v", err)
	}
	switch {
	case l.Stream == "":
		return wrong(`field "stream" is missing or empty: name the stream of the event`)
	case l.Type == "":
		return wrong(`field "type" is missing or empty: name the type of the event`)
	case l.ID != "" && new(pgtype.UUID).Scan(l.ID) != nil:
		return wrong(`field "id" is %q, which is no uuid: correct it, or remove it for a random one`, l.ID)
	}
	return Event{Stream: l.Stream, NewEvent: postgres.NewEvent{Type: l.Type, Data: orNothing(l.Data), Metadata: orNothing(l.Metadata), ID: l.ID}}, nil
}

func sortedKeys(fields map[string]json.RawMessage) []string {
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// orNothing keeps absent data from becoming a JSON that is empty.
func orNothing(data json.RawMessage) any {
	if len(data) == 0 {
		return nil
	}
	return data
}

// Read reads all events of a source of lines. The error of a line is a *LineError.
func Read(source io.Reader) ([]Event, error) {
	text, err := io.ReadAll(source)
	if err != nil {
		return nil, fmt.Errorf("reading events: %w", err)
	}
	var events []Event
	number := 0
	for one := range bytes.Lines(text) {
		number++
		if len(bytes.TrimSpace(one)) == 0 {
			continue
		}
		event, err := ParseLine(number, one)
		if err != nil {
			return nil, err
		}
		events = append(events, event)
	}
	return events, nil
}
