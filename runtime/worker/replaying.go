package worker

import (
	"context"
	"time"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/replay"
)

// replayRetry is when replays are looked at again after an error of the store.
const replayRetry = time.Second

// replays carries replays out while there are any. A reset may take long, so this runs apart from the control loop.
func (l *life) replays(ctx context.Context) {
	runner := &replay.Runner{Processor: l.options.Processor, Self: l.self.Incarnation, Directory: l.directory, Store: l.store, Source: l.source,
		Handlers: l.handlers(), Paused: l.paused, Log: l.log}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.replayNews:
		case <-timer.C:
		}
		again, err := runner.Step(ctx)
		if err != nil && ctx.Err() == nil {
			l.log.Warn("carrying replays out; trying again", "error", err)
			again = replayRetry
		}
		if again == 0 {
			again = time.Hour // the heartbeat tells when there is something
		}
		timer.Reset(again)
	}
}

// lookAtReplays has the runner look at the ledger.
func (l *life) lookAtReplays() {
	select {
	case l.replayNews <- struct{}{}:
	default:
	}
}

func (l *life) handlers() map[string]handler.Handler {
	handlers := map[string]handler.Handler{}
	for name, g := range l.groups {
		handlers[name] = g.handler
	}
	return handlers
}

func (l *life) paused(group string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings.paused(group)
}

// endReplay forgets the boundary of a segment that has come beyond it: none of its events is handled again any more.
func (l *life) endReplay(s *segmentRun) {
	if s.replay == nil {
		return
	}
	for _, part := range s.Token.Parts {
		for _, bound := range s.replay.ends {
			if !bound.Segment.Includes(part.Segment) && !part.Segment.Includes(bound.Segment) {
				continue
			}
			if beyond, err := l.source.Contains(part.Progress, bound.Progress); err != nil || !beyond {
				return // both were read before, so they can be read
			}
		}
	}
	l.mu.Lock()
	s.replay = nil
	l.mu.Unlock()
}

// replaying reports whether a segment that this worker owns is in the middle of a replay.
func (l *life) replaying() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		if s.replay != nil {
			return true
		}
	}
	return false
}
