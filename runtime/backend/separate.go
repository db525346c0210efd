package backend

import (
	"context"
	"errors"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// sourceConnections is how many statements a worker sends at once to the database with the events,
// apart from pages: of what the control loop asks, of the watch for open writers, and one more.
const sourceConnections = 3

// sourceTarget is the way to the database with the events.
func (p Postgres) sourceTarget(declared definition.SourcePostgres) (Target, error) {
	if p.Source == nil {
		return nil, errors.New("spec.source.postgres: this program knows no way to another database than the store's")
	}
	return p.Source(declared)
}

// openSeparate opens the source in a database of its own. It waits for nothing there: a worker whose
// events cannot be read has to join all the same, to say so and to hand over.
func (c *connection) openSeparate(needs worker.Needs, from postgres.Options) {
	declared := needs.Definition.Source
	source := eventspostgres.OpenSeparate(c.elsewhere, declared.Postgres.Schema, declared)
	c.source = separate{source}
	c.events = handler.Events{ByValue: true, Table: declared.Table}
	pages := source
	if needs.WithoutPayload {
		pages = source.WithoutContents()
	}
	pages = pages.Through(c.reading).WithPageBytes(needs.PageBytes)
	if declared.Table != nil {
		c.pages = separate{pages}
		return
	}
	listening := &announced{separate: separate{pages}, options: from, channel: eventspostgres.Channel(declared.Postgres.Schema)}
	c.pages, c.close = listening, listening.Close
}

// separate is a source in a database of its own.
type separate struct{ *eventspostgres.Separate }

// Check implements eventsource.Checker. Each first read checks, and reports what is wrong: whoever
// looks after the store must not wait for another database.
func (separate) Check(context.Context) error { return nil }

// announced is a source that listens to what appends announce. One goroutine may wait at a time.
type announced struct {
	separate
	options postgres.Options
	channel string
	session *postgres.Session // nil while there is none
}

// Wait implements eventsource.Notifier.
func (a *announced) Wait(ctx context.Context) error {
	if a.session == nil {
		session, err := postgres.OpenSession(ctx, a.options, a.channel)
		if err != nil {
			return err
		}
		a.session = session
		return nil // what was announced before was not heard
	}
	_, _, err := a.session.Wait(ctx)
	if err != nil {
		err = errors.Join(err, a.Close())
	}
	return err
}

// Close ends the session.
func (a *announced) Close() error {
	if a.session == nil {
		return nil
	}
	session := a.session
	a.session = nil
	return session.Close()
}
