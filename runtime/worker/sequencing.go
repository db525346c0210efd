package worker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/tokenstore"
)

// A worker takes segments only of groups whose tokens have the sequencing of its own definition. Where they have not, either a
// replay has been asked for whose reset is going to give them that: then the group waits for it, and the worker can be as ready as
// it gets, or the rollout that the reset waits for would never end. Or there is none: then the group is at fault here, the worker
// does not become ready, and those that have the segments keep them.

// agree takes note of whether the groups' tokens have this worker's sequencing, and why not. recorded is by group.
func (l *life) agree(ctx context.Context, recorded map[string]string) error {
	var others []*group
	for name, g := range l.groups {
		was, there := recorded[name]
		if !there || was == g.by.String() {
			l.judgeSequencing(g, false, nil)
			continue
		}
		others = append(others, g)
	}
	if len(others) == 0 {
		return nil
	}
	ledger, err := l.store.Replays(ctx, l.options.Processor)
	if err != nil {
		return err
	}
	for _, g := range others {
		l.judgeSequencing(g, true, l.unagreed(g, recorded[g.name], ledger))
	}
	return nil
}

// agreeAtFirst does so before the worker tells anybody what it can take.
func (l *life) agreeAtFirst(ctx context.Context) error {
	groups, err := l.store.Groups(ctx, l.options.Processor)
	if err != nil {
		return err
	}
	recorded := map[string]string{}
	for _, g := range groups {
		recorded[g.Name] = g.Sequencing
	}
	return l.agree(ctx, recorded)
}

func sequencings(tokens []tokenstore.Token) map[string]string {
	recorded := map[string]string{}
	for _, t := range tokens {
		recorded[t.Group] = t.Sequencing
	}
	return recorded
}

// unagreed is what is wrong with a group whose tokens have another sequencing than this worker's; nil where it is going to change.
func (l *life) unagreed(g *group, recorded string, ledger []tokenstore.Replay) *tokenstore.Fault {
	refusal := &tokenstore.SequencingChangedError{Group: g.name, Recorded: recorded, Wanted: g.by.String()}
	for _, r := range ledger {
		if r.Phase == tokenstore.ReplayRunning && slices.Contains(r.Groups, g.name) {
			refusal.Running = r.ID
		}
	}
	message := refusal.Error()
	if ahead, found := tokenstore.ResetAhead(ledger, g.name, refusal.Wanted); found && refusal.Running == "" {
		if _, resets := handler.ResetterOf(g.handler); resets || slices.Contains(ahead.Unguarded, g.name) {
			return nil
		}
		message = fmt.Sprintf("the sequencing changes with replay %s, and the group has no reset: register its handler with one (for SQL: set handler.sql.reset),"+
			" or set replay: Allow if its handler may see events twice", ahead.ID)
	}
	return &tokenstore.Fault{Kind: tokenstore.DefinitionFault, Reason: tokenstore.SequencingChanged, Message: message, Since: time.Now()}
}

// judgeSequencing takes note, and tells where it is news.
func (l *life) judgeSequencing(g *group, differs bool, fault *tokenstore.Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	message := func(f *tokenstore.Fault) string {
		if f == nil {
			return ""
		}
		return f.Message
	}
	if g.differs == differs && message(g.unagreed) == message(fault) {
		return
	}
	switch {
	case fault != nil:
		l.log.Error("a group cannot be handled", "group", g.name, "reason", fault.Reason, "error", fault.Message)
	case differs:
		l.log.Info("a group waits for a replay to change its sequencing", "group", g.name, "sequencing", g.by.String())
	default:
		l.log.Info("a group has this definition's sequencing now", "group", g.name, "sequencing", g.by.String())
	}
	g.differs, g.unagreed = differs, fault
	l.news.Store(true)
	l.look()
}
