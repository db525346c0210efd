package definition

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
)

// Definition is what decides how handlers behave. It travels in an immutable ConfigMap, so that a change of it is a
// rollout.
//
// A field that is added later has to be left out of the JSON where it says what was true before, or every processor
// rolls out on the upgrade that brings it.
type Definition struct {
	Source   Source          `json:"source"`
	Groups   []DefinedGroup  `json:"groups"`             // sorted by name
	Template json.RawMessage `json:"template,omitempty"` // the pod template as it was given, canonical JSON
}

// DefinedGroup is a group's part of a definition. A Go handler has its name.
type DefinedGroup struct {
	Name            string          `json:"name"`
	Handler         Handler         `json:"handler"`
	InitialPosition InitialPosition `json:"initialPosition"`
	Sequencing      Sequencing      `json:"sequencing,omitzero"` // the zero value for streams by the default hash
}

// Definition returns the definition of a spec, which need not have its defaults. Specs that mean the same have the same:
// the order of groups and of event types does not count, nor does the spelling of the template.
func (s Spec) Definition() Definition {
	s.Default() // of the copy: it shares nothing with the caller's
	definition := Definition{Source: s.Source, Template: canonicalOrAsIs(s.Template)}
	for _, group := range s.ProcessingGroups {
		definition.Groups = append(definition.Groups,
			DefinedGroup{Name: group.Name, Handler: group.Handler.orZero(), InitialPosition: group.InitialPosition, Sequencing: group.Sequencing.orZero()})
	}
	return definition.sorted()
}

func (d Definition) sorted() Definition {
	d.Groups = slices.Clone(d.Groups)
	slices.SortFunc(d.Groups, func(a, b DefinedGroup) int { return cmp.Compare(a.Name, b.Name) })
	for i := range d.Groups {
		d.Groups[i].Handler = d.Groups[i].Handler.sorted()
	}
	return d
}

// orZero leaves out what was true before there was a choice, so that it leaves no trace in a definition.
func (h Handler) orZero() Handler {
	if h.Rows == RowsShared {
		h.Rows = ""
	}
	return h
}

func (h Handler) sorted() Handler {
	if h.SQL == nil {
		return h
	}
	sql := *h.SQL
	sql.Statements = slices.Clone(sql.Statements)
	for i := range sql.Statements {
		sql.Statements[i].EventTypes = slices.Sorted(slices.Values(sql.Statements[i].EventTypes))
	}
	h.SQL = &sql
	return h
}

// ID identifies the definition: the first 10 hex digits of the SHA-256 of its canonical JSON.
func (d Definition) ID() string {
	d = d.sorted()
	d.Template = canonicalOrAsIs(d.Template)
	data, err := json.Marshal(d)
	if err == nil {
		data, err = canonicalJSON(data)
	}
	if err != nil {
		panic(fmt.Sprintf("definition: a definition does not marshal: %v", err)) // the template is JSON by now
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:10]
}

// ParseDefinition reads a definition's JSON. Unknown fields are refused.
func ParseDefinition(data []byte) (Definition, error) {
	var definition Definition
	if err := decodeStrict(data, &definition); err != nil {
		return Definition{}, fmt.Errorf("reading a definition: %w", err)
	}
	c := &checker{}
	c.source("source", definition.Source)
	c.items("groups", len(definition.Groups), 1, 32)
	for i, group := range definition.Groups {
		at := fmt.Sprintf("groups[%d]", i)
		c.text(at+".name", group.Name, 63)
		c.handler(at+".handler", group.Handler)
		c.place(at+".initialPosition", group.InitialPosition)
		c.rows(at, group.Handler, group.Sequencing)
		if group.Sequencing != (Sequencing{}) {
			c.sequencing(at+".sequencing", group.Sequencing)
		}
	}
	if len(c.problems) > 0 {
		return Definition{}, fmt.Errorf("reading a definition: %w", &InvalidError{Problems: c.problems})
	}
	return definition, nil
}

// canonicalJSON is one spelling of a JSON value: keys sorted, no blanks, numbers as they were written.
func canonicalJSON(data []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// canonicalOrAsIs makes a template canonical. One that is no JSON, which Validate refuses, becomes a JSON string, so that
// it has an ID too.
func canonicalOrAsIs(template json.RawMessage) json.RawMessage {
	if len(template) == 0 || string(template) == "null" {
		return nil
	}
	if canonical, err := canonicalJSON(template); err == nil && json.Valid(template) {
		return canonical
	}
	quoted, err := json.Marshal(string(template))
	if err != nil {
		panic(fmt.Sprintf("definition: a string does not marshal: %v", err)) // strings always do
	}
	return quoted
}
