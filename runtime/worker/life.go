package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/runtime/replay"
	"github.com/sluice-project/sluice/tokenstore"
)

// life is one incarnation.
type life struct {
	*Worker
	log  *slog.Logger
	self tokenstore.Worker

	connection Connection
	directory  Directory
	store      Store
	errors     tokenstore.Classifier // of the store
	source     Source
	pages      Source // that the feed reads
	feed       *feed.Feed
	planner    planner.Planner
	ring       ring

	proof      proof
	nudge      chan struct{}                    // look at the directory
	replayNews chan struct{}                    // look at the replays
	known      chan struct{}                    // closed when the directory knows the processor
	news       atomic.Bool                      // the report has something that the planner has to know at once
	unread     atomic.Pointer[tokenstore.Fault] // why events cannot be read; nil where they can
	severed    atomic.Bool                      // a connection that reads events was lost
	forgotten  atomic.Bool                      // nothing was read since
	trusted    atomic.Int64                     // until when batches may begin, nanoseconds of time.Since(epoch)
	epoch      time.Time                        // with a monotonic reading
	storeClock storeClock

	openWriters atomic.Pointer[[]eventsource.OpenWriter] // that the report tells of

	mu       sync.Mutex
	runner   *replay.Runner // nil before replays are looked at
	groups   map[string]*group
	segments map[tokenstore.Key]*segmentRun
	settings settings
	runnable runQueue
	lost     map[tokenstore.Key]*lostBatch // whose outcome is unknown

	abandoned abandonedCalls
	elsewhere elsewhere

	courtesy courtesy
	backlog  chan struct{} // a batch of one begins
	alive    chan struct{} // others are to be told of live events
}

// readers is how many reads of events may run at once.
const readers = 3

// live runs one incarnation until it ends or, when the context does, has drained. It reports whether it got as far as to
// register.
func (w *Worker) live(ctx context.Context) (lived bool, err error) {
	l := &life{Worker: w, runnable: runQueue{most: w.options.Executors - 1, executors: w.options.Executors}, nudge: make(chan struct{}, 1), backlog: make(chan struct{}, 1), alive: make(chan struct{}, 1), replayNews: make(chan struct{}, 1), known: make(chan struct{}), epoch: time.Now(), segments: map[tokenstore.Key]*segmentRun{}, lost: map[tokenstore.Key]*lostBatch{}}
	session, err := l.join(ctx)
	if err != nil {
		return false, err
	}
	defer l.close()
	if err := l.begin(ctx); err != nil {
		return false, errors.Join(err, session.Close())
	}
	return true, l.run(ctx, &sessionKeeper{life: l, session: session})
}

// join connects with the store and the source.
func (l *life) join(ctx context.Context) (tokenstore.Session, error) {
	memory := feed.Options{Memory: l.options.Memory, Readers: readers, Random: l.options.Random}
	connection, session, err := l.options.Backend.Join(ctx, Needs{Definition: l.options.Definition, Batches: 2 * l.options.Executors, Abandoned: mostAbandoned,
		Readers: readers, PageBytes: feed.PageBytes(memory.Memory), WithoutPayload: l.needsNoContents(), Log: l.Worker.log})
	if err != nil {
		return nil, err
	}
	l.connection, l.directory, l.store, l.errors = connection, connection.Directory(), connection.Store(), connection.Store()
	l.source, l.pages = connection.Source(), connection.Pages()
	l.log = l.Worker.log.With("incarnation", connection.Identity().Incarnation)
	memory.Permits = connection.Permits(l.options.CatchUpWorkers)
	l.feed = feed.New(l.pages, memory, l.log, l.delivered, l.readFailed)
	return session, nil
}

// begin registers the incarnation.
func (l *life) begin(ctx context.Context) error {
	is := l.connection.Identity()
	l.self = tokenstore.Worker{Incarnation: is.Incarnation, Nonce: is.Nonce, Installation: l.options.Installation, Pod: l.options.Pod, Definition: l.options.DefinitionID,
		Handlers: l.registered(), Version: l.options.Version, Protocol: tokenstore.Protocol, SessionLock: is.SessionLock, State: tokenstore.Active}
	l.groups = l.newGroups()
	if err := l.agreeAtFirst(ctx); err != nil {
		return err
	}
	sent := time.Now()
	if err := l.directory.Register(ctx, l.options.Processor, l.self); err != nil {
		return err
	}
	l.trust(sent, tokenstore.TimingOf(l.self.Lease))
	l.planner = planner.Planner{Directory: l.directory, Store: l.store, Processor: l.options.Processor, Name: fmt.Sprint(tokenstore.WorkerPlans, is.Incarnation)}
	return nil
}

func (l *life) close() {
	if err := l.connection.Close(l.abandoned.count() > 0); err != nil {
		l.log.Warn("closing the connections", "error", err)
	}
}

// run keeps everything going until the incarnation ends or has drained.
func (l *life) run(ctx context.Context, sessions *sessionKeeper) error {
	// Parts outlive the context: draining needs them all.
	parts, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { l.feed.Run(parts) })
	running.Go(func() { sessions.run(parts) })
	running.Go(func() { (&watcher{life: l}).run(parts) })
	running.Go(func() { l.prepare(parts) })
	if source, is := l.pages.(eventsource.Notifier); is {
		running.Go(func() { l.listen(parts, source) })
	}
	running.Go(func() { l.replays(parts) })
	running.Go(func() { l.watchWriters(parts) })
	running.Go(func() { l.tellOfLive(parts) })
	running.Go(func() { l.giveWay(parts) })
	begin := func() {
		running.Add(1)
		go l.execute(parts, running.Done)
	}
	for range l.options.Executors {
		begin()
	}
	running.Go(func() { l.standIn(parts, begin) })
	err := l.controlLoop(ctx)
	stop(err)
	l.runnable.close()
	running.Wait()
	return err
}

// trust lets batches begin until a lease that was renewed by a message sent at a time ends, with a margin.
func (l *life) trust(sent time.Time, timing tokenstore.Timing) {
	l.trusted.Store(int64(sent.Add(timing.Lease - timing.Margin).Sub(l.epoch)))
}

// renew is trust, and queues all segments where the trust had lapsed: meanwhile no batch may have
// begun, and what an executor did not take is not in the queue any more. One that it does not take
// from here on finds the new trust.
func (l *life) renew(sent time.Time, timing tokenstore.Timing) {
	before := l.trusted.Load()
	l.trust(sent, timing)
	if int64(time.Since(l.epoch)) >= before {
		l.pushAll()
	}
}

// trusts reports whether a batch may begin.
func (l *life) trusts() bool { return int64(time.Since(l.epoch)) < l.trusted.Load() }

// look asks the control loop to look at the directory soon.
func (l *life) look() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}
