package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const byCustomer = "Property:customer.id/java"

// declareAs declares the group view with a sequencing, and the replays that are asked for in the same edit.
func declareAs(s *postgres.Store, sequencing string, requested ...tokenstore.ReplayRequest) error {
	return s.Declare(context.Background(), processor, []tokenstore.Group{{Name: "view", Segments: 4, Sequencing: sequencing}}, requested, fromTheStart)
}

func resequencing(r *tokenstore.ReplayRequest) {
	r.Sequencing = map[string]string{"view": byCustomer}
}

// refused returns the store's refusal of a sequencing.
func refused(t *testing.T, err error) *tokenstore.SequencingChangedError {
	t.Helper()
	var changed *tokenstore.SequencingChangedError
	if !errors.As(err, &changed) {
		t.Fatalf("it is not refused: %v", err)
	}
	return changed
}

func TestAGroupsSequencingIsRecorded(t *testing.T) {
	store, _ := declared(t, 4)
	if err := store.Declare(context.Background(), processor, []tokenstore.Group{{Name: "view", Segments: 4}, {Name: "other", Segments: 1, Sequencing: byCustomer}}, nil, fromTheStart); err != nil {
		t.Fatal(err)
	}
	groups, err := store.Groups(context.Background(), processor)
	if err != nil || len(groups) != 2 || groups[0].Sequencing != byCustomer || groups[1].Sequencing != "Stream/pg1" {
		t.Fatalf("%+v, %v", groups, err)
	}
	for _, token := range tokens(t, store) {
		if want := map[string]string{"view": "Stream/pg1", "other": byCustomer}[token.Group]; token.Sequencing != want {
			t.Errorf("token %+v: %s, want %s", token.Key, token.Sequencing, want)
		}
	}
}

func TestAChangeOfTheSequencingIsRefused(t *testing.T) {
	store, pool := declared(t, 4)
	for name, requested := range map[string][]tokenstore.ReplayRequest{
		"without a replay":                     nil,
		"with one of another group":            {asked("x", resequencing, of("other"))},
		"with one of the former definition":    {asked("x")},
		"with one that is cancelled":           {asked("x", resequencing, func(r *tokenstore.ReplayRequest) { r.State = tokenstore.ReplayToBeCancelled })},
		"with one to yet another sequencing":   {asked("x", func(r *tokenstore.ReplayRequest) { r.Sequencing = map[string]string{"view": "Sequential/pg1"} })},
		"with one that was bound before it":    {asked("bound", resequencing)},
		"with one whose id has run already":    {asked("failed", resequencing)},
		"with one that was superseded already": {asked("superseded", resequencing)},
	} {
		request(t, store, processor, asked("bound"), asked("failed", resequencing), asked("superseded", resequencing))
		set(t, pool, "failed", "phase = 'Failed', ended_at = clock_timestamp()")
		set(t, pool, "superseded", "phase = 'Superseded', ended_at = clock_timestamp()")
		changed := refused(t, declareAs(store, byCustomer, requested...))
		if *changed != (tokenstore.SequencingChangedError{Group: "view", Recorded: "Stream/pg1", Wanted: byCustomer}) {
			t.Errorf("%s: %+v", name, changed)
		}
		for _, part := range []string{"group view", "Stream/pg1", byCustomer, "spec.replay with a new id"} {
			if !strings.Contains(changed.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, changed, part)
			}
		}
	}
	if all := tokens(t, store); all[0].Sequencing != "Stream/pg1" {
		t.Errorf("a refused declaration has left %s", all[0].Sequencing)
	}
	if err := declareAs(store, "Stream/pg1"); err != nil {
		t.Errorf("changed back: %v", err)
	}
}

func TestAGroupWithoutTokensTakesAnySequencing(t *testing.T) {
	store, _ := declared(t, 4)
	if err := store.Drop(context.Background(), processor); err != nil {
		t.Fatal(err)
	}
	if err := declareAs(store, byCustomer); err != nil {
		t.Fatal(err)
	}
	if all := tokens(t, store); len(all) != 4 || all[0].Sequencing != byCustomer {
		t.Fatalf("%+v", all)
	}
}

func TestOnlyWorkersOfItsSequencingClaimAToken(t *testing.T) {
	store, _ := declared(t, 4)
	claimed := func(sequencing string) int {
		t.Helper()
		var claims []tokenstore.Claim
		for _, token := range tokens(t, store) {
			claims = append(claims, tokenstore.Claim{Key: token.Key, Epoch: token.Epoch, Sequencing: sequencing})
		}
		got, err := store.Claim(context.Background(), processor, 1, 1, claims)
		if err != nil {
			t.Fatal(err)
		}
		return len(got)
	}
	for _, sequencing := range []string{byCustomer, "Stream/java", "Broadcast/pg1"} {
		if n := claimed(sequencing); n != 0 {
			t.Errorf("%d tokens of Stream/pg1 were claimed by a worker of %s", n, sequencing)
		}
	}
	if n := claimed("Stream/pg1"); n != 4 {
		t.Errorf("%d of 4 tokens were claimed by their own sequencing", n)
	}
}

// TestTheResetChangesTheSequencing goes the way of a change: asked for, agreed to, and made in the reset's transaction.
func TestTheResetChangesTheSequencing(t *testing.T) {
	ctx := context.Background()
	store, pool := declared(t, 4)
	directory := postgres.NewDirectory(pool, postgres.DefaultSchema)
	change := asked("change", resequencing)
	if err := declareAs(store, byCustomer, change); err != nil {
		t.Fatalf("a change with a replay: %v", err)
	}
	if err := directory.DeclareProcessor(ctx, tokenstore.Processor{Name: processor, Definition: "d1", Live: json.RawMessage("{}")}); err != nil {
		t.Fatal(err)
	}
	request(t, store, processor, change)
	replays, err := store.Replays(ctx, processor)
	if err != nil {
		t.Fatal(err)
	}
	if _, ahead := tokenstore.ResetAhead(replays, "view", byCustomer); !ahead {
		t.Fatalf("no reset is ahead: %+v", replays)
	}
	before := claim(t, store, 1, tokens(t, store)...)
	for i, at := range []int64{70, 20, 30, 40} { // the segments have come unequally far
		if err := store.Advance(ctx, []tokenstore.Advance{to(before[i], at)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.BeginReset(ctx, processor, replays[0]); err != nil {
		t.Fatal(err)
	}
	if err := declareAs(store, byCustomer, change); err != nil {
		t.Errorf("declared again in the middle of the reset: %v", err)
	}
	source := eventspostgres.NewSource(pool, postgres.DefaultSchema)
	start := tokenstore.Progress{Position: 50, Snapshot: "9:9:"}
	replays[0].From = tokenstore.Place{Type: tokenstore.AtPosition, Position: "51"}
	if err := store.Reset(ctx, processor, replays[0], source, start, func(uint32) {}, func(context.Context, pgx.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens(t, store) {
		if token.Sequencing != byCustomer || len(token.Parts) != 1 || token.Parts[0].Progress.Position != 20 {
			t.Errorf("%+v: all are to be at 20, which all have come to", token)
		}
	}
	running, err := store.Replaying(ctx, processor)
	if err != nil || len(running["view"].Boundaries) != 4 {
		t.Fatalf("%+v, %v", running, err)
	}
	for _, b := range running["view"].Boundaries {
		if b.Sequencing != "Stream/pg1" || b.Start != 20 {
			t.Errorf("boundary %+v: it was made by Stream/pg1, and handling again begins at 20", b)
		}
	}
	if row, _ := entry(t, store, processor, "change"); row.Total != 50 {
		t.Errorf("%d positions are to be handled again, want those from 20 to 70", row.Total)
	}
	if err := declareAs(store, byCustomer, change); err != nil {
		t.Errorf("declared again after the reset: %v", err)
	}
	back := asked("back", func(r *tokenstore.ReplayRequest) { r.Sequencing = map[string]string{"view": "Stream/pg1"} })
	if changed := refused(t, declareAs(store, "Stream/pg1", back)); changed.Running != "change" || !strings.Contains(changed.Error(), "replay change") {
		t.Errorf("another change in the middle of the replay: %v", changed)
	}
	if err := store.Complete(ctx, replays[0]); err != nil {
		t.Fatal(err)
	}
	if err := declareAs(store, "Stream/pg1", back); err != nil {
		t.Errorf("another change after it: %v", err)
	}
}
