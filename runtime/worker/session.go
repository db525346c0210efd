package worker

import (
	"context"
	"time"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// sessionKeeper listens on the control connection, and makes another one when it is lost.
type sessionKeeper struct {
	*life
	session *postgres.Session
}

// run passes notifications on until the context ends.
func (k *sessionKeeper) run(ctx context.Context) {
	wait := backoff{initial: 20 * time.Millisecond, max: 320 * time.Millisecond}
	for ctx.Err() == nil {
		if k.session == nil {
			if err := k.reopen(ctx); err != nil {
				sleep(ctx, jittered(wait.next()))
				continue
			}
			wait.reset()
			k.look()
			k.feed.Wake() // what was announced meanwhile was not heard
		}
		channel, payload, err := k.session.Wait(ctx)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				k.log.Warn("lost the control connection; making another one", "error", err)
			}
			k.session.Close() // it is gone already
			k.session = nil
		case channel == eventspostgres.Channel(k.options.Schema):
			k.feed.Wake()
		case channel == postgres.LiveChannel(k.options.Schema):
			k.courtesy.heard(time.Now())
		case payload == "" || payload == k.options.Processor:
			k.look()
		}
	}
	if k.session != nil {
		if err := k.session.Close(); err != nil {
			k.log.Warn("closing the control connection", "error", err)
		}
	}
}

// reopen connects again and takes the lock back. The server may take a moment to let go of the old connection's.
func (k *sessionKeeper) reopen(ctx context.Context) error {
	wait := backoff{initial: 2 * time.Millisecond, max: 50 * time.Millisecond}
	session, err := k.openSession(ctx)
	if err != nil {
		return err
	}
	for k.self.SessionLock && ctx.Err() == nil {
		locked, err := session.Lock(ctx, k.options.Schema, k.self.Incarnation)
		if err != nil {
			session.Close() // it is of no use without the lock
			return err
		}
		if locked {
			break
		}
		sleep(ctx, wait.next())
	}
	k.session = session
	return nil
}
