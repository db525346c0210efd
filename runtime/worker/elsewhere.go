package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sluice-project/sluice/assignment"
	"github.com/sluice-project/sluice/planner"
	"github.com/sluice-project/sluice/tokenstore"
)

// An event may fail because of the pod that handles it: it has no route to a service, its disk is full, or a file is wrong. So an
// event that has failed a few times is tried once at each other worker that may have its segment, before the failure counts
// against the event: its segment is exchanged for one of theirs. A worker where everything fails is unfit: it is given nothing
// for a while.

const (
	// triesHere is how often an event fails at the first worker before others try it.
	triesHere = 2
	// unfitAfter is how many segments have to fail, with no batch committed since the first of them did, until a worker is unfit.
	unfitAfter = 3
	// unfitFor is how long a worker is unfit at first; each time it lasts twice as long as the time before.
	unfitFor = 30 * time.Second
	// longestUnfit is how long a worker is unfit at most.
	longestUnfit = 10 * time.Minute
)

// elsewhere is what a worker knows of others that could do its work, and whether it is fit to do it itself.
type elsewhere struct {
	mu      sync.Mutex
	peers   []tokenstore.Worker                 // that may be given a full share, without this one
	theirs  map[int64][]tokenstore.Key          // by peer: what is assigned to it
	failing map[tokenstore.Key]tokenstore.Fault // since the last batch that was committed
	unfit   *tokenstore.Fault
	until   time.Time
	times   int // how often it was unfit, since a batch was committed
}

// see takes note of who else there is.
func (e *elsewhere) see(self int64, view tokenstore.View) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peers, e.theirs = nil, map[int64][]tokenstore.Key{}
	for _, w := range view.Workers {
		if w.Alive && w.Incarnation != self && w.Definition == view.Processor.Definition && w.Report.Unfit == nil && planner.Standing(view.Workers, w) == assignment.Active {
			e.peers = append(e.peers, w)
		}
	}
	for _, a := range view.Assignments {
		e.theirs[a.Worker] = append(e.theirs[a.Worker], a.Key)
	}
}

// next returns a peer that has not tried an event of the group yet, and a segment of its to have in exchange; 0 where there is
// none, and no key where the peer has nothing.
func (e *elsewhere) next(group string, tried []int64) (peer int64, exchange *tokenstore.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.peers {
		if w.Report.Groups[group].Refused || slices.Contains(tried, w.Incarnation) {
			continue
		}
		theirs := e.theirs[w.Incarnation]
		if i := slices.IndexFunc(theirs, func(k tokenstore.Key) bool { return k.Group == group }); i >= 0 {
			return w.Incarnation, &theirs[i]
		}
		if len(theirs) > 0 {
			return w.Incarnation, &theirs[0]
		}
		return w.Incarnation, nil
	}
	return 0, nil
}

// failed takes note of an event that fails here.
func (e *elsewhere) failed(key tokenstore.Key, now time.Time, fault tokenstore.Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failing == nil {
		e.failing = map[tokenstore.Key]tokenstore.Fault{}
	}
	e.failing[key] = fault
	if len(e.failing) < unfitAfter || e.unfit != nil {
		return
	}
	unfit := fault
	unfit.Since = now
	e.unfit, e.until = &unfit, now.Add(min(unfitFor<<min(e.times, 10), longestUnfit))
	e.times++
}

// committed takes note of a batch that has committed here.
func (e *elsewhere) committed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.failing) > 0 {
		clear(e.failing)
	}
	e.unfit, e.times = nil, 0
}

// report returns why the worker is unfit; nil where it is not, or is to be tried again.
func (e *elsewhere) report(now time.Time) *tokenstore.Fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.unfit != nil && now.After(e.until) {
		e.unfit = nil
		clear(e.failing)
	}
	return lasting(e.unfit)
}

// triedAt returns the workers at which an event has failed, this one included.
func (s *segmentRun) triedAt(position, self int64) []int64 {
	if s.failure == nil || s.failure.Position != position {
		return []int64{self}
	}
	if slices.Contains(s.failure.Tried, self) {
		return s.failure.Tried
	}
	return append(slices.Clone(s.failure.Tried), self)
}

// passOn has another worker try the event that the segment stands still at, where one is left that has not. The exchange is a
// plan of its own; this worker releases the segment when it sees it.
func (l *life) passOn(ctx context.Context, s *segmentRun) {
	tried := s.failure.Tried
	if len(tried) == 1 && s.failure.Attempts < triesHere {
		return
	}
	peer, exchange := l.elsewhere.next(s.group.name, tried)
	if peer == 0 {
		return
	}
	got, err := l.directory.Adopt(ctx, l.options.Processor, peer, []tokenstore.Assignment{{Key: s.key(), Worker: l.self.Incarnation}})
	if err == nil && len(got) > 0 && exchange != nil {
		_, err = l.directory.Adopt(ctx, l.options.Processor, l.self.Incarnation, []tokenstore.Assignment{{Key: *exchange, Worker: peer}})
	}
	if err != nil && ctx.Err() == nil {
		l.log.Warn("cannot have another worker try an event", "group", s.group.name, "segment", s.Token.Segment, "error", err)
		return
	}
	if len(got) > 0 {
		l.log.Info("another worker tries the event", "group", s.group.name, "segment", s.Token.Segment, "position", s.failure.Position, "worker", peer)
		l.look()
	}
}
