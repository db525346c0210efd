package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// TestAClaimHasThePartsOfTheTokenThatItClaimed has the owner of the last of many segments, whose halves have met, write so while all of them are claimed: after the claim's
// statement has begun, and before it comes to that one. Whoever took the parts of before would handle events again.
func TestAClaimHasThePartsOfTheTokenThatItClaimed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const segments, rounds, atMost = 2048, 10, 200 // more rounds where the machine is so busy that no write has come before its claim
	store, pool := declared(t, segments)
	met := 0
	for round := 0; round < rounds || met == 0; round++ {
		if round == atMost {
			t.Fatal("vacuous: no write came before its claim")
		}
		if _, err := pool.Exec(ctx, `WITH freed AS (DELETE FROM sluice.token_part) UPDATE sluice.token SET owner = 1, position = 0, snapshot = ''`); err != nil {
			t.Fatal(err)
		}
		tokens, err := store.Tokens(ctx, processor)
		if err != nil {
			t.Fatal(err)
		}
		last := tokens[len(tokens)-1]
		low, high := last.Range().Split()
		for _, half := range []segment.Segment{low, high} {
			if _, err := pool.Exec(ctx, `INSERT INTO sluice.token_part (tenant, group_name, segment, part_segment, part_mask, position, snapshot) SELECT tenant, group_name, segment, $2, $3, 0, '' FROM sluice.token WHERE segment = $1`,
				int32(last.Segment), int32(half.ID), int32(half.Mask)); err != nil {
				t.Fatal(err)
			}
		}
		var claims []tokenstore.Claim
		for _, token := range tokens {
			claims = append(claims, tokenstore.Claim{Key: token.Key, Epoch: token.Epoch})
		}
		written := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(2*(round%rounds)) * time.Millisecond) // the schedule, not a wait for something
			written <- store.Advance(ctx, []tokenstore.Advance{{Key: last.Key, Epoch: last.Epoch, Version: last.Version, WasParted: true,
				Parts: []progress.Part{{Segment: last.Range(), Progress: progress.Progress{Position: 10, State: "5:5:"}}}}})
		}()
		claimed, err := store.Claim(ctx, processor, 2, 1, claims)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-written; err != nil { // the claim came first
			continue
		}
		got := claimed[len(claimed)-1]
		if got.Key != last.Key { // the write was under way
			continue
		}
		met++
		if len(got.Parts) != 1 || got.Parts[0].Progress.Position != 10 {
			t.Fatalf("round %d: the parts of the token that was claimed are %+v", round, got.Parts)
		}
	}
}
