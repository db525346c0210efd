package worker

import (
	"testing"

	"github.com/sluice-project/sluice/eventsource"
)

// TestEachEventOfACallThatDidNotEndIsHandledAlone has a stream whose events do not come in the order
// of their positions.
func TestEachEventOfACallThatDidNotEndIsHandledAlone(t *testing.T) {
	t.Parallel()
	s := &segmentRun{unended: span{from: 50, to: 60}}
	for _, position := range []int64{60, 50} {
		e := &eventsource.Event{Position: position}
		if !s.isolated(e) {
			t.Errorf("the event at position %d is not handled alone", position)
		}
		s.passed([]*eventsource.Event{e})
	}
	if s.isolated(&eventsource.Event{Position: 61}) {
		t.Error("an event of no such call is handled alone")
	}
}
