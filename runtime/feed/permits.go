package feed

import (
	"context"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

const (
	permitTime   = time.Second            // for which a permit is held at most, while others may wait
	permitIdle   = 20 * time.Millisecond  // without a read, after which a permit is released
	permitAgain  = 50 * time.Millisecond  // between two attempts to acquire one, on average, at first
	permitAtMost = 400 * time.Millisecond // the same in the end
	permitKept   = 10 * time.Second       // without use, after which the connection is closed
)

// permit says whether the feed holds a backlog permit. It is under the feed's lock.
type permit struct {
	needed bool // false: backlogs are read without
	held   bool
	used   time.Time     // when a read by it began or ended last
	wanted chan struct{} // somebody waits for one
}

// mayReadBacklog reports whether the feed holds a permit, and asks for one if it does not. The
// caller holds the lock.
func (f *Feed) mayReadBacklog() bool {
	if !f.permit.needed || f.permit.held {
		return true
	}
	select {
	case f.permit.wanted <- struct{}{}:
	default:
	}
	return false
}

// acquirePermits acquires permits when they are wanted, until the context ends.
func (f *Feed) acquirePermits(ctx context.Context) {
	permits := f.options.Permits
	defer func() {
		if err := permits.Close(); err != nil {
			f.log.Warn("a backlog permit was not released; the store will take it back", "error", err)
		}
	}()
	idle := time.NewTimer(permitKept)
	defer idle.Stop()
	for {
		idle.Reset(permitKept)
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			if err := permits.Close(); err != nil {
				f.log.Warn("closing the connection for backlog permits", "error", err)
			}
		case <-f.permit.wanted:
			f.acquirePermit(ctx, permits)
		}
	}
}

// acquirePermit waits for a permit while somebody wants one, and has it used.
func (f *Feed) acquirePermit(ctx context.Context, permits tokenstore.Permits) {
	for wait := permitAgain; ctx.Err() == nil; wait = min(2*wait, permitAtMost) {
		f.lookForTail(ctx)
		if !f.backlogWaits() {
			return
		}
		got, err := permits.Acquire(ctx)
		if err != nil && ctx.Err() == nil {
			// Reading a backlog must not depend on this: where the database does not answer, reads fail too.
			f.log.Warn("cannot acquire a backlog permit; reading without one", "error", err)
		}
		if got || err != nil {
			f.usePermit(ctx)
			if got {
				f.releasePermit(ctx, permits)
			}
			return
		}
		pause(ctx, wait/2+time.Duration(f.options.Random()*float64(wait)))
	}
}

// lookForTail finds out who is near the tail, and therefore needs no permit.
func (f *Feed) lookForTail(ctx context.Context) {
	head, err := f.source.Head(ctx)
	if err != nil {
		return // reads will tell
	}
	f.mu.Lock()
	f.sawTail(head)
	f.mu.Unlock()
	f.signal()
}

// backlogWaits reports whether a member that is not near the tail is to be read for.
func (f *Feed) backlogWaits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.wanting() {
		if !f.isNearTail(m) && f.roomFor(m) {
			return true
		}
	}
	return false
}

// usePermit lets backlogs be read until the permit's time is over, or nothing has been read for a
// while.
func (f *Feed) usePermit(ctx context.Context) {
	began := time.Now()
	f.setPermit(true)
	f.signal()
	for ctx.Err() == nil && time.Since(began) < permitTime {
		f.mu.Lock()
		rests := f.behind == 0 && time.Since(f.permit.used) > permitIdle
		f.mu.Unlock()
		if rests {
			break
		}
		pause(ctx, permitIdle/2)
	}
	f.setPermit(false)
	f.signal() // whoever waits asks for the next one
}

func (f *Feed) setPermit(held bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.permit.held, f.permit.used = held, time.Now()
}

func (f *Feed) releasePermit(ctx context.Context, permits tokenstore.Permits) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := permits.Release(ctx); err != nil {
		f.log.Warn("a backlog permit was not released; the store will take it back", "error", err)
	}
}

// pause waits, or less when the context ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
