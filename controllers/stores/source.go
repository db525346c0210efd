package stores

import (
	"context"
	"errors"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/definition"
)

// A source in a database of its own may be down, or not answer, while the store is fine. Whatever
// asks it runs beside the processor's loop, which has to renew the plan meanwhile.

const (
	// sourcePatience is how long a round waits for an answer of such a source.
	sourcePatience = 300 * time.Millisecond
	// sourceTimeout bounds a question to it.
	sourceTimeout = 10 * time.Second
)

// errSourcePending says that a source in a database of its own has not answered yet.
var errSourcePending = errors.New("the source's database has not answered yet")

// separateSource is what a processor's loop knows of a source in a database of its own. Only the
// loop uses it.
type separateSource struct {
	declared definition.Source
	checks   beside[struct{}]
	waiting  beside[lags]
	checked  bool
	err      error     // what was wrong last; nil before the first answer, and while nothing is
	failedAt time.Time // when that was
	logged   string    // of that error
}

// outage is why the database cannot be used; nil if it can, or that is not known.
func (s *separateSource) outage() *backend.SourceError {
	outage, _ := errors.AsType[*backend.SourceError](s.err)
	return outage
}

// checkSource has a source in a database of its own looked at, once until an error is met and then
// again after a while. It returns what is wrong, or errSourcePending; nil also for sources in the
// store's database, which are checked when they are declared.
func (p *processor) checkSource(source backend.Source, declared definition.Source) error {
	s := &p.separate
	if !reflect.DeepEqual(s.declared, declared) {
		*s = separateSource{declared: declared}
	}
	if declared.Postgres == nil || s.checked || s.err != nil && time.Since(s.failedAt) < refusedPause {
		return s.err
	}
	_, err, answered := s.checks.ask(p.life, p.poke, func(ctx context.Context) (struct{}, error) { return struct{}{}, source.Check(ctx) })
	switch {
	case !answered && s.err == nil:
		return errSourcePending
	case !answered:
	case err != nil:
		p.sourceFailed(err)
	default:
		s.checked, s.err, s.logged = true, nil, ""
	}
	return s.err
}

// sourceFailed notes what is wrong with a source in a database of its own. An error is logged once
// for as long as it stays the same.
func (p *processor) sourceFailed(err error) {
	s := &p.separate
	if text := err.Error(); text != s.logged {
		p.options.Log.Info("The source's database cannot be used", "processor", p.key.String(), "error", text)
		s.logged = text
	}
	s.checked, s.err, s.failedAt = false, err, time.Now()
}

// aboutSource reports whether an error says that a source in a database of its own cannot be used,
// or has not answered yet. It says nothing of the store.
func aboutSource(err error) bool {
	_, is := errors.AsType[*backend.SourceError](err)
	return is || errors.Is(err, errSourcePending)
}

// beside runs one piece of work at a time beside the processor's loop. Only the loop uses it.
type beside[T any] struct{ running *answer[T] }

// answer is that of a piece of work.
type answer[T any] struct {
	done  chan struct{} // closed when value and err are there
	late  atomic.Bool   // nobody waits for it any more
	value T
	err   error
}

// ask starts the work if none runs, and waits for sourcePatience. If the answer comes later, wake
// is called, and the next call returns it. The work ends with life.
func (b *beside[T]) ask(life context.Context, wake func(), work func(context.Context) (T, error)) (value T, err error, answered bool) {
	if b.running == nil {
		a := &answer[T]{done: make(chan struct{})}
		b.running = a
		go func() {
			ctx, cancel := context.WithTimeout(life, sourceTimeout)
			defer cancel()
			a.value, a.err = work(ctx)
			close(a.done)
			if a.late.Load() {
				wake()
			}
		}()
	}
	a := b.running
	patience := time.NewTimer(sourcePatience)
	defer patience.Stop()
	select {
	case <-a.done:
		b.running = nil
		return a.value, a.err, true
	case <-life.Done():
		return value, nil, false
	case <-patience.C:
	}
	a.late.Store(true)
	select { // the answer may have come just before, and then nobody is woken for it
	case <-a.done:
		b.running = nil
		return a.value, a.err, true
	default:
		return value, nil, false
	}
}
