package handler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore"
)

// Kind makes the handlers of one type of definition.Handler. To add a kind, implement Kind, add it
// to [Builtin], and add its fields to the API.
type Kind interface {
	// Traits of the handler that a declaration asks for, over the events of a source. A worker
	// needs them before it has a connection.
	Traits(spec definition.Handler, events definition.Source) Traits
	// New makes the handler that a declaration asks for. An *UnregisteredError says that the program
	// does not have it.
	New(spec definition.Handler, env Env) (Handler, error)
}

// Traits are what a worker has to know of a handler before it has the handler.
type Traits struct {
	// Payload says that the handler needs the data and the metadata of its events. Pages leave them
	// out if no handler of a worker needs them.
	Payload bool
	// UserCode says that functions of the user's program handle the events. They may not heed their
	// context, and may end their goroutine.
	UserCode bool
	// Setup runs in the store, once for each definition, before the first segment is claimed.
	Setup Setup
}

// Setup is a handler's setup; the zero value is none.
type Setup struct {
	Field    string // of the declaration, for errors
	Commands string // in the store's language
}

// Env is what a worker's connection has for handlers.
type Env struct {
	Events Events
}

// Checker is a Handler that can have the store look at what it is going to send, without running
// it. What it returns names the field of the declaration.
type Checker interface {
	Check(ctx context.Context, tx tokenstore.Tx) error
}

// Kinds are the kinds of handlers that a program has, by the type of definition.Handler.
type Kinds map[string]Kind

// Builtin are Sluice's kinds. The functions of the user's program are those registered, by name.
func Builtin(registered map[string]Handler) Kinds {
	return Kinds{definition.HandlerSQL: sqlKind{}, definition.HandlerGo: goKind{registered}}
}

// New makes a handler by its kind.
func (k Kinds) New(spec definition.Handler, env Env) (Handler, error) {
	kind, there := k[spec.Type]
	if !there {
		return nil, k.unknown(spec)
	}
	return kind.New(spec, env)
}

// Traits of a handler by its kind; the zero value if there is no such kind, whose handlers are never
// called.
func (k Kinds) Traits(spec definition.Handler, events definition.Source) Traits {
	if kind, there := k[spec.Type]; there {
		return kind.Traits(spec, events)
	}
	return Traits{}
}

func (k Kinds) unknown(spec definition.Handler) error {
	return &UnregisteredError{fmt.Sprintf("this version has the handler types [%s], the spec asks for %s",
		strings.Join(slices.Sorted(maps.Keys(k)), ", "), spec.Type)}
}

// UnregisteredError says that the program does not have the handler that a declaration asks for.
type UnregisteredError struct{ Problem string }

func (e *UnregisteredError) Error() string { return e.Problem }

// sqlKind are statements that stand in the resource.
type sqlKind struct{}

func (sqlKind) Traits(spec definition.Handler, events definition.Source) Traits {
	return Traits{Payload: ByValue(events), Setup: Setup{Field: "handler.sql.setup", Commands: spec.SQL.Setup}}
}

func (sqlKind) New(spec definition.Handler, env Env) (Handler, error) {
	return NewSQL(*spec.SQL, env.Events), nil
}

// goKind are functions of the user's program.
type goKind struct{ registered map[string]Handler }

func (goKind) Traits(definition.Handler, definition.Source) Traits {
	return Traits{Payload: true, UserCode: true}
}

func (k goKind) New(spec definition.Handler, _ Env) (Handler, error) {
	if h := k.registered[spec.Go.Handler]; h != nil {
		return h, nil
	}
	return nil, &UnregisteredError{fmt.Sprintf("the image registers the handlers [%s], the spec asks for %s",
		strings.Join(slices.Sorted(maps.Keys(k.registered)), ", "), spec.Go.Handler)}
}
