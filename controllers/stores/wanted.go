package stores

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/tokenstore"
)

// Wanted is what a processor's spec asks of its store.
type Wanted struct {
	Namespace string
	// Name in the store: cluster/namespace/name.
	Name       string
	Generation int64
	Definition string
	Spec       definition.Spec
	// StoreID is the store that the processor belongs to; empty for one that has not met its store yet.
	StoreID string
	// Leaving are the pods that are to be removed, by name.
	Leaving []string
	// Replays that are asked for.
	Replays []tokenstore.ReplayRequest
	// Drop asks for the end of the processor's rows, and for nothing else.
	Drop bool
}

// store is the spec's, with defaults.
func (w Wanted) store() definition.Postgres { return *w.Spec.Store.Postgres }

// sessionKey is the same for processors that share a session.
type sessionKey struct{ namespace, store string }

func (w Wanted) sessionKey() sessionKey {
	store := w.store()
	store.ExpectedStoreID = ""
	data, err := json.Marshal(store)
	if err != nil {
		panic(fmt.Sprintf("stores: a store does not marshal: %v", err)) // plain strings and numbers do
	}
	return sessionKey{w.Namespace, string(data)}
}

// ownerOf is a processor as this operator declares its groups. It may take over what a former installation has under the same
// name.
func (o Options) ownerOf(w Wanted) tokenstore.Owner {
	owner := tokenstore.Owner{Processor: w.Name, Installation: o.Installation, TakeOverFrom: slices.Clone(w.Spec.TakeOverFrom)}
	for _, former := range o.FormerInstallations {
		owner.TakeOverFrom = append(owner.TakeOverFrom, tokenstore.Owner{Processor: w.Name, Installation: former}.String())
	}
	return owner
}

// declared is what is written to the store.
func (w Wanted) declared(owner tokenstore.Owner) declare.Processor {
	return declare.Processor{Owner: owner, Spec: w.Spec, Definition: w.Definition, Live: w.Spec.Live(w.Generation), Replicas: int(*w.Spec.Replicas), Replays: w.Replays}
}

func (w Wanted) groups() []tokenstore.Group { return declare.Groups(w.Spec) }

// accepts reports whether the processor may use a store: it is the one that it belongs to, or the one that the spec names.
func (w Wanted) accepts(id string, elsewhere bool) bool {
	if expected := w.store().ExpectedStoreID; expected != "" {
		return id == expected
	}
	return !elsewhere && (w.StoreID == "" || w.StoreID == id)
}
