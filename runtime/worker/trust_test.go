package worker

import (
	"testing"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func TestABatchBeginsOnlyWhileTheLeaseIsTrusted(t *testing.T) {
	l := &life{errors: postgres.Errors{}, epoch: time.Now().Add(-time.Hour), settings: settings{known: true, live: definition.Live{Groups: []definition.LiveGroup{{Name: "g"}}}}}
	timing := tokenstore.TimingOf(20 * time.Second)
	for name, test := range map[string]struct {
		sent time.Duration // how long ago
		want bool
	}{
		"just renewed":              {0, true},
		"shortly before the margin": {timing.Lease - timing.Margin - time.Second, true},
		"in the margin":             {timing.Lease - timing.Margin, false},
		"its lease is over":         {timing.Lease, false},
	} {
		l.trust(time.Now().Add(-test.sent), timing)
		s := &segmentRun{group: &group{name: "g"}}
		if got := l.take(s); got != test.want || s.Busy() != test.want {
			t.Errorf("%s: a batch begins: %t, want %t", name, got, test.want)
		}
	}
}

// TestASegmentThatWasNotTakenIsQueuedWhenTheLeaseIsTrustedAgain: nothing else would have it go on
// before the next event of its.
func TestASegmentThatWasNotTakenIsQueuedWhenTheLeaseIsTrustedAgain(t *testing.T) {
	timing := tokenstore.TimingOf(20 * time.Second)
	for name, test := range map[string]struct {
		sent time.Duration // how long ago the heartbeat before was
		want bool
	}{"after a lapse": {timing.Lease, true}, "without one": {0, false}} {
		t.Run(name, func(t *testing.T) {
			l := &life{errors: postgres.Errors{}, Worker: &Worker{}, runnable: runQueue{most: 1}, epoch: time.Now().Add(-time.Hour), segments: map[tokenstore.Key]*segmentRun{},
				settings: settings{known: true, live: definition.Live{Groups: []definition.LiveGroup{{Name: "view"}}}}}
			s := segmentOf(t, endless{})
			s.group = &group{name: "view"}
			l.segments[s.key()] = s
			l.trust(time.Now().Add(-test.sent), timing)
			if l.take(s) == test.want {
				t.Fatalf("taken: %t", !test.want)
			}
			l.renew(time.Now(), timing)
			if queued := l.runnable.queued[s]; queued != test.want {
				t.Errorf("queued: %t, want %t", queued, test.want)
			}
			if !l.trusts() {
				t.Error("the lease is not trusted")
			}
		})
	}
}
