package dev

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/definition"
)

// dataField finds fields of an event's data in SQL.
var dataField = regexp.MustCompile(`\bdata\s*->>\s*'(\w+)'`)

// try is how to give the processor an event that it handles.
func try(spec definition.Spec) string {
	eventType, data := example(spec)
	if t := spec.Source.Table; t != nil {
		return fmt.Sprintf("an event that is inserted as your application does: INSERT INTO %s (%s, %s, %s, ...) VALUES ('stream-1', '%s', '%s', ...)",
			t.Name, t.Columns.Stream, t.Columns.Type, t.Data.Column, eventType, data)
	}
	return fmt.Sprintf("sluice append stream-1 %s '%s'", eventType, data)
}

// example is an event that the first statement is for. Go handlers do not tell theirs.
func example(spec definition.Spec) (eventType, data string) {
	for _, g := range spec.ProcessingGroups {
		if g.Handler.SQL == nil {
			continue
		}
		s := g.Handler.SQL.Statements[0]
		var fields []string
		for _, found := range dataField.FindAllStringSubmatch(s.Batch+s.Each, -1) {
			if field := fmt.Sprintf("%q: 12", found[1]); !slices.Contains(fields, field) {
				fields = append(fields, field)
			}
		}
		return cmp.Or(strings.Join(s.EventTypes[:min(1, len(s.EventTypes))], ""), "TYPE"), "{" + strings.Join(fields, ", ") + "}"
	}
	return "TYPE", "{}"
}
