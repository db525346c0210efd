package postgres

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// NewEvent is an event to be appended.
type NewEvent struct {
	Type     string // not empty
	Data     any    // becomes JSON as json.Marshal makes it; {} for nil. Ready JSON is a json.RawMessage
	Metadata any    // the same
	ID       string // a uuid; a random one where empty
}

// encoded is an event as statements take it, and as JSON the database's function. Data and metadata are nil where they are {}.
type encoded struct {
	Type     string          `json:"type"`
	Data     json.RawMessage `json:"data,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	ID       pgtype.UUID     `json:"id"`
}

func encode(events []NewEvent) ([]encoded, error) {
	if len(events) == 0 {
		return nil, errors.New("there are no events to append")
	}
	all := make([]encoded, len(events))
	for i, e := range events {
		var err error
		if all[i], err = e.encode(); err != nil {
			return nil, fmt.Errorf("event %d of %d: %w", i+1, len(events), err)
		}
	}
	return all, nil
}

func (e *NewEvent) encode() (encoded, error) {
	if e.Type == "" {
		return encoded{}, errors.New("the field Type is empty")
	}
	// A random id is made here, since the server takes longer to make one.
	id := pgtype.UUID{Valid: true}
	if e.ID == "" {
		id.Bytes = uuid.New()
	} else if err := id.Scan(e.ID); err != nil {
		return encoded{}, fmt.Errorf("ID %q is not a uuid", e.ID)
	}
	data, err := document(e.Data)
	if err != nil {
		return encoded{}, fmt.Errorf("the field Data has to become JSON: %w", err)
	}
	metadata, err := document(e.Metadata)
	if err != nil {
		return encoded{}, fmt.Errorf("the field Metadata has to become JSON: %w", err)
	}
	return encoded{Type: e.Type, Data: data, Metadata: metadata, ID: id}, nil
}

// document makes JSON of what a caller gives as data or metadata; nothing of nil and null. What is JSON already is checked only, and not copied.
func document(value any) (json.RawMessage, error) {
	ready, ok := value.(json.RawMessage)
	switch {
	case value == nil || ok && ready == nil:
		return nil, nil
	case !ok || !json.Valid(ready): // json.Marshal says what is wrong
		var err error
		if ready, err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	if string(bytes.TrimSpace(ready)) == "null" {
		return nil, nil
	}
	return ready, nil
}

// orEmpty is a document, or {} for none.
func orEmpty(document json.RawMessage) string {
	if document == nil {
		return "{}"
	}
	return string(document)
}
