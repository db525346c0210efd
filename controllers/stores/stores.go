package stores

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-project/sluice/controllers/stores/backend"
)

// Options of Stores.
type Options struct {
	// Backend opens the stores.
	Backend backend.Backend
	// Changed is called, from any goroutine, when there is something new to tell of a processor. It must not block.
	Changed func(types.NamespacedName)
	// Planner names this operator in plans.
	Planner string
	// Installation of the operator: its ID in stores.
	Installation string
	// FormerInstallations are those that this one replaces.
	FormerInstallations []string
	// MaxSessions is how many stores the operator is connected to at a time; the others wait for their turn.
	MaxSessions int
	// MaxPause between attempts to reach a store, 15 s by default.
	MaxPause time.Duration
	// ConnectTimeout bounds connecting to a store, 20 s by default.
	ConnectTimeout time.Duration
	// LongMigration is when a migration that goes on is reported, after 10 s by default.
	LongMigration time.Duration
	// SecretsEvery is how often an open session checks its Secrets, 20 s by default.
	SecretsEvery time.Duration
	Metrics      *Metrics
	Log          logr.Logger
}

// Stores knows the stores of all processors. It is a Runnable of the manager, for the leader.
type Stores struct {
	options Options
	slots   *slots

	mu         sync.Mutex
	run        func(func(context.Context)) (cancel func()) // nil until Start
	processors map[types.NamespacedName]*processor
	sessions   map[sessionKey]*session
}

// New returns stores that do nothing until Start is called.
func New(o Options) *Stores {
	o.MaxPause = cmp.Or(o.MaxPause, 15*time.Second)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, connectTimeout)
	o.LongMigration = cmp.Or(o.LongMigration, longMigration)
	o.SecretsEvery = cmp.Or(o.SecretsEvery, secretsEvery)
	return &Stores{options: o, slots: newSlots(o.MaxSessions), processors: map[types.NamespacedName]*processor{}, sessions: map[sessionKey]*session{}}
}

// Observation is what is known of a processor in its store.
type Observation struct {
	// Problem is why the operator cannot do what it should; nil where it can, or has not tried.
	Problem *Problem
	// Secrets is what is wrong with the present content of the Secrets, although a session is open
	// that used an earlier content; nil if nothing is wrong. It is kept if the session is lost,
	// until one is open again.
	Secrets *Problem
	// Source is why a source in a database of its own cannot be used; nil if it can, and for
	// sources in the store's database. All else goes on: it is no problem of the store.
	Source *Problem
	// StoreID is the store that was found and accepted.
	StoreID string
	// Declared is the generation of the spec that the store has.
	Declared int64
	// Dropped says that there are no rows of the processor any more, as was wanted.
	Dropped bool
	// Seen says that Facts come from a look at the store, however long ago.
	Seen  bool
	Facts Facts
}

// Want makes the processor's wishes known; they are carried out in the background.
func (s *Stores) Want(key types.NamespacedName, w Wanted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.processors[key]
	if p != nil && p.session.key != w.sessionKey() {
		s.leave(key, p)
		p = nil
	}
	if p == nil {
		p = newProcessor(key, s.options)
		p.want(w)
		s.processors[key] = p
		s.join(p, w)
		return
	}
	p.want(w)
}

// Forget ends all work for a processor. Its rows stay.
func (s *Stores) Forget(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.processors[key]; p != nil {
		s.leave(key, p)
	}
}

// Observe returns what is known of a processor.
func (s *Stores) Observe(key types.NamespacedName) Observation {
	if p := s.find(key); p != nil {
		return p.observation()
	}
	return Observation{}
}

// Wake makes the planner look at once.
func (s *Stores) Wake(key types.NamespacedName) {
	if p := s.find(key); p != nil {
		p.poke()
	}
}

// PodGone says that a pod is no more: its worker need not be waited for.
func (s *Stores) PodGone(key types.NamespacedName, pod string) {
	if p := s.find(key); p != nil {
		p.podGone(pod)
	}
}

// Acknowledge says that the pods of a processor have their deletion costs as of a plan.
func (s *Stores) Acknowledge(key types.NamespacedName, plan int64) {
	if p := s.find(key); p != nil {
		p.acknowledge(plan)
	}
}

// Start runs the sessions until the context ends.
func (s *Stores) Start(ctx context.Context) error {
	var running sync.WaitGroup
	s.mu.Lock()
	s.run = func(work func(context.Context)) func() {
		ctx, cancel := context.WithCancel(ctx)
		running.Go(func() { work(ctx) })
		return cancel
	}
	for _, session := range s.sessions {
		session.cancel = s.run(session.run)
	}
	s.mu.Unlock()
	<-ctx.Done()
	running.Wait()
	return nil
}

func (s *Stores) find(key types.NamespacedName) *processor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processors[key]
}

// join adds a processor to the session of its store, which begins with the first one.
func (s *Stores) join(p *processor, w Wanted) {
	key := w.sessionKey()
	se := s.sessions[key]
	if se == nil {
		se = newSession(key, w.Spec.Store, s.options, s.slots)
		s.sessions[key] = se
		if s.run != nil {
			se.cancel = s.run(se.run)
		}
	}
	p.session = se
	se.add(p)
}

// leave takes a processor out of its session, which ends with the last one.
func (s *Stores) leave(key types.NamespacedName, p *processor) {
	delete(s.processors, key)
	p.leave()
	if p.session.remove(p) > 0 {
		return
	}
	delete(s.sessions, p.session.key)
	if p.session.cancel != nil {
		p.session.cancel()
	}
}
