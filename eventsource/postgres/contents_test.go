package postgres_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/eventsource"
)

// TestPagesWithoutContentsAreTheSameButForThem reads a table with all that there is of events, with less, and with less until all is needed.
func TestPagesWithoutContentsAreTheSameButForThem(t *testing.T) {
	for _, name := range []string{"own table", "outbox"} {
		t.Run(name, func(t *testing.T) {
			on := subjects[name](t)
			for _, stream := range []string{"a", "b", "a"} {
				if err := on.append(t.Context(), stream, 3); err != nil {
					t.Fatal(err)
				}
			}
			all := newReader(t, on.source, earliest).all()
			if len(all) != 9 || len(all[0].Data) == 0 || len(all[0].Metadata) == 0 {
				t.Fatalf("vacuous: %d events, the first is %+v", len(all), all[0])
			}
			without := on.source.WithoutContents()
			bare := newReader(t, without.WithPageBytes(1_000_000), earliest)
			var got []*eventsource.Event
			for range 2 {
				got = append(got, bare.next(2).Events...)
			}
			without.NeedContents()
			for range 3 {
				got = append(got, bare.next(2).Events...)
			}
			for i, e := range all[:4] {
				if len(got[i].Data)+len(got[i].Metadata)+len(got[i].ID) > 0 || got[i].Version != 0 {
					t.Errorf("the event at %d has contents: %+v", e.Position, got[i])
				}
				e.Data, e.Metadata, e.ID, e.Version = got[i].Data, got[i].Metadata, got[i].ID, got[i].Version
			}
			if d := cmp.Diff(all, got); d != "" {
				t.Error(d)
			}
		})
	}
}
