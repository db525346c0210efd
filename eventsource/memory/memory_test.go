package memory_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/memory"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// TestEveryEventIsReadOnce has readers of segments read pages of random sizes, which they take in
// parts, while events are appended: each gets the events of its segment once, in their order, and
// its coverage says which.
func TestEveryEventIsReadOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		log := memory.New(time.Now)
		source := log.Source()
		layout, err := segment.Layout(rapid.IntRange(1, 4).Draw(t, "segments"))
		if err != nil {
			t.Fatal(err)
		}
		got := make([][]int64, len(layout))
		at := make([]eventsource.Coverage, len(layout))
		for i := range at {
			if at[i], err = source.Parse(progress.Progress{}); err != nil {
				t.Fatal(err)
			}
		}
		read := func(limit int) (more bool) {
			page, err := source.Read(ctx, at, layout, limit)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range layout {
				c := at[i]
				for _, e := range page.Events {
					if !s.Contains(e.Hash) || c.Covers(e) {
						continue
					}
					got[i] = append(got[i], e.Position)
					if c = page.After(c, e); !c.Covers(e) {
						t.Fatalf("the coverage %d after event %d lacks it", c.Position(), e.Position)
					}
				}
				at[i] = page.After(c, nil)
			}
			return page.More
		}
		n := 0
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			for range rapid.IntRange(0, 10).Draw(t, "events") {
				n++
				log.Append(fmt.Sprint(rapid.IntRange(1, 7).Draw(t, "stream")), "A", nil)
			}
			read(rapid.IntRange(1, 8).Draw(t, "limit"))
		}
		for read(5) {
		}
		all := 0
		for i, positions := range got {
			all += len(positions)
			for j := 1; j < len(positions); j++ {
				if positions[j-1] >= positions[j] {
					t.Fatalf("segment %s got %v", layout[i], positions)
				}
			}
			if at[i].Position() != int64(n) {
				t.Errorf("segment %s has come to %d of %d", layout[i], at[i].Position(), n)
			}
		}
		if all != n {
			t.Errorf("%d of %d events were read: %v", all, n, got)
		}
	})
}

func TestDistanceIsHowManyPositionsOneIsAhead(t *testing.T) {
	source := memory.New(time.Now).Source()
	at := func(position int64) progress.Progress { return progress.Progress{Position: position} }
	for name, c := range map[string]struct {
		from, to progress.Progress
		want     int64
	}{
		"from the start": {at(0), at(7), 7},
		"ahead":          {at(3), at(7), 4},
		"the same":       {at(7), at(7), 0},
		"behind":         {at(7), at(3), 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := source.Distance(c.from, c.to); err != nil || got != c.want {
				t.Errorf("%d, %v, want %d", got, err, c.want)
			}
			from, err := source.Parse(c.from)
			if err != nil {
				t.Fatal(err)
			}
			to, err := source.Parse(c.to)
			if err != nil {
				t.Fatal(err)
			}
			if got := from.Distance(to); got != c.want {
				t.Errorf("%d between the coverages, want %d", got, c.want)
			}
		})
	}
	other := progress.Progress{Position: 7, State: "3:4:"}
	for _, pair := range [][2]progress.Progress{{other, at(0)}, {at(0), other}} {
		if d, err := source.Distance(pair[0], pair[1]); err == nil {
			t.Errorf("from %v to %v, which another source has written: %d", pair[0], pair[1], d)
		}
	}
}
