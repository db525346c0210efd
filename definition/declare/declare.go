// Package declare writes what a spec declares to a store. The operator, `sluice dev` and tests all
// use it, so that a processor is declared in one way.
package declare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

// Processor is what is declared.
type Processor struct {
	Owner tokenstore.Owner
	Spec  definition.Spec
	// Definition is the ID of the spec's definition that workers are to run.
	Definition string
	// Live are the settings that take effect without a rollout. Workers take over those of a
	// generation that differs from the one that they have.
	Live definition.Live
	// Replicas is the number of pods that are planned for.
	Replicas int
	// Replays are all that are requested for the processor's groups.
	Replays []tokenstore.ReplayRequest
}

// Store is where the tokens and the replays are kept.
type Store interface {
	Declare(ctx context.Context, owner tokenstore.Owner, groups []tokenstore.Group, requested []tokenstore.ReplayRequest,
		start func(group string) (progress.Progress, error)) error
	RequestReplays(ctx context.Context, processor string, requests []tokenstore.ReplayRequest) error
}

// Directory is where the processor's workers look.
type Directory interface {
	DeclareProcessor(ctx context.Context, p tokenstore.Processor) error
}

// Start returns the progress of a token that starts at a position. It is called for groups that have
// no tokens yet.
type Start func(group string, at progress.StartPosition) (progress.Progress, error)

// Write declares a processor: its groups first, since they may be another processor's, then the row
// that workers see, then its replays. Each is a transaction of its own. After an error, call it
// again: what was written stays as it is.
//
// A *tokenstore.GroupConflictError says that nothing was changed. After a
// *tokenstore.SequencingChangedError the replays are requested all the same, since one of them may
// be what changes the sequencing.
func Write(ctx context.Context, store Store, directory Directory, p Processor, start Start) error {
	row, err := p.row()
	if err != nil {
		return err
	}
	starts, err := startPositions(p.Spec)
	if err != nil {
		return err
	}
	err = store.Declare(ctx, p.Owner, Groups(p.Spec), p.Replays, func(group string) (progress.Progress, error) { return start(group, starts[group]) })
	changed, is := errors.AsType[*tokenstore.SequencingChangedError](err)
	switch {
	case is:
		if err := store.RequestReplays(ctx, p.Owner.Processor, p.Replays); err != nil {
			return err
		}
		return changed
	case err != nil:
		return err
	}
	if err := directory.DeclareProcessor(ctx, row); err != nil {
		return err
	}
	return store.RequestReplays(ctx, p.Owner.Processor, p.Replays)
}

// Groups are a spec's groups as a store knows them.
func Groups(spec definition.Spec) []tokenstore.Group {
	groups := make([]tokenstore.Group, len(spec.ProcessingGroups))
	for i, g := range spec.ProcessingGroups {
		groups[i] = tokenstore.Group{Name: g.Name, Segments: int(g.Segments), Sequencing: g.Sequencing.Policy().String()}
	}
	return groups
}

// startPositions returns where the groups start, by name.
func startPositions(spec definition.Spec) (map[string]progress.StartPosition, error) {
	starts := map[string]progress.StartPosition{}
	for i, g := range spec.ProcessingGroups {
		at := g.InitialPosition
		start, err := progress.ParseStartPosition(at.Type, at.Position, at.Timestamp)
		if err != nil {
			return nil, fmt.Errorf("spec.processingGroups[%d].initialPosition.timestamp: %w", i, err)
		}
		starts[g.Name] = start
	}
	return starts, nil
}

// row is the directory's.
func (p Processor) row() (tokenstore.Processor, error) {
	live, err := json.Marshal(p.Live)
	if err != nil {
		return tokenstore.Processor{}, fmt.Errorf("writing the live settings: %w", err)
	}
	return tokenstore.Processor{Name: p.Owner.Processor, Definition: p.Definition, Replicas: p.Replicas, Live: live,
		Installation: p.Owner.Installation, TakeOverFrom: p.Owner.TakeOverFrom}, nil
}
