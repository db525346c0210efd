package stores

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/definition"
)

const (
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
	access  backend.Access
	options Options
	slots   *slots
	cancel  func() // of run; guarded by Stores.mu

	mu       sync.Mutex
	unusable *Problem // with the Secrets: see [Observation.Secrets]
	problem  *Problem // nil while the session is open, and before the first attempt
	members  map[*processor]struct{}
	changed  chan struct{} // members have
}

func newSession(key sessionKey, store definition.Store, o Options, slots *slots) *session {
	return &session{key: key, store: *store.Postgres, access: o.Backend.Open(key.namespace, store), options: o, slots: slots, members: map[*processor]struct{}{}, changed: make(chan struct{}, 1)}
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
		problem := s.options.problemOf(err, s.where())
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
	backend.Connection
	directory backend.Directory
	store     backend.Store
	meta      backend.Meta
}

// serve opens the session and runs the members' loops until it is lost; the error says why.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	connection, meta, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	s.fail(nil)
	l := &link{connection, connection.Directory(), connection.Store(), meta}

	lost := make(chan error, 1)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { lost <- s.listen(ctx, connection) })
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
func (s *session) prepare(ctx context.Context) (connection backend.Connection, meta backend.Meta, err error) {
	err = within(ctx, s.options.ConnectTimeout, func(ctx context.Context) error {
		connection, err = s.access.Connect(ctx)
		return err
	})
	if err != nil {
		return nil, meta, err
	}
	if err := s.migrate(ctx, connection); err != nil {
		return nil, meta, errors.Join(err, connection.Close())
	}
	err = within(ctx, s.options.ConnectTimeout, func(ctx context.Context) error {
		meta, err = connection.Meta(ctx)
		return err
	})
	if err != nil {
		return nil, meta, errors.Join(err, connection.Close())
	}
	return connection, meta, nil
}

func within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// migrate brings the schema up to date, where it may. It has no time limit: a step that is cancelled is undone, so that one
// that takes minutes would never be done. What goes on for long is reported.
func (s *session) migrate(ctx context.Context, connection backend.Connection) error {
	if s.store.Migrations == definition.MigrationsManual {
		return nil
	}
	if !s.needsTables() {
		if has, err := connection.HasTables(ctx); err != nil || !has {
			return err
		}
	}
	report := time.AfterFunc(s.options.LongMigration, func() { s.fail(migrating(s.store.Schema)) })
	defer report.Stop()
	done, err := connection.Migrate(ctx)
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
func (s *session) listen(ctx context.Context, connection backend.Connection) error {
	for {
		name, err := connection.Wait(ctx)
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

// where the session connected to last.
func (s *session) where() string {
	if place := s.access.Connected(); place != nil {
		return place.String()
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
