package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// Processor is one that a bench declares as the operator would, and whose worker it runs in its own process.
type Processor struct {
	Name     string // a DNS label; group names of a database are not used by two processors at once
	Groups   string // the YAML of spec.processingGroups
	Replicas int    // 1 where it is 0
	Handlers map[string]handler.Handler
	OnBatch  func(worker.Batch) // may be nil; called by several goroutines
	URL      string             // of the database, which the worker connects to
	DB       *pgxpool.Pool      // of the same database, for what the operator does
}

func (p *Processor) key() string { return "bench/default/" + p.Name }

func (p *Processor) spec() (definition.Spec, error) {
	document, err := definition.ParseYAML([]byte("apiVersion: sluice.dev/v1alpha1\nkind: EventProcessor\nmetadata: {name: " + p.Name + "}\nspec:\n" +
		"  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}\n  processingGroups:\n" + p.Groups))
	return document.Spec, err
}

// Declare makes the processor and its tokens, which start at a place.
func (p *Processor) Declare(ctx context.Context, at progress.StartPosition) error {
	spec, err := p.spec()
	if err != nil {
		return fmt.Errorf("the processor %s: %w", p.Name, err)
	}
	source := eventspostgres.NewSource(p.DB, Schema)
	declared := declare.Processor{Owner: tokenstore.Owner{Processor: p.key()}, Spec: spec, Definition: spec.Definition().ID(), Live: spec.Live(1), Replicas: max(p.Replicas, 1)}
	return declare.Write(ctx, postgres.NewStore(p.DB, Schema), postgres.NewDirectory(p.DB, Schema), declared,
		func(string, progress.StartPosition) (progress.Progress, error) { return source.Start(ctx, at) })
}

// Plan does the operator's planning, by connections of another pool, until the context ends.
func (p *Processor) Plan(ctx context.Context, db *pgxpool.Pool) error {
	operator := planner.Planner{Directory: postgres.NewDirectory(db, Schema), Store: postgres.NewStore(db, Schema), Processor: p.key(), Name: "operator/bench"}
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		if renewed, err := operator.Renew(ctx, 10*time.Second); !renewed && err == nil {
			_, err = operator.Step(ctx)
			if err != nil && !errors.Is(err, tokenstore.ErrPlanOutdated) && ctx.Err() == nil {
				return fmt.Errorf("planning in place of the operator: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
	}
}

// Run runs a worker of the processor until the context ends, and then lets it drain.
func (p *Processor) Run(ctx context.Context, pod string) error {
	spec, err := p.spec()
	if err != nil {
		return err
	}
	target, err := access.FromURL(p.URL)
	if err != nil {
		return err
	}
	def := spec.Definition()
	return worker.New(worker.Options{Processor: p.key(), Pod: pod, Definition: def, DefinitionID: def.ID(), Handlers: p.Handlers,
		Backend: backend.Postgres{Target: target, Schema: Schema}, Version: "bench", OnBatch: p.OnBatch, DrainTimeout: 1, // nobody is there to take its segments
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("processor", p.Name)}).Run(ctx)
}

// Drop takes the processor and its tokens away again.
func (p *Processor) Drop(ctx context.Context) error {
	return errors.Join(postgres.NewStore(p.DB, Schema).Drop(ctx, tokenstore.Owner{Processor: p.key()}), postgres.NewDirectory(p.DB, Schema).RemoveProcessor(ctx, tokenstore.Owner{Processor: p.key()}))
}
