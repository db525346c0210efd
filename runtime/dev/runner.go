package dev

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/api/rules"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// runner has at most one worker, of the definition that is current.
type runner struct {
	options Options
	db      *database
	printer *printer
	target  access.Target
	pool    *pgxpool.Pool
	schema  string
	source  *separateSource // nil if the events are in the store's database
	failed  chan error      // what ended a worker

	replays      *replays
	calls        calls
	installation string // the folder's ID

	current    manifest
	definition string // its id; empty while no worker runs
	drain      context.CancelFunc
	worker     sync.WaitGroup
}

// newRunner connects and brings the store up to date.
func newRunner(ctx context.Context, o Options, db *database, p *printer, m manifest) (*runner, error) {
	target, err := access.FromURL(db.url)
	if err != nil {
		return nil, fmt.Errorf("--database-url: %w", err)
	}
	r := &runner{options: o, db: db, printer: p, target: target, schema: schemaOf(m), failed: make(chan error, 1)}
	connection := postgres.Options{Target: target, Application: "sluice dev"}
	conn, err := postgres.Connect(ctx, connection)
	if err != nil {
		return nil, fmt.Errorf("connecting to the database: %w", err)
	}
	if err = access.CheckEncoding(ctx, conn); err == nil {
		_, err = postgres.Migrate(ctx, conn, r.schema)
	}
	if closed := conn.Close(ctx); err == nil {
		err = closed
	}
	if err != nil {
		return nil, err
	}
	if r.pool, err = postgres.Open(connection); err != nil {
		return nil, err
	}
	if declared := m.document.Spec.Source; declared.Postgres != nil {
		if r.source, err = openSource(o.SourceURL, declared); err != nil {
			r.pool.Close()
			return nil, err
		}
	}
	r.replays = &replays{printer: p, ledger: func(ctx context.Context) ([]tokenstore.Replay, error) {
		return postgres.NewStore(r.pool, r.schema).Replays(ctx, m.processor())
	}}
	return r, nil
}

func schemaOf(m manifest) string {
	if s := m.document.Spec.Store.Postgres; s != nil && s.Schema != "" {
		return s.Schema
	}
	return postgres.DefaultSchema
}

func (r *runner) close() {
	r.stop(endAtOnce)
	r.pool.Close()
	if r.source != nil {
		r.source.pool.Close()
	}
}

// take makes a manifest the current one. After an error the one before goes on.
func (r *runner) take(ctx context.Context, m manifest) error {
	before := r.current
	if before.text != nil && (m.document.Name != before.document.Name || schemaOf(m) != r.schema) {
		return fmt.Errorf("metadata.name and spec.store.postgres.schema do not change while sluice dev runs: start it again")
	}
	if err := r.sameSource(m.document.Spec.Source); err != nil {
		return err
	}
	if err := r.requireHandlers(m.document.Spec); err != nil {
		return err
	}
	if err := sameUnderItsID(before.document.Spec.Replay, m.document.Spec.Replay); err != nil {
		return err
	}
	requested := ""
	if m.document.Spec.Replay != nil {
		requested = m.document.Spec.Replay.ID
	}
	if err := r.replays.request(ctx, requested); err != nil {
		return err
	}
	def := m.document.Spec.Definition()
	if err := r.declare(ctx, m, def); err != nil {
		return err
	}
	r.current = m
	if def.ID() == r.definition {
		r.printer.tell("saved", "live settings are in effect, nothing was restarted")
		return nil
	}
	restarted := r.definition != ""
	r.stop("the new definition begins when it has ended")
	r.start(ctx, m.processor(), def)
	if restarted {
		r.printer.tell("saved", "a new definition handles what comes from here on; events handled before stay as they are (--reset begins anew)")
	}
	return nil
}

// sameUnderItsID holds what a replay asks for against what it asked for before: the API server does so in a cluster.
func sameUnderItsID(before, after *definition.Replay) error {
	if before == nil || after == nil || before.ID != after.ID {
		return nil
	}
	was, is := *before, *after
	was.Groups, is.Groups = slices.Sorted(slices.Values(was.Groups)), slices.Sorted(slices.Values(is.Groups))
	if !reflect.DeepEqual(was, is) {
		return fmt.Errorf("spec.replay: %s", rules.ReplayDeclared)
	}
	return nil
}

// processor is cluster/namespace/name.
func (m manifest) processor() string {
	namespace := m.document.Namespace
	if namespace == "" {
		namespace = "default"
	}
	return "dev/" + namespace + "/" + m.document.Name
}

// requireHandlers refuses groups whose Go handler this program does not have.
func (r *runner) requireHandlers(spec definition.Spec) error {
	for i, g := range spec.ProcessingGroups {
		if g.Handler.Type != definition.HandlerGo {
			continue
		}
		if _, there := r.options.Handlers[g.Handler.Go.Handler]; there {
			continue
		}
		if r.options.Handlers == nil {
			return fmt.Errorf("spec.processingGroups[%d].handler: group %s needs the Go handler %q, and this sluice has none: in the program that registers it with sluice.Main, run `go run . dev -f %s`",
				i, g.Name, g.Handler.Go.Handler, r.options.Manifest)
		}
		return fmt.Errorf("spec.processingGroups[%d].handler.go.handler: this program has not registered %q: add it to the sluice.Handlers of sluice.Main, or correct the name",
			i, g.Handler.Go.Handler)
	}
	return nil
}

// declare writes the processor and its groups to the store.
func (r *runner) declare(ctx context.Context, m manifest, def definition.Definition) error {
	source := r.openSource(m.document.Spec.Source)
	if err := source.Check(ctx); err != nil {
		return r.ofSource(err)
	}
	live := m.document.Spec.Live(time.Now().UnixNano())
	live.ErrorDetails = definition.DetailsShown // whoever runs this may see the data
	p := declare.Processor{Owner: tokenstore.Owner{Processor: m.processor(), Installation: r.installation, TakeOverFrom: m.document.Spec.TakeOverFrom},
		Spec: m.document.Spec, Definition: def.ID(), Live: live, Replicas: 1}
	replay, asked, err := declare.ReplayRequest(m.document.Spec)
	if err != nil {
		return err
	}
	if asked {
		if refusal := declare.RefuseReplay(m.document.Spec, replay.Groups); refusal != nil {
			return fmt.Errorf("spec.replay: %s", refusal.Message)
		}
		p.Replays = append(p.Replays, replay)
	}
	start := func(_ string, at progress.StartPosition) (progress.Progress, error) {
		from, err := source.Start(ctx, at)
		return from, r.ofSource(err)
	}
	return declare.Write(ctx, postgres.NewStore(r.pool, r.schema), postgres.NewDirectory(r.pool, r.schema), p, start)
}

// start runs a worker of a definition.
func (r *runner) start(ctx context.Context, processor string, def definition.Definition) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	w := worker.New(worker.Options{
		Processor: processor, Installation: r.installation, Pod: fmt.Sprintf("%s-%d", host, os.Getpid()), Definition: def, DefinitionID: def.ID(),
		Handlers: r.calls.watched(r.options.Handlers), Backend: backend.Postgres{Target: r.target, Source: r.sourceTarget, Schema: r.schema}, Version: r.options.Version,
		DrainTimeout: time.Millisecond, // there is nobody to hand over to
		OnBatch:      r.printer.batch, Log: r.printer.logger(),
	})
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.definition, r.drain = def.ID(), cancel
	r.worker.Go(func() {
		if err := w.Run(own); err != nil {
			select {
			case r.failed <- err:
			default:
			}
		}
	})
}

// When stop says what it waits for: after a while, and then again.
const (
	firstWait = time.Second
	nextWait  = 5 * time.Second
)

// stop ends the worker when its batches have ended. If that takes a while it says what it waits
// for, and then what follows.
func (r *runner) stop(then string) {
	if r.drain == nil {
		return
	}
	r.drain()
	ended := make(chan struct{})
	go func() { r.worker.Wait(); close(ended) }()
	timer := time.NewTimer(firstWait)
	defer timer.Stop()
	for waiting := true; waiting; {
		select {
		case <-ended:
			waiting = false
		case <-timer.C:
			r.printer.tell("waiting", fmt.Sprintf("for %s; %s", r.calls.String(), then))
			timer.Reset(nextWait)
		}
	}
	r.drain, r.definition = nil, ""
}
