package worker

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// neighbour returns whose session a worker watches: that of the next one in the ring of the living that hold a session lock,
// or 0 when there is no other. So each is watched by one, and when one is gone, its watcher goes on to the next.
func neighbour(self int64, workers []tokenstore.Worker) int64 {
	var next, first int64
	for _, w := range workers {
		if w.Incarnation == self || !w.Alive || !w.SessionLock {
			continue
		}
		if first == 0 || w.Incarnation < first {
			first = w.Incarnation
		}
		if w.Incarnation > self && (next == 0 || w.Incarnation < next) {
			next = w.Incarnation
		}
	}
	if next == 0 {
		return first
	}
	return next
}

// ring holds whom this worker watches.
type ring struct {
	mu     sync.Mutex
	target int64
	moved  chan struct{} // closed when the target changes
}

// aim makes the watcher turn to another worker; 0 is nobody.
func (r *ring) aim(target int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if target == r.target {
		return
	}
	r.target = target
	if r.moved != nil {
		close(r.moved)
		r.moved = nil
	}
}

// at returns the target and what is closed when it changes.
func (r *ring) at() (int64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.moved == nil {
		r.moved = make(chan struct{})
	}
	return r.target, r.moved
}

// watchAgain is how soon a session is watched again that has ended while its worker counts as alive: it may be reconnecting.
const watchAgain = 200 * time.Millisecond

// watch waits, on a connection of its own, for the end of the neighbour's session, until the context ends. What is lost of it
// the heartbeats make up for, up to a second later.
func (l *life) watch(ctx context.Context) {
	if !l.self.SessionLock {
		return // behind a pooler nobody has a session
	}
	var watch *postgres.Watch
	wait := backoff{initial: 100 * time.Millisecond, max: time.Second}
	for ctx.Err() == nil {
		target, moved := l.ring.at()
		if target == 0 {
			await(ctx, moved, nil)
			continue
		}
		if watch == nil {
			var err error
			if watch, err = postgres.OpenWatch(ctx, l.connection(postgres.ApplicationOf(l.self.Incarnation)), l.options.Schema, l.options.Processor); err != nil {
				sleep(ctx, jittered(wait.next()))
				continue
			}
		}
		ended, err := endedUnless(ctx, watch, target, moved)
		if err != nil {
			watch.Close() // it is gone already
			watch = nil
			sleep(ctx, jittered(wait.next()))
			continue
		}
		wait.reset()
		if ended {
			l.log.Info("a worker's session has ended", "worker", target)
			l.look()
			await(ctx, moved, time.After(watchAgain))
		}
	}
	if watch != nil {
		if err := watch.Close(); err != nil {
			l.log.Warn("closing the connection that watches another worker", "error", err)
		}
	}
}

// endedUnless waits for the end of a worker's session until there is another one to watch.
func endedUnless(ctx context.Context, watch *postgres.Watch, target int64, moved <-chan struct{}) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
		}
	}()
	return watch.Ended(ctx, target)
}

// await waits until there is another worker to watch, or enough time has passed.
func await(ctx context.Context, moved <-chan struct{}, enough <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-moved:
	case <-enough:
	}
}
