package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
)

// asked is a backend that tells what an incarnation needs, and connects none.
type asked chan worker.Needs

func (a asked) Join(_ context.Context, needs worker.Needs) (worker.Connection, tokenstore.Session, error) {
	select {
	case a <- needs:
	default: // a later incarnation
	}
	return nil, nil, errors.New("there is no server")
}

// TestPagesLeavePayloadOutIfNobodyNeedsIt has groups of one worker share its pages.
func TestPagesLeavePayloadOutIfNobodyNeedsIt(t *testing.T) {
	t.Parallel()
	sql := definition.Handler{Type: definition.HandlerSQL, SQL: &definition.SQLHandler{Statements: []definition.Statement{{Batch: "SELECT FROM events"}}}}
	function := definition.Handler{Type: definition.HandlerGo, Go: &definition.GoHandler{Handler: "view"}}
	byProperty := definition.Sequencing{Type: definition.ByProperty, Property: &definition.PropertySequencing{Path: "customer"}}
	here, elsewhere := definition.Source{Type: definition.SourceStore}, definition.Source{Type: definition.SourceStore, Postgres: &definition.SourcePostgres{}}
	table := &definition.Table{Name: "public.outbox"}
	for name, test := range map[string]struct {
		source  definition.Source
		groups  []definition.DefinedGroup
		without bool
	}{
		"SQL":                             {here, []definition.DefinedGroup{{Handler: sql}}, true},
		"SQL over a table":                {definition.Source{Type: definition.SourceTable, Table: table}, []definition.DefinedGroup{{Handler: sql}, {Handler: sql}}, true},
		"SQL in the order of a property":  {here, []definition.DefinedGroup{{Handler: sql, Sequencing: byProperty}}, false},
		"Go":                              {here, []definition.DefinedGroup{{Handler: function}}, false},
		"SQL and Go":                      {here, []definition.DefinedGroup{{Handler: sql}, {Handler: function}}, false},
		"SQL, events elsewhere":           {elsewhere, []definition.DefinedGroup{{Handler: sql}}, false},
		"SQL over a table elsewhere":      {definition.Source{Type: definition.SourceTable, Table: table, Postgres: &definition.SourcePostgres{}}, []definition.DefinedGroup{{Handler: sql}}, false},
		"SQL and Go, events elsewhere":    {elsewhere, []definition.DefinedGroup{{Handler: sql}, {Handler: function}}, false},
		"a handler of a type of tomorrow": {elsewhere, []definition.DefinedGroup{{Handler: definition.Handler{Type: "Wasm"}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backend := make(asked, 1)
			w := worker.New(worker.Options{Processor: "test/default/p", Definition: definition.Definition{Source: test.source, Groups: test.groups},
				Backend: backend, Log: slog.New(slog.DiscardHandler)})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.Run(ctx) }()
			if needs := <-backend; needs.WithoutPayload != test.without {
				t.Errorf("pages leave the payload out: %t, want %t", needs.WithoutPayload, test.without)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
