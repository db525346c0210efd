package stores

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const (
	// application names the operator's connections in pg_stat_activity.
	application = "sluice-operator"
	// turn is how long a session keeps its slot where others wait.
	turn = 10 * time.Second
	// firstPause before a store that could not be reached is tried again; it doubles up to Options.MaxPause.
	firstPause = 500 * time.Millisecond
	// connectTimeout bounds connecting, and looking which store it is. A migration may take as long as it does.
	connectTimeout = 20 * time.Second
	// longMigration is when a migration that goes on is reported.
	longMigration = 10 * time.Second
)

// errTurnOver ends a session that makes room for another.
var errTurnOver = errors.New("another store's turn")

// session is the connection to one store, for all its processors.
type session struct {
	key     sessionKey
	store   definition.Postgres
	options Options
	slots   *slots
	cancel  func() // of run; guarded by Stores.mu
	place   atomic.Pointer[string]
	read    atomic.Pointer[string] // digest of the Secrets' content at the last connect

	mu       sync.Mutex
	unusable *Problem // with the Secrets: see [Observation.Secrets]
	problem  *Problem // nil while the session is open, and before the first attempt
	members  map[*processor]struct{}
	changed  chan struct{} // members have
}

func newSession(key sessionKey, store definition.Postgres, o Options, slots *slots) *session {
	return &session{key: key, store: store, options: o, slots: slots, members: map[*processor]struct{}{}, changed: make(chan struct{}, 1)}
}

// add makes a processor a member. Where the store cannot be reached it learns so at once.
func (s *session) add(p *processor) {
	s.mu.Lock()
	s.members[p] = struct{}{}
	problem, unusable := s.problem, s.unusable
	s.mu.Unlock()
	signal(s.changed)
	p.setSecretProblem(unusable)
	if problem != nil {
		p.fail(*problem)
	}
}

// fail notes why the session is not open, and tells the members.
func (s *session) fail(problem *Problem) {
	s.mu.Lock()
	s.problem = problem
	s.mu.Unlock()
	if problem == nil {
		return
	}
	for _, p := range s.current() {
		p.fail(*problem)
	}
}

// remove returns how many are left.
func (s *session) remove(p *processor) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.members, p)
	signal(s.changed)
	return len(s.members)
}

func (s *session) current() []*processor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.members))
}

// run keeps the session open until the context ends.
func (s *session) run(ctx context.Context) {
	log := s.options.Log.WithValues("namespace", s.key.namespace)
	pause := firstPause
	for s.slots.take(ctx) {
		began := time.Now()
		err := s.serve(ctx)
		s.slots.give()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errTurnOver) {
			continue
		}
		if time.Since(began) > turn {
			pause = firstPause // it had worked
		}
		problem := problemOf(err, s.where())
		log.Info("Lost the store, trying again", "reason", problem.Reason, "message", problem.Message, "pause", pause.String())
		s.fail(&problem)
		if !s.rest(ctx, pause) {
			return
		}
		pause = min(2*pause, s.options.MaxPause)
	}
}

// rest waits about as long as said, with a share of chance so that sessions do not come all at once.
func (s *session) rest(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause*3/4 + rand.N(pause/4+1)):
		return true
	}
}

// link is an open session as processors use it.
type link struct {
	directory *postgres.Directory
	store     *postgres.Store
	pool      *pgxpool.Pool
	meta      postgres.Meta
}

// serve opens the session and runs the members' loops until it is lost; the error says why.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := s.connection()
	listener, meta, err := s.prepare(ctx, options)
	if err != nil {
		return err
	}
	defer listener.Close()
	pool, err := postgres.Open(options)
	if err != nil {
		return err
	}
	defer pool.Close()
	s.fail(nil)
	l := &link{postgres.NewDirectory(pool, s.store.Schema), postgres.NewStore(pool, s.store.Schema), pool, meta}

	lost := make(chan error, 1)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { lost <- s.listen(ctx, listener) })
	running.Go(func() { s.watchSecrets(ctx, l.meta.StoreID) })
	return s.supervise(ctx, l, lost, &running)
}

// supervise runs a loop for each member, as they come and go.
func (s *session) supervise(ctx context.Context, l *link, lost <-chan error, running *sync.WaitGroup) error {
	loops := map[*processor]context.CancelFunc{}
	over := time.NewTicker(turn)
	defer over.Stop()
	for {
		s.mu.Lock()
		for p := range s.members {
			if loops[p] == nil {
				loop, cancel := context.WithCancel(ctx)
				loops[p] = cancel
				running.Go(func() { p.run(loop, l, s.where()) })
			}
		}
		for p, cancel := range loops {
			if _, member := s.members[p]; !member {
				cancel()
				delete(loops, p)
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-lost:
			return err
		case <-s.changed:
		case <-over.C:
			if s.slots.wanted() {
				return errTurnOver
			}
		}
	}
}

// prepare connects, migrates where it may, and looks which store this is.
func (s *session) prepare(ctx context.Context, o postgres.Options) (listener *postgres.Session, meta postgres.Meta, err error) {
	err = within(ctx, s.options.ConnectTimeout, func(ctx context.Context) error {
		listener, err = postgres.OpenSession(ctx, o, postgres.Channel(s.store.Schema))
		return err
	})
	if err != nil {
		return nil, meta, err
	}
	if err := s.migrate(ctx, listener); err != nil {
		return nil, meta, errors.Join(err, listener.Close())
	}
	err = within(ctx, s.options.ConnectTimeout, func(ctx context.Context) error {
		meta, err = postgres.Check(ctx, listener.Conn(), s.store.Schema)
		return err
	})
	if err != nil {
		return nil, meta, errors.Join(err, listener.Close())
	}
	return listener, meta, nil
}

func within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// migrate brings the schema up to date, where it may. It has no time limit: a step that is cancelled is undone, so that one
// that takes minutes would never be done. What goes on for long is reported.
func (s *session) migrate(ctx context.Context, listener *postgres.Session) error {
	if s.store.Migrations == definition.MigrationsManual {
		return nil
	}
	if !s.needsTables() {
		if have, err := postgres.SchemaVersion(ctx, listener.Conn(), s.store.Schema); err != nil || have == 0 {
			return err
		}
	}
	report := time.AfterFunc(s.options.LongMigration, func() { s.fail(migrating(s.store.Schema)) })
	defer report.Stop()
	done, err := postgres.Migrate(ctx, listener.Conn(), s.store.Schema)
	if len(done) > 0 {
		s.options.Log.Info("Migrated a store", "store", s.where(), "schema", s.store.Schema, "steps", done)
	}
	return err
}

// needsTables reports whether a member wants more than that its rows are dropped.
func (s *session) needsTables() bool {
	return slices.ContainsFunc(s.current(), func(p *processor) bool { return !p.wish().Drop })
}

// listen wakes the members that notifications name until the connection is lost.
func (s *session) listen(ctx context.Context, listener *postgres.Session) error {
	for {
		_, name, err := listener.Wait(ctx)
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		for _, p := range s.current() {
			if name == "" || p.is(name) {
				p.poke()
			}
		}
	}
}

// connection says how to connect: by the Secrets as they are at that moment.
func (s *session) connection() postgres.Options {
	return postgres.Options{
		Application: application,
		Keepalives:  true,
		Dial:        dialer(s.options.AllowLoopback),
		Target: func(ctx context.Context) (postgres.Target, error) {
			target, digest, err := s.target(ctx)
			if err == nil {
				place := placeOf(target)
				s.place.Store(&place)
				s.read.Store(&digest)
			}
			return target, err
		},
	}
}

func placeOf(target postgres.Target) string {
	return fmt.Sprintf("%s as %s", net.JoinHostPort(target.Host, strconv.Itoa(int(target.Port)))+"/"+target.Database, target.User)
}

// where the session connected to last.
func (s *session) where() string {
	if place := s.place.Load(); place != nil {
		return *place
	}
	return "the store"
}

// signal leaves a note, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
