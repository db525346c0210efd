package stores

import (
	"testing"
	"time"

	"github.com/sluice-project/sluice/internal/postgrestest"
)

func TestPaceOfSplitsAndMerges(t *testing.T) {
	var p paces
	for _, look := range []struct {
		after          time.Duration
		segments, want int
		perMinute      int
	}{
		{0, 1, 1000, 0},
		{time.Second, 61, 1000, 0}, // too early to tell
		{2 * time.Second, 121, 1000, 3600},
		{10 * time.Second, 201, 1000, 1200},
		{40 * time.Second, 231, 1000, 60},      // what was more than half a minute ago does not count
		{71 * time.Second, 231, 1000, 0},       // it stands
		{72 * time.Second, 231, 3, 0},          // it is to become another number
		{76 * time.Second, 227, 3, 60},         // the other way
		{106 * time.Second, 226, 3, 2},         // 1 in 30 s
		{107 * time.Second, 3, 3, 0},           // done
		{120 * time.Second, 4, 1000, 0},        // begins anew
		{150 * time.Second, 5, 1000, 2},        //
		{181 * time.Second, 999, 1000, 0},      // nothing is known of the last half minute
		{184 * time.Second, 1000, 1000, 0},     // done
		{185 * time.Second, 1000, 1000, 0},     // and stays so
		{186 * time.Second, 1000, 1000 + 1, 0}, // begins anew
	} {
		groups := []Group{{Name: "view", Segments: look.segments, Wanted: look.want}, {Name: "rests", Segments: 4, Wanted: 4}}
		p.add(groups, now.Add(look.after))
		if got := groups[0].Pace.PerMinute; got != look.perMinute {
			t.Errorf("after %s with %d of %d segments: %d a minute, want %d", look.after, look.segments, look.want, got, look.perMinute)
		}
		if at := groups[0].Pace.At; (look.perMinute > 0) != at.Equal(now.Add(look.after)) {
			t.Errorf("after %s the pace is of %s", look.after, at)
		}
		if groups[1].Pace != (Pace{}) {
			t.Errorf("a group that rests has a pace: %v", groups[1].Pace)
		}
	}
	if len(p) != 1 {
		t.Errorf("%d groups are remembered", len(p))
	}
}

func TestThePaceOfSplitsIsKnownWhileTheyGoOn(t *testing.T) {
	s, news := runStores(t, postgrestest.New(t))
	s.Want(orders, wantedIn())
	until(t, s, news, "four segments", func(o Observation) bool { return o.Seen && o.Facts.Groups[0].Segments == 4 })
	const many = 20_000
	s.Want(orders, wantedIn(func(w *Wanted) { w.Generation, w.Spec.ProcessingGroups[0].Segments = 2, many }))
	o := until(t, s, news, "a pace", func(o Observation) bool { return o.Facts.Groups[0].Pace.PerMinute > 0 })
	if g := o.Facts.Groups[0]; g.Segments <= 4 || g.Segments >= many || g.StepsLeft() != many-g.Segments {
		t.Errorf("with %d segments %d steps are left, at %d a minute", g.Segments, g.StepsLeft(), g.Pace.PerMinute)
	}
}
