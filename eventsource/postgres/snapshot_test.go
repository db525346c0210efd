package postgres

import (
	"slices"
	"testing"

	"github.com/sluice-project/sluice/progress"

	"pgregory.net/rapid"
)

// snapshots draws snapshots of few transactions, so that two of them have much in common.
func snapshots() *rapid.Generator[Snapshot] {
	return rapid.Custom(func(t *rapid.T) Snapshot {
		xmin := rapid.Uint64Range(1, 12).Draw(t, "xmin")
		s := Snapshot{xmin: xmin, xmax: xmin + rapid.Uint64Range(0, 8).Draw(t, "running")}
		for x := xmin; x < s.xmax; x++ {
			if rapid.Bool().Draw(t, "in xip") {
				s.xip = append(s.xip, x)
			}
		}
		return s
	})
}

func seen(s Snapshot) (all []uint64) {
	for x := uint64(1); x < 30; x++ {
		if s.Visible(x) {
			all = append(all, x)
		}
	}
	return all
}

func TestAMeetSeesWhatBothSee(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := snapshots().Draw(t, "a"), snapshots().Draw(t, "b")
		want := slices.DeleteFunc(seen(a), func(x uint64) bool { return !b.Visible(x) })
		meet := a.Meet(b)
		if got := seen(meet); !slices.Equal(got, want) {
			t.Fatalf("%s meets %s in %s, which sees %v, want %v", a, b, meet, got, want)
		}
		if _, err := ParseSnapshot(meet.String()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestContains(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := snapshots().Draw(t, "a"), snapshots().Draw(t, "b")
		if a.xmax < b.xmax && slices.Equal(seen(a), seen(b)) {
			t.Skip("a snapshot of a server that sees as much has as high an xmax")
		}
		sees := true
		for _, x := range seen(b) {
			sees = sees && a.Visible(x)
		}
		if got := a.Contains(b); got && !sees {
			t.Fatalf("%s contains %s", a, b)
		} else if !got && sees && a.xmax >= b.xmax {
			t.Fatalf("%s does not contain %s", a, b)
		}
	})
}

func TestTheTextOfASnapshotIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := snapshots().Draw(t, "s").String()
		if s, err := ParseSnapshot(text); err != nil || s.String() != text {
			t.Fatalf("%q became %q, error %v", text, s, err)
		}
	})
}

func TestTheZeroSnapshotSeesNothing(t *testing.T) {
	if got := seen(Snapshot{}); got != nil {
		t.Errorf("it sees %v", got)
	}
	if s, err := ParseSnapshot(Snapshot{}.String()); err != nil || seen(s) != nil {
		t.Errorf("from its text it sees %v, error %v", seen(s), err)
	}
}

func FuzzProgressIsKept(f *testing.F) {
	f.Add(int64(0), "")
	f.Add(int64(900), "1000:1300:1100,1200")
	f.Add(int64(900), "1000:1300:1100,1200 47@1100:1400: 3@1500:1500:")
	f.Add(int64(900), "1000:1300:1300 47@1100:1400: 901@1500:1500:")
	f.Add(int64(7), "01:2:")
	f.Fuzz(func(t *testing.T, position int64, snapshot string) {
		p := progress.Progress{Position: position, State: snapshot}
		c, err := parseProgress(p)
		if err != nil {
			return
		}
		if got := c.Progress(); got != p {
			t.Errorf("%v became %v", p, got)
		}
		for i := 1; i < len(c.steps); i++ {
			if c.steps[i].through <= c.steps[i-1].through || !c.steps[i-1].snapshot.Contains(c.steps[i].snapshot) {
				t.Errorf("%v is not a staircase", p)
			}
		}
	})
}

func TestProgressThatMeansNothingIsRefused(t *testing.T) {
	for name, p := range map[string]progress.Progress{
		"no position":               {Position: 0, State: "3:3:"},
		"below zero":                {Position: -4, State: "3:3:"},
		"no snapshot":               {Position: 4},
		"two fields":                {Position: 4, State: "3:3"},
		"a sign":                    {Position: 4, State: "3:+3:"},
		"xmin above xmax":           {Position: 4, State: "4:3:"},
		"xip not ascending":         {Position: 4, State: "3:9:5,4"},
		"xip from xmax":             {Position: 4, State: "3:9:9"},
		"xip below xmin":            {Position: 4, State: "3:9:2"},
		"step without a snapshot":   {Position: 4, State: "3:9: 3"},
		"step above the first":      {Position: 4, State: "3:9: 5@3:10:"},
		"step that sees no more":    {Position: 4, State: "3:9: 3@3:9:"},
		"step that sees less":       {Position: 4, State: "3:9: 3@3:9:5"},
		"position with a zero":      {Position: 4, State: "3:9: 03@3:10:"},
		"text after the last field": {Position: 4, State: "3:9: 3@3:10: "},
	} {
		if c, err := parseProgress(p); err == nil {
			t.Errorf("%s: %v was read as %v", name, p, c.steps)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
