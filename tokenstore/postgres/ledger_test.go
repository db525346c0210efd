package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// asked is a request for a replay of the group view.
func asked(id string, change ...func(*tokenstore.ReplayRequest)) tokenstore.ReplayRequest {
	r := tokenstore.ReplayRequest{ID: id, Groups: []string{"view"}, From: tokenstore.Place{Type: tokenstore.Earliest},
		Definition: "d1", State: tokenstore.ReplayWanted}
	for _, c := range change {
		c(&r)
	}
	return r
}

func of(groups ...string) func(*tokenstore.ReplayRequest) {
	return func(r *tokenstore.ReplayRequest) { r.Groups = groups }
}

func request(t *testing.T, s *postgres.Store, processor string, requests ...tokenstore.ReplayRequest) {
	t.Helper()
	if err := s.RequestReplays(context.Background(), processor, requests); err != nil {
		t.Fatal(err)
	}
}

// entry returns a processor's row of the ledger; false where there is none.
func entry(t *testing.T, s *postgres.Store, processor, id string) (tokenstore.Replay, bool) {
	t.Helper()
	all, err := s.Replays(context.Background(), processor)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.ID == id {
			return r, true
		}
	}
	return tokenstore.Replay{}, false
}

func set(t *testing.T, pool *pgxpool.Pool, id, values string) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), "UPDATE sluice.replay SET "+values+" WHERE id = $1", id); err != nil {
		t.Fatal(err)
	}
}

func TestAPendingReplayIsWhatWasAskedForLast(t *testing.T) {
	s, pool := declared(t, 4)
	request(t, s, processor, asked("x"))
	other := asked("x", of("view", "other"), func(r *tokenstore.ReplayRequest) {
		r.From, r.Context = tokenstore.Place{Type: tokenstore.AtPosition, Position: "7"}, map[string]string{"why": "rounding"}
		r.Unguarded, r.Definition = []string{"other"}, "d2"
	})
	request(t, s, processor, other)
	row, _ := entry(t, s, processor, "x")
	want := other
	want.Definition = "d1" // without Rebind
	if diff := cmp.Diff(want, row.ReplayRequest); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	other.Rebind = true
	request(t, s, processor, other)
	if row, _ = entry(t, s, processor, "x"); row.Definition != "d2" {
		t.Errorf("bound to %s", row.Definition)
	}

	set(t, pool, "x", "phase = 'Resetting'")
	request(t, s, processor, asked("x", of("third"), func(r *tokenstore.ReplayRequest) { r.State = tokenstore.ReplayToBeCancelled }))
	row, _ = entry(t, s, processor, "x")
	want = other
	want.Rebind, want.State, want.Unguarded = false, tokenstore.ReplayToBeCancelled, []string{}
	if diff := cmp.Diff(want, row.ReplayRequest); diff != "" || row.Phase != tokenstore.ReplayResetting {
		t.Errorf("after the reset has begun: %s, -want +got\n%s", row.Phase, diff)
	}
}

func TestAResetThatWasReadBeforeItChangedDoesNotBegin(t *testing.T) {
	s, _ := declared(t, 4)
	request(t, s, processor, asked("x"))
	read, _ := entry(t, s, processor, "x")
	for name, change := range map[string]func(*tokenstore.ReplayRequest){
		"the place":  func(r *tokenstore.ReplayRequest) { r.From.Type = tokenstore.Latest },
		"the groups": of("other"),
	} {
		request(t, s, processor, asked("x", change))
		var wait *tokenstore.NotDueError
		if err := s.BeginReset(context.Background(), processor, read); !errors.As(err, &wait) || wait.Reason != tokenstore.ReplayMoved {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestWhatNobodyAsksForIsWithdrawn(t *testing.T) {
	s, pool := declared(t, 4)
	request(t, s, processor, asked("waits"), asked("resets"), asked("runs"), asked("kept"))
	set(t, pool, "resets", "phase = 'Resetting'")
	set(t, pool, "runs", "phase = 'Replaying', reset_at = clock_timestamp()")
	request(t, s, processor, asked("kept"))
	if _, there := entry(t, s, processor, "waits"); there {
		t.Error("a pending replay stays")
	}
	for id, want := range map[string]tokenstore.ReplayState{"resets": tokenstore.ReplayToBeCancelled, "runs": tokenstore.ReplayWanted, "kept": tokenstore.ReplayWanted} {
		if row, there := entry(t, s, processor, id); !there || row.State != want || row.Phase.Ended() {
			t.Errorf("%s: %t %s %s, want it to be %s", id, there, row.State, row.Phase, want)
		}
	}
}

func TestAReplayIsCancelledBeforeItsResetWithoutAWorker(t *testing.T) {
	s, pool := declared(t, 4)
	request(t, s, processor, asked("waits"), asked("runs"))
	set(t, pool, "runs", "phase = 'Replaying', reset_at = clock_timestamp()")
	cancel := func(r *tokenstore.ReplayRequest) { r.State = tokenstore.ReplayToBeCancelled }
	request(t, s, processor, asked("waits", cancel), asked("runs", cancel))
	if row, _ := entry(t, s, processor, "waits"); row.Phase != tokenstore.ReplayCancelled || row.EndedAt == nil || row.Message == "" {
		t.Errorf("%+v", row)
	}
	if row, _ := entry(t, s, processor, "runs"); row.Phase != tokenstore.ReplayRunning {
		t.Errorf("after the reset: %s", row.Phase)
	}
	request(t, s, processor, asked("waits"), asked("runs"))
	if row, _ := entry(t, s, processor, "waits"); row.Phase != tokenstore.ReplayCancelled {
		t.Errorf("an id came back: %s", row.Phase)
	}
}

// A processor that moves to another cluster, or is renamed, takes its groups along, and its manifest the id.
func TestAnIDThatRanForTheGroupUnderAnotherProcessorHasRun(t *testing.T) {
	s, pool := declared(t, 4)
	request(t, s, processor, asked("x"), asked("waits"))
	set(t, pool, "x", "phase = 'Complete', reset_at = clock_timestamp(), ended_at = clock_timestamp()")
	const moved, unrelated = "elsewhere/default/payments", "test/default/orders"
	request(t, s, moved, asked("x"), asked("waits"))
	row, _ := entry(t, s, moved, "x")
	if row.Phase != tokenstore.ReplaySuperseded || row.Reason != tokenstore.ReplayRanElsewhere || !strings.Contains(row.Message, processor) {
		t.Errorf("%+v", row)
	}
	if row, _ := entry(t, s, moved, "waits"); row.Phase != tokenstore.ReplayPending {
		t.Errorf("one that has not run: %s", row.Phase)
	}
	request(t, s, unrelated, asked("x", of("orders")))
	if row, _ := entry(t, s, unrelated, "x"); row.Phase != tokenstore.ReplayPending {
		t.Errorf("of other groups: %s", row.Phase)
	}
}

func TestReplaysOfNothingButNewGroupsAreSuperseded(t *testing.T) {
	s := postgres.NewStore(migrated(t), postgres.DefaultSchema)
	declare := func(names []string, requests ...tokenstore.ReplayRequest) {
		t.Helper()
		var groups []tokenstore.Group
		for _, name := range names {
			groups = append(groups, tokenstore.Group{Name: name, Segments: 2})
		}
		if err := s.Declare(context.Background(), processor, groups, requests, fromTheStart); err != nil {
			t.Fatal(err)
		}
		request(t, s, processor, requests...)
	}
	first := asked("first", of("a"))
	declare([]string{"a"}, first)
	declare([]string{"a", "b"}, first, asked("new", of("b")), asked("both", of("a", "b")), asked("old", of("a")))
	for id, want := range map[string]tokenstore.ReplayPhase{"first": tokenstore.ReplaySuperseded, "new": tokenstore.ReplaySuperseded,
		"both": tokenstore.ReplayPending, "old": tokenstore.ReplayPending} {
		if row, _ := entry(t, s, processor, id); row.Phase != want {
			t.Errorf("%s: %s, want %s", id, row.Phase, want)
		}
	}
}
