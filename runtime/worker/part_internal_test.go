package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/feed"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// TestASharedBatchIsClaimedAgainOnlyIfItsOutcomeIsUnknown ends a batch of two segments: of one that
// was not sent it is known that it did not commit.
func TestASharedBatchIsClaimedAgainOnlyIfItsOutcomeIsUnknown(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		owned bool
	}{
		"no connection in time": {fmt.Errorf("%w: no more than 3", tokenstore.ErrNoConnection), true},
		"a lost connection":     {errors.New("unexpected EOF"), false},
		"a fenced batch":        {tokenstore.ErrFenced, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &life{Worker: &Worker{}, errors: postgres.Errors{}, log: slog.New(slog.DiscardHandler), runnable: runQueue{most: 1}, nudge: make(chan struct{}, 1), epoch: time.Now(),
				segments: map[tokenstore.Key]*segmentRun{},
				settings: settings{known: true, live: definition.Live{Groups: []definition.LiveGroup{{Name: "view"}}}}}
			l.feed = feed.New(endless{}, feed.Options{}, l.log, func(tokenstore.Key) {}, func(error) {})
			l.trust(time.Now(), tokenstore.TimingOf(0))
			var portions []portion
			for id := range uint32(2) {
				s := segmentOf(t, endless{})
				s.group, s.Token.Group, s.Token.Segment = &group{name: "view", shares: true}, "view", id
				l.segments[s.key()] = s
				if !l.take(s) {
					t.Fatal("a segment cannot be taken")
				}
				portions = append(portions, portion{s: s, b: batch{}})
			}
			l.part(t.Context(), portions, test.err)
			for _, p := range portions {
				if owned := l.segments[p.s.key()] == p.s; owned != test.owned || l.runnable.queued[p.s] != test.owned {
					t.Errorf("segment %d: owned %t, queued %t", p.s.Token.Segment, owned, l.runnable.queued[p.s])
				}
			}
		})
	}
}
