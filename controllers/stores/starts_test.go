package stores

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	storespostgres "github.com/sluice-project/sluice/controllers/stores/postgres"
	"github.com/sluice-project/sluice/progress"
)

// TestASearchForAStartOutlivesTheRoundThatBeganIt has a search take longer than rounds wait: those say what is waited for, and a later one has what it found.
func TestASearchForAStartOutlivesTheRoundThatBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s starts
		release, searches := make(chan struct{}), 0
		find := func(at progress.StartPosition) (progress.Progress, error) {
			round, end := context.WithTimeout(t.Context(), roundTimeout)
			defer end()
			p, err := s.find(t.Context(), round, "view", at, func(ctx context.Context) (progress.Progress, error) {
				searches++
				<-release
				return progress.Progress{Position: 7, State: "8:8:"}, ctx.Err()
			})
			if round.Err() != nil {
				t.Error("the round's time is over when it is told")
			}
			return p, err
		}
		at := progress.StartPosition{Type: progress.AtTimestamp}
		for range 3 {
			var searching *searchingError
			if _, err := find(at); !errors.As(err, &searching) {
				t.Errorf("while it is looked for: %v", err)
			}
		}
		if problem := (Options{Backend: storespostgres.Backend{}}).problemOf(&searchingError{"view", at}, "db"); !problem.Passes || problem.Reason != "Progressing" {
			t.Errorf("it is told as %+v", problem)
		}
		close(release)
		if p, err := find(at); err != nil || p.Position != 7 || searches != 1 {
			t.Errorf("found %v (%v) by %d searches", p, err, searches)
		}
		if p, err := find(at); err != nil || p.Position != 7 || searches != 2 {
			t.Errorf("found %v (%v) by %d searches: what was found is of its time", p, err, searches)
		}
	})
}
