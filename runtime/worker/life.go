package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/runtime/replay"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// life is one incarnation.
type life struct {
	*Worker
	log  *slog.Logger
	self tokenstore.Worker

	application string        // of its connections
	control     *pgxpool.Pool // for the directory, so that a heartbeat never waits for a batch
	data        *pgxpool.Pool // for tokens and the source
	reading     *pgxpool.Pool // for pages of events
	batches     *pgxpool.Pool // for handlers
	directory   *postgres.Directory
	store       *postgres.Store
	errors      tokenstore.Classifier // of the store
	source      *eventspostgres.Source
	pages       *eventspostgres.Source // that the feed reads
	events      *eventspostgres.Log    // to tell that a handler may have appended
	feed        *feed.Feed
	planner     planner.Planner
	ring        ring

	proof      proof
	nudge      chan struct{}                    // look at the directory
	replayNews chan struct{}                    // look at the replays
	known      chan struct{}                    // closed when the directory knows the processor
	news       atomic.Bool                      // the report has something that the planner has to know at once
	unread     atomic.Pointer[tokenstore.Fault] // why events cannot be read; nil where they can
	severed    atomic.Bool                      // a connection that reads events was lost
	trusted    atomic.Int64                     // until when batches may begin, nanoseconds of time.Since(epoch)
	epoch      time.Time                        // with a monotonic reading
	storeClock storeClock

	openWriters atomic.Pointer[[]tokenstore.OpenWriter] // that the report tells of

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
	session, err := w.openSession(ctx)
	if err != nil {
		return false, err
	}
	l := &life{Worker: w, runnable: runQueue{most: w.options.Executors - 1, executors: w.options.Executors}, nudge: make(chan struct{}, 1), backlog: make(chan struct{}, 1), alive: make(chan struct{}, 1), replayNews: make(chan struct{}, 1), known: make(chan struct{}), epoch: time.Now(), segments: map[tokenstore.Key]*segmentRun{}, lost: map[tokenstore.Key]*lostBatch{}}
	defer l.close()
	sessions := &sessionKeeper{life: l, session: session}
	if err := l.begin(ctx, session); err != nil {
		return false, errors.Join(err, session.Close())
	}
	return true, l.run(ctx, sessions)
}

func (w *Worker) openSession(ctx context.Context) (*postgres.Session, error) {
	return postgres.OpenSession(ctx, w.connection("sluice"), postgres.Channel(w.options.Schema), eventspostgres.Channel(w.options.Schema), postgres.LiveChannel(w.options.Schema))
}

func (w *Worker) connection(application string) postgres.Options {
	return postgres.Options{Target: w.options.Target, Application: application, Keepalives: true}
}

// begin brings the schema up to date, takes an incarnation and its lock, and registers.
func (l *life) begin(ctx context.Context, session *postgres.Session) error {
	meta, err := l.checkStore(ctx, session)
	if err != nil {
		return err
	}
	n, err := session.Incarnation(ctx, l.options.Schema)
	if err != nil {
		return err
	}
	locked, err := session.Lock(ctx, l.options.Schema, n)
	if err != nil {
		return err
	}
	l.log = l.Worker.log.With("incarnation", n)
	nonce := uuid.NewString()
	l.application = postgres.ApplicationOf(meta.Home, n, nonce)
	if err := l.openPools(); err != nil {
		return err
	}
	if err := l.openStores(ctx, locked); err != nil {
		return err
	}
	l.self = tokenstore.Worker{Incarnation: n, Nonce: nonce, Installation: l.options.Installation, Pod: l.options.Pod, Definition: l.options.DefinitionID,
		Handlers: l.registered(), Version: l.options.Version, Protocol: tokenstore.Protocol, SessionLock: locked, State: tokenstore.Active}
	l.groups = l.newGroups()
	if err := l.agreeAtFirst(ctx); err != nil {
		return err
	}
	sent := time.Now()
	if err := l.directory.Register(ctx, l.options.Processor, l.self); err != nil {
		return err
	}
	l.trust(sent, tokenstore.TimingOf(l.self.Lease))
	l.planner = planner.Planner{Directory: l.directory, Store: l.store, Processor: l.options.Processor, Name: fmt.Sprint(tokenstore.WorkerPlans, n)}
	return nil
}

func (l *life) checkStore(ctx context.Context, session *postgres.Session) (postgres.Meta, error) {
	if l.options.Migrate {
		done, err := postgres.Migrate(ctx, session.Conn(), l.options.Schema)
		if err != nil {
			return postgres.Meta{}, err
		}
		if len(done) > 0 {
			l.Worker.log.Info("migrated the store", "schema", l.options.Schema, "steps", done)
		}
	}
	return postgres.Check(ctx, session.Conn(), l.options.Schema)
}

func (l *life) openPools() (err error) {
	// Nobody waits for a connection, stand-ins neither. Abandoned calls keep theirs.
	executors := 2 * int32(l.options.Executors)
	for pool, most := range map[**pgxpool.Pool]int32{&l.control: 3, &l.data: executors + 1, &l.reading: readers + 1, &l.batches: executors + mostAbandoned} {
		options := l.connection(l.application)
		if options.MaxConns = most; pool == &l.reading {
			options.Settings = eventspostgres.PageSettings()
		}
		if *pool, err = postgres.Open(options); err != nil {
			return err
		}
	}
	return nil
}

func (l *life) openStores(ctx context.Context, locked bool) error {
	l.directory = postgres.NewDirectory(l.control, l.options.Schema)
	l.store = postgres.NewStoreWithBatches(l.data, l.batches, l.options.Schema)
	l.errors = l.store
	source := eventspostgres.Open(l.data, l.options.Schema, l.options.Definition.Source)
	if err := source.Check(ctx); err != nil {
		return err
	}
	l.source = source
	l.events = eventspostgres.NewLog(l.control, l.options.Schema)
	o := feed.Options{Memory: l.options.Memory, Readers: readers}
	if locked && l.options.CatchUpWorkers > 0 { // behind a pooler no lock is anybody's
		o.Turns = postgres.NewTurns(l.connection(l.application), l.options.Schema, l.options.CatchUpWorkers)
	}
	pages := source
	if l.needsNoContents() {
		pages = source.WithoutContents()
	}
	l.pages = pages.Through(l.reading).WithPageBytes(feed.PageBytes(o.Memory))
	l.feed = feed.New(l.pages, o, l.log, l.delivered, l.readFailed)
	return nil
}

func (l *life) close() {
	if l.events != nil {
		if err := l.events.Close(); err != nil { // it would only have woken readers up sooner
			l.log.Warn("a last notification was not sent", "error", err)
		}
	}
	for _, pool := range []*pgxpool.Pool{l.data, l.reading, l.batches, l.control} {
		switch {
		case pool == nil:
		case l.abandoned.count() > 0: // they have connections, and closing waits for those
			go pool.Close()
		default:
			pool.Close()
		}
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
