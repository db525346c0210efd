package memory_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/memory"
)

// TestOnCommitTellsOfEachTransaction shows what a history of a store in memory rests on: what has
// committed, and nothing else.
func TestOnCommitTellsOfEachTransaction(t *testing.T) {
	ctx, db := context.Background(), memory.New(time.Now)
	store := db.Store()
	type change struct{ Segment, Mask, Epoch, Version, Owner int64 }
	type commit struct {
		Before, After []change
		Appends       map[string]string
	}
	var got []commit
	db.OnCommit(func(c memory.Commit) {
		told := commit{Appends: c.Appends}
		of := func(t *tokenstore.Token) []change {
			if t == nil {
				return nil
			}
			return []change{{int64(t.Segment), int64(t.Mask), t.Epoch, t.Version, t.Owner}}
		}
		for _, c := range c.Changes {
			told.Before, told.After = append(told.Before, of(c.Before)...), append(told.After, of(c.After)...)
		}
		got = append(got, told)
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key := tokenstore.Key{Group: "view"}
	must(store.Declare(ctx, tokenstore.Owner{Processor: "p"}, []tokenstore.Group{{Name: "view", Segments: 1}}, nil, func(string) (progress.Progress, error) { return progress.Progress{}, nil }))
	_, err := store.Claim(ctx, "p", 7, 1, []tokenstore.Claim{{Key: key, Epoch: 1}})
	must(err)
	write := func(tx tokenstore.Tx) error {
		tx.(*memory.Tx).Append("row", "text")
		return nil
	}
	if err := store.InTx(ctx, []tokenstore.Advance{{Key: key, Epoch: 1, Version: 1}}, write); !errors.Is(err, tokenstore.ErrFenced) {
		t.Fatalf("a batch under an outdated epoch: %v", err)
	}
	parts := []progress.Part{{Segment: segment.Root, Progress: progress.Progress{Position: 1}}}
	must(store.InTx(ctx, []tokenstore.Advance{{Key: key, Epoch: 2, Version: 2, Parts: parts}}, write))
	must(store.Split(ctx, "view", segment.Root))
	must(store.Merge(ctx, "view", segment.Segment{ID: 0, Mask: 1}))
	want := []commit{
		{After: []change{{0, 0, 1, 1, 0}}},
		{Before: []change{{0, 0, 1, 1, 0}}, After: []change{{0, 0, 2, 2, 7}}},
		{Before: []change{{0, 0, 2, 2, 7}}, After: []change{{0, 0, 2, 3, 7}}, Appends: map[string]string{"row": "text"}},
		{Before: []change{{0, 0, 2, 3, 7}}, After: []change{{0, 1, 3, 4, 0}, {1, 1, 3, 4, 0}}},
		{Before: []change{{0, 1, 3, 4, 0}, {1, 1, 3, 4, 0}}, After: []change{{0, 0, 4, 5, 0}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the commits differ (-want +got):\n%s", diff)
	}
}
