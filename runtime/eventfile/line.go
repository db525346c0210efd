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
	"regexp"
	"slices"
	"unicode/utf8"

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

// nulEscape finds the character U+0000, which JSON can only have as an escape, and whose backslash
// is not escaped itself.
var nulEscape = regexp.MustCompile(`(^|[^\\])(\\\\)*\\u0000`)

// parseLine reads one line; blank lines have no event. Its error is a *LineError.
func parseLine(number int, text []byte) (event Event, blank bool, err error) {
	if number == 1 { // editors mark files as UTF-8
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return Event{}, true, nil
	}
	if problem := encodingOf(number, text); problem != "" {
		return Event{}, false, &LineError{number, problem}
	}
	event, err = parseEvent(number, text)
	return event, false, err
}

// encodingOf says what is wrong with a text that is no UTF-8. The JSON decoder would put other
// characters into it.
func encodingOf(number int, text []byte) string {
	if number == 1 && (bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff})) {
		return "the file is UTF-16: write it as UTF-8, for example with iconv -f UTF-16 -t UTF-8"
	}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return fmt.Sprintf("byte %d is 0x%02X, which is no UTF-8: write the file as UTF-8, for example with iconv -f LATIN1 -t UTF-8", i+1, text[i])
		}
		i += size
	}
	return ""
}

func parseEvent(number int, text []byte) (Event, error) {
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
	case nulEscape.Match(text):
		return wrong(`it has \u0000, which PostgreSQL cannot store: remove it`)
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
		event, blank, err := parseLine(number, one)
		if err != nil {
			return nil, err
		}
		if !blank {
			events = append(events, event)
		}
	}
	return events, nil
}
