package failure_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/runtime/failure"
	"github.com/sluice-project/sluice/tokenstore"
)

var policy = failure.Policy{Initial: time.Second, Max: 10 * time.Second}

// never has no jitter.
func never() float64 { return 0 }

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		failed failure.Failed
		want   failure.Decision
	}{
		"one event fails":                        {failure.Failed{Kind: tokenstore.EventFault, Events: 1}, failure.Decision{Action: failure.Count, Wait: time.Second}},
		"one event fails again":                  {failure.Failed{Kind: tokenstore.EventFault, Events: 1, Attempts: 2}, failure.Decision{Action: failure.Count, Wait: 4 * time.Second}},
		"one event fails often":                  {failure.Failed{Kind: tokenstore.EventFault, Events: 1, Attempts: 1000}, failure.Decision{Action: failure.Count, Wait: 10 * time.Second}},
		"one of several fails":                   {failure.Failed{Kind: tokenstore.EventFault, Events: 8, Culprit: -1}, failure.Decision{Action: failure.Halve}},
		"one of several hangs":                   {failure.Failed{Kind: tokenstore.EventFault, Events: 8, Culprit: -1, TimedOut: true}, failure.Decision{Action: failure.Single}},
		"one of several hangs, and is known":     {failure.Failed{Kind: tokenstore.EventFault, Events: 8, Culprit: 2, TimedOut: true}, failure.Decision{Action: failure.Isolate}},
		"one of several fails, and is known":     {failure.Failed{Kind: tokenstore.EventFault, Events: 8, Culprit: 0}, failure.Decision{Action: failure.Isolate}},
		"a batch that may have committed":        {failure.Failed{Kind: tokenstore.EventFault, Events: 1, Unknown: true}, failure.Decision{Action: failure.Reclaim}},
		"the definition fails":                   {failure.Failed{Kind: tokenstore.DefinitionFault, Events: 1}, failure.Decision{Action: failure.Retry, Wait: time.Second}},
		"the definition fails again":             {failure.Failed{Kind: tokenstore.DefinitionFault, Events: 1, Repeats: 1}, failure.Decision{Action: failure.Retry, Wait: 2 * time.Second}},
		"the definition fails at one of several": {failure.Failed{Kind: tokenstore.DefinitionFault, Events: 8, Culprit: -1}, failure.Decision{Action: failure.Halve}},
		"the definition fails, and at which":     {failure.Failed{Kind: tokenstore.DefinitionFault, Events: 8, Culprit: 3}, failure.Decision{Action: failure.Isolate}},
		"others are in the way":                  {failure.Failed{Kind: tokenstore.ContentionFault, Events: 8}, failure.Decision{Action: failure.Shrink, Wait: 40 * time.Millisecond}},
		"others are in the way for long":         {failure.Failed{Kind: tokenstore.ContentionFault, Events: 1, Repeats: 7}, failure.Decision{Action: failure.Shrink, Wait: 80 * time.Millisecond}},
		"the server fails":                       {failure.Failed{Kind: tokenstore.InfrastructureFault, Events: 8}, failure.Decision{Action: failure.Retry, Wait: 100 * time.Millisecond}},
		"the connection is lost":                 {failure.Failed{Kind: tokenstore.InfrastructureFault, Events: 8, Unknown: true}, failure.Decision{Action: failure.Reclaim, Wait: 100 * time.Millisecond}},
		"the connection is lost again and again": {failure.Failed{Kind: tokenstore.InfrastructureFault, Events: 8, Unknown: true, Repeats: 50}, failure.Decision{Action: failure.Reclaim, Wait: 5 * time.Second}},
	} {
		if diff := cmp.Diff(test.want, failure.Decide(test.failed, policy, never)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestDecideCountsOnlySingleEventsAndNeverSpins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := failure.Failed{
			Kind: rapid.SampledFrom([]tokenstore.FaultKind{tokenstore.EventFault, tokenstore.DefinitionFault, tokenstore.ContentionFault,
				tokenstore.InfrastructureFault, "of a later version"}).Draw(t, "kind"),
			Events: rapid.IntRange(1, 10000).Draw(t, "events"), Unknown: rapid.Bool().Draw(t, "unknown"), TimedOut: rapid.Bool().Draw(t, "timed out"),
			Attempts: rapid.IntRange(0, 1<<30).Draw(t, "attempts"), Repeats: rapid.IntRange(0, 1<<30).Draw(t, "repeats"),
		}
		f.Culprit = rapid.IntRange(-1, f.Events-1).Draw(t, "culprit")
		p := failure.Policy{Initial: time.Duration(rapid.Int64Range(1e7, 36e11).Draw(t, "initial"))}
		p.Max = p.Initial + time.Duration(rapid.Int64Range(0, 36e11).Draw(t, "more"))
		random := rapid.Float64Range(0, 0.999).Draw(t, "random")
		d := failure.Decide(f, p, func() float64 { return random })
		if d.Action == failure.Count && (f.Events != 1 || f.Unknown || f.Kind != tokenstore.EventFault) {
			t.Errorf("%+v counts an attempt", f)
		}
		if f.Unknown && d.Action != failure.Reclaim {
			t.Errorf("%+v goes on without another claim", f)
		}
		smaller := (d.Action == failure.Halve || d.Action == failure.Isolate || d.Action == failure.Single) && f.Events > 1
		blames := f.Kind == tokenstore.EventFault || f.Kind == tokenstore.DefinitionFault
		if blames && !f.Unknown && f.Events > 1 && !smaller {
			t.Errorf("%+v is tried again as it is: nobody learns at which event", f)
		}
		if d.Wait < 10*time.Millisecond*3/4 && !smaller && (!f.Unknown || f.Kind != tokenstore.EventFault) {
			t.Errorf("%+v is tried again after %s", f, d.Wait)
		}
		if d.Wait > max(p.Max, 5*time.Second) {
			t.Errorf("%+v waits for %s", f, d.Wait)
		}
	})
}
