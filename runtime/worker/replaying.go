package worker

import (
	"context"
	"time"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/replay"
	"github.com/sluice-project/sluice/tokenstore"
)

// replayRetry is when replays are looked at again after an error of the store.
const replayRetry = time.Second

// stopReplays bounds the end of what is under way.
const stopReplays = 5 * time.Second

// replays carries replays out while there are any. What may take long in it runs apart from the control loop.
func (l *life) replays(ctx context.Context) {
	runner := l.newRunner()
	l.mu.Lock()
	l.runner = runner
	l.mu.Unlock()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopReplays)
			defer cancel()
			if err := runner.Close(closing); err != nil {
				l.log.Warn("ending what replays had under way", "error", err)
			}
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

func (l *life) newRunner() *replay.Runner {
	return &replay.Runner{Processor: l.options.Processor, Self: l.self.Incarnation, Directory: l.directory, Store: l.store, Source: l.source,
		Handlers: l.handlers(), Paused: l.paused, Timeout: l.timeout, Wake: l.lookAtReplays, Random: l.options.Random, Log: l.log}
}

// addCalls adds the setups and resets that have been running for long to groups' reports. The caller holds the life's lock.
func (l *life) addCalls(groups map[string]tokenstore.GroupReport) {
	calls := map[string][]tokenstore.Call{}
	if l.runner != nil {
		calls = l.runner.Calls()
	}
	for name, g := range l.groups {
		if running := time.Since(g.setUpSince); !g.setUpSince.IsZero() && running >= tokenstore.LongCall {
			calls[name] = append(calls[name], tokenstore.Call{Kind: tokenstore.SetupCall, Attempt: g.attempts + 1, Running: running.Seconds()})
		}
	}
	for name, more := range calls {
		r := groups[name]
		r.Calls = append(r.Calls, more...)
		groups[name] = r
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
