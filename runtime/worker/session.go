package worker

import (
	"context"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/tokenstore"
)

// sessionKeeper listens on the control connection, and makes another one when it is lost.
type sessionKeeper struct {
	*life
	session tokenstore.Session // nil while there is none
}

// run passes notifications on until the context ends.
func (k *sessionKeeper) run(ctx context.Context) {
	wait := backoff{initial: 20 * time.Millisecond, max: 320 * time.Millisecond}
	for ctx.Err() == nil {
		if k.session == nil {
			session, err := k.connection.Rejoin(ctx)
			if err != nil {
				sleep(ctx, k.jittered(wait.next()))
				continue
			}
			k.session = session
			wait.reset()
			k.look()
			k.feed.Wake() // what was announced meanwhile was not heard
		}
		signal, err := k.session.Next(ctx)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				k.log.Warn("lost the control connection; making another one", "error", err)
			}
			k.session.Close() // it is gone already
			k.session = nil
		case signal.Kind == tokenstore.EventsAppended:
			k.feed.Wake()
		case signal.Kind == tokenstore.LiveEvents:
			k.courtesy.heard(time.Now())
		case signal.Processor == "" || signal.Processor == k.options.Processor:
			k.look()
		}
	}
	if k.session != nil {
		if err := k.session.Close(); err != nil {
			k.log.Warn("closing the control connection", "error", err)
		}
	}
}

// listen has the feed look for new events whenever the source announces some, until the context
// ends. The feed looks by itself too: without announcements events come a little later.
func (l *life) listen(ctx context.Context, source eventsource.Notifier) {
	wait := backoff{initial: 100 * time.Millisecond, max: 5 * time.Second}
	for ctx.Err() == nil {
		err := source.Wait(ctx)
		if ctx.Err() != nil {
			return
		}
		l.feed.Wake()
		if err == nil {
			wait.reset()
			continue
		}
		if wait.last == 0 {
			l.log.Warn("new events are not announced; looking for them meanwhile", "error", err)
		}
		sleep(ctx, l.jittered(wait.next()))
	}
}
