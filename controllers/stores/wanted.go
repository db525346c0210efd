package stores

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/progress"
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

// processor is the directory's row.
func (w Wanted) processor(owner tokenstore.Owner) (tokenstore.Processor, error) {
	live, err := json.Marshal(w.Spec.Live(w.Generation))
	if err != nil {
		return tokenstore.Processor{}, fmt.Errorf("writing the live settings: %w", err)
	}
	return tokenstore.Processor{Name: owner.Processor, Definition: w.Definition, Replicas: int(*w.Spec.Replicas), Live: live,
		Installation: owner.Installation, TakeOverFrom: owner.TakeOverFrom}, nil
}

func (w Wanted) groups() []tokenstore.Group {
	groups := make([]tokenstore.Group, len(w.Spec.ProcessingGroups))
	for i, g := range w.Spec.ProcessingGroups {
		groups[i] = tokenstore.Group{Name: g.Name, Segments: int(g.Segments), Sequencing: g.Sequencing.Policy().String()}
	}
	return groups
}

// initial is where a group starts that has no tokens yet.
func (w Wanted) initial(group string) (progress.StartPosition, error) {
	for i, g := range w.Spec.ProcessingGroups {
		if g.Name == group {
			at := g.InitialPosition
			place, err := progress.ParseStartPosition(at.Type, at.Position, at.Timestamp)
			if err != nil {
				return place, fmt.Errorf("spec.processingGroups[%d].initialPosition.timestamp: %w", i, err)
			}
			return place, nil
		}
	}
	return progress.StartPosition{Type: progress.Earliest}, nil
}

// accepts reports whether the processor may use a store: it is the one that it belongs to, or the one that the spec names.
func (w Wanted) accepts(id string, elsewhere bool) bool {
	if expected := w.store().ExpectedStoreID; expected != "" {
		return id == expected
	}
	return !elsewhere && (w.StoreID == "" || w.StoreID == id)
}
