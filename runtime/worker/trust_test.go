package worker

import (
	"testing"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore"
)

func TestABatchBeginsOnlyWhileTheLeaseIsTrusted(t *testing.T) {
	l := &life{epoch: time.Now().Add(-time.Hour), settings: settings{known: true, live: definition.Live{Groups: []definition.LiveGroup{{Name: "g"}}}}}
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
