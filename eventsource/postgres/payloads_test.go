package postgres_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/eventsource"
)

// TestPagesWithoutPayloadsAreTheSameButForThem reads a table with payloads, without them, and without them until they are needed.
func TestPagesWithoutPayloadsAreTheSameButForThem(t *testing.T) {
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
			without := on.source.WithoutPayloads()
			bare := newReader(t, without.WithPageBytes(1_000_000), earliest)
			var got []*eventsource.Event
			for range 2 {
				got = append(got, bare.next(2).Events...)
			}
			without.NeedPayloads()
			for range 3 {
				got = append(got, bare.next(2).Events...)
			}
			for i, e := range all[:4] {
				if len(got[i].Data)+len(got[i].Metadata) > 0 {
					t.Errorf("the event at %d has a payload", e.Position)
				}
				e.Data, e.Metadata = got[i].Data, got[i].Metadata
			}
			if d := cmp.Diff(all, got); d != "" {
				t.Error(d)
			}
		})
	}
}
