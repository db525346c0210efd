package feed

import (
	"context"
	"math/rand/v2"
	"time"
)

// Turns are what feeds of several pods share, so that not too many of them read a backlog from one
// store at a time. One goroutine of a feed uses them.
type Turns interface {
	// Take takes a turn where one is free; the feed has none.
	Take(ctx context.Context) (bool, error)
	// Give gives the turn back.
	Give(ctx context.Context) error
	// Close ends what is kept for the next turn.
	Close() error
}

const (
	turnTime   = time.Second            // the longest turn, while others may wait
	turnIdle   = 20 * time.Millisecond  // a turn is given back where nothing has been read by it for as long
	turnAgain  = 50 * time.Millisecond  // between two attempts to get one, on average, at first
	turnAtMost = 400 * time.Millisecond // the same in the end
	turnKept   = 10 * time.Second       // what is kept for the next turn is ended where none was wanted for as long
)

// turn says whether the feed has one. It is under the feed's lock.
type turn struct {
	needed bool // false: backlogs are read without
	held   bool
	used   time.Time     // when a read by it began or ended last
	wanted chan struct{} // somebody waits for one
}

// mayReadBacklog reports whether the feed has a turn, and asks for one where it has not. The caller holds the lock.
func (f *Feed) mayReadBacklog() bool {
	if !f.turn.needed || f.turn.held {
		return true
	}
	select {
	case f.turn.wanted <- struct{}{}:
	default:
	}
	return false
}

// takeTurns takes turns when they are wanted, until the context ends.
func (f *Feed) takeTurns(ctx context.Context) {
	turns := f.options.Turns
	defer func() {
		if err := turns.Close(); err != nil {
			f.log.Warn("a turn at reading was not given back; the server will take it", "error", err)
		}
	}()
	idle := time.NewTimer(turnKept)
	defer idle.Stop()
	for {
		idle.Reset(turnKept)
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			if err := turns.Close(); err != nil {
				f.log.Warn("closing the connection that turns at reading are taken by", "error", err)
			}
		case <-f.turn.wanted:
			f.takeTurn(ctx, turns)
		}
	}
}

// takeTurn waits for a turn, as long as somebody wants it, and has it used.
func (f *Feed) takeTurn(ctx context.Context, turns Turns) {
	for wait := turnAgain; ctx.Err() == nil; wait = min(2*wait, turnAtMost) {
		f.lookForTail(ctx)
		if !f.backlogWaits() {
			return
		}
		got, err := turns.Take(ctx)
		if err != nil && ctx.Err() == nil {
			// Reading a backlog must not depend on this: where the database does not answer, reads fail too.
			f.log.Warn("cannot ask for a turn at reading a backlog; reading without one", "error", err)
		}
		if got || err != nil {
			f.useTurn(ctx)
			if got {
				f.giveTurn(ctx, turns)
			}
			return
		}
		pause(ctx, wait/2+rand.N(wait))
	}
}

// lookForTail finds out who is near the tail, and therefore needs no turn.
func (f *Feed) lookForTail(ctx context.Context) {
	head, err := f.source.Head(ctx)
	if err != nil {
		return // reads will tell
	}
	f.mu.Lock()
	f.tail = max(f.tail, head)
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

// useTurn lets backlogs be read until the turn is over, or nothing has been read for a while.
func (f *Feed) useTurn(ctx context.Context) {
	began := time.Now()
	f.setTurn(true)
	f.signal()
	for ctx.Err() == nil && time.Since(began) < turnTime {
		f.mu.Lock()
		rests := f.behind == 0 && time.Since(f.turn.used) > turnIdle
		f.mu.Unlock()
		if rests {
			break
		}
		pause(ctx, turnIdle/2)
	}
	f.setTurn(false)
	f.signal() // whoever waits asks for the next one
}

func (f *Feed) setTurn(held bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn.held, f.turn.used = held, time.Now()
}

func (f *Feed) giveTurn(ctx context.Context, turns Turns) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := turns.Give(ctx); err != nil {
		f.log.Warn("a turn at reading was not given back; the server will take it", "error", err)
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
