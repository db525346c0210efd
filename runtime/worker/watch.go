package worker

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
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

// watcher waits, on a connection of its own, for the end of the neighbour's session. What is lost of it the heartbeats make
// up for, up to a second later.
type watcher struct {
	*life
	watch tokenstore.PeerWatch // nil while there is no connection
	wait  backoff
}

// run watches until the context ends.
func (w *watcher) run(ctx context.Context) {
	if !w.self.SessionLock {
		return // behind a pooler nobody has a session
	}
	w.wait = backoff{initial: 100 * time.Millisecond, max: time.Second}
	for ctx.Err() == nil {
		target, moved := w.ring.at()
		if target == 0 {
			await(ctx, moved, nil)
			continue
		}
		ended, err := w.ended(ctx, target, moved)
		switch {
		case err != nil && ctx.Err() == nil:
			if w.wait.last == 0 {
				w.log.Warn("cannot watch another worker's session; heartbeats have to tell of its end meanwhile", "error", err)
			}
			sleep(ctx, w.jittered(w.wait.next()))
		case ended:
			w.log.Info("a worker's session has ended", "worker", target)
			w.look()
			await(ctx, moved, time.After(watchAgain))
		}
	}
	if w.watch != nil {
		if err := w.watch.Close(); err != nil {
			w.log.Warn("closing the connection that watches another worker", "error", err)
		}
	}
}

// ended waits for the end of a worker's session, for a while or until there is another one to watch.
func (w *watcher) ended(ctx context.Context, target int64, moved <-chan struct{}) (ended bool, err error) {
	if w.watch == nil {
		watch, err := w.connection.WatchPeers(ctx, w.options.Processor)
		if err != nil {
			return false, err
		}
		w.watch = watch
	}
	if ended, err = endedUnless(ctx, w.watch, target, moved); err != nil {
		w.watch.Close() // it is gone already
		w.watch = nil
		return false, err
	}
	w.wait.reset()
	return ended, nil
}

// endedUnless waits for the end of a worker's session until there is another one to watch.
func endedUnless(ctx context.Context, watch tokenstore.PeerWatch, target int64, moved <-chan struct{}) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
		}
	}()
	return watch.WaitSessionEnd(ctx, target)
}

// await waits until there is another worker to watch, or enough time has passed.
func await(ctx context.Context, moved <-chan struct{}, enough <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-moved:
	case <-enough:
	}
}
