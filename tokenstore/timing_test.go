package tokenstore_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/tokenstore"
)

func TestTimingFitsTogetherForEveryLease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lease := time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "lease"))
		timing := tokenstore.TimingOf(lease)
		if err := timing.Check(); err != nil {
			t.Error(err)
		}
		if lease >= tokenstore.ShortestLease && lease <= tokenstore.LongestLease && timing.Lease != lease {
			t.Errorf("a lease of %s is one of %s", lease, timing.Lease)
		}
	})
	if got := tokenstore.TimingOf(0).Lease; got != tokenstore.Lease {
		t.Errorf("no lease is one of %s", got)
	}
}
